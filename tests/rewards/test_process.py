"""Process reward models: P(good) of every step, against transformers read one text at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

import tokenizers
import torch
import transformers

import exptilt as xt
from exptilt.describe import describe
from exptilt.errors import ModelError, RewardError
from exptilt.rewards import FORMATS, ProcessReward, StepFormat
from tests.rewards.reward_models import ANSWERS, QUESTION, drafts, save

SHEPHERD = replace(FORMATS["math-shepherd"], marker=" §\n")  # the tiny tokenizer writes "ки" in bytes; "§" likewise, but shorter


@pytest.fixture(scope="module")
def token_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("token"), "token", labels=2)


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("causal"), "causal")


def read_causal(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


def share(good: torch.Tensor, bad: torch.Tensor) -> float:
    return float(torch.softmax(torch.stack([good, bad]).double(), 0)[0])


def test_token_classifiers_are_read_at_the_end_of_each_marker(token_folder: Path) -> None:
    """As TRL trains them: prompt, steps and separators encoded one by one, the label at the separator's last token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(token_folder)
    model = transformers.AutoModelForTokenClassification.from_pretrained(token_folder).eval()
    reward = ProcessReward(token_folder)
    for text in ANSWERS:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(QUESTION, add_special_tokens=False)]
        expected = []
        for step in text.split("\n"):
            ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
            with torch.no_grad():
                expected.append(share(*model(torch.tensor([ids])).logits[0, -1].flip(0)))
        assert reward.steps(QUESTION, text) == pytest.approx(expected, abs=1e-5)
        assert reward(QUESTION, drafts(text)) == pytest.approx([min(expected)], abs=1e-5)
    assert ProcessReward(token_folder)(QUESTION, drafts(*ANSWERS)) == pytest.approx(reward(QUESTION, drafts(*ANSWERS)), abs=1e-5)


def test_labels_by_name_and_the_other_way_round(token_folder: Path) -> None:
    usual = ProcessReward(token_folder).steps(QUESTION, ANSWERS[2])
    named = ProcessReward(token_folder, StepFormat(good="LABEL_0", bad="LABEL_1")).steps(QUESTION, ANSWERS[2])
    assert named == pytest.approx(1 - usual, abs=1e-6)
    with pytest.raises(ValueError, match="'fine' is not a label"):
        ProcessReward(token_folder, StepFormat(good="fine"))


@pytest.mark.parametrize("template", ["{prompt} {response}", "chat"])
def test_markers_are_read_by_the_law_of_the_next_token(causal_folder: Path, template: str) -> None:
    """Each step in a text that ends with its marker: causal models see no more of it in the whole text."""
    tokenizer, model = read_causal(causal_folder)
    good, bad = (tokenizer.encode(word, add_special_tokens=False)[0] for word in "+-")
    reward = ProcessReward(causal_folder, replace(SHEPHERD, template=template))
    marks: list[list[float]] = []
    for text in ANSWERS:
        marks.append([])
        steps = text.split("\n")
        for count in range(1, len(steps) + 1):
            marked = " §\n".join(steps[:count]) + " §"
            if template == "chat":
                turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": marked}]
                whole = tokenizer.apply_chat_template(turns, tokenize=False)
                ids = tokenizer(whole[: whole.rindex("§") + 1], add_special_tokens=False).input_ids
            else:
                ids = tokenizer(f"{QUESTION} {marked}").input_ids
            with torch.no_grad():
                law = model(torch.tensor([ids])).logits[0, -1]
            marks[-1].append(share(law[good], law[bad]))
        assert reward.steps(QUESTION, text) == pytest.approx(marks[-1], abs=1e-5)
    assert np.ptp([mark for some in marks for mark in some]) > 0.05
    assert reward(QUESTION, drafts(*ANSWERS)) == pytest.approx([min(some) for some in marks], abs=1e-5)


def test_each_step_is_a_turn_that_is_answered_by_good_or_bad(causal_folder: Path) -> None:
    tokenizer, model = read_causal(causal_folder)
    good, bad = (tokenizer.encode(word, add_special_tokens=False)[0] for word in "+-")
    text = ANSWERS[2].replace("\n", "\n\n")
    turns: list[dict[str, str]] = []
    expected = []
    for number, step in enumerate(text.split("\n\n")):
        turns.append({"role": "user", "content": f"{QUESTION} {step}" if number == 0 else step})
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False, return_tensors="pt")
        with torch.no_grad():
            law = model(ids).logits[0, -1]
        expected.append(share(law[good], law[bad]))
        turns.append({"role": "assistant", "content": "+"})
    reward = ProcessReward(causal_folder, "rlhflow", reduce="mean")
    assert reward.steps(QUESTION, text) == pytest.approx(expected, abs=1e-5)
    assert reward(QUESTION, drafts(text)) == pytest.approx([np.mean(expected)], abs=1e-5)


def test_steps_of_a_draft_that_is_not_finished(token_folder: Path) -> None:
    reward = ProcessReward(token_folder, reduce="last")
    whole = reward.steps(QUESTION, ANSWERS[2])
    begun = "\n".join(ANSWERS[2].split("\n")[:2])
    assert reward.steps(QUESTION, begun) == pytest.approx(whole[:2], abs=1e-6)
    assert reward.steps(QUESTION, begun + "\n\n") == pytest.approx(whole[:2], abs=1e-6)
    assert reward(QUESTION, drafts(begun, finish=None)) == pytest.approx([whole[1]], abs=1e-6)
    assert len(reward.steps(QUESTION, "")) == 1
    assert reward("x", drafts("", finish=None)) == pytest.approx(reward.steps("x", ""))


def test_it_guides_as_a_value_of_partial_drafts(token_folder: Path) -> None:
    reward = ProcessReward(token_folder, reduce="last")
    target = xt.Target(xt.load("tiny", max_tokens=24), ProcessReward(token_folder), beta=0.2)
    for sampler in (xt.ETS(candidates=3, block=8, value=reward), xt.SMC(particles=3, block=8, value=reward)):
        first, again = (xt.sample(target, QUESTION, sampler, seed=2) for _ in range(2))
        assert (first.text, first.log_z) == (again.text, again.log_z)
        assert first.log_z is not None
        assert np.isfinite(first.log_z)
    assert "ProcessReward" in str(describe(xt.ETS(candidates=3, block=8, value=reward)))


def test_a_cut_keeps_the_last_steps(token_folder: Path) -> None:
    reward = ProcessReward(token_folder, max_length=80, reduce="last")
    many = "\n".join(["He counts the apples again."] * 60)
    seven, eight = reward(QUESTION, drafts(f"{many}\nSo it is 7.", f"{many}\nSo it is 8."))
    assert seven != pytest.approx(eight, abs=1e-5)
    assert reward.work.prompt <= 2 * 80
    with pytest.raises(RewardError, match="too long"):
        ProcessReward(token_folder, max_length=80, long="refuse")(QUESTION, drafts(many))


def test_only_wanted_logits_are_made_and_texts_are_read_once(causal_folder: Path) -> None:
    reward = ProcessReward(causal_folder, SHEPHERD)
    widths: list[int] = []
    batch: Any = reward._parts.network._scheduler.batch
    batch._model.lm_head.register_forward_hook(lambda module, given, made: widths.append(made.shape[1]))
    reward(QUESTION, drafts(ANSWERS[2], ANSWERS[2]))
    reward(QUESTION, drafts(ANSWERS[2]))
    assert (widths, reward.work.forwards) == ([3], 1)


def test_what_does_not_fit_together_is_refused(token_folder: Path, causal_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="saved as LlamaForCausalLM"):
        ProcessReward(causal_folder)
    with pytest.raises(ModelError, match="saved as LlamaForTokenClassification"):
        ProcessReward(token_folder, "rlhflow")
    with pytest.raises(ValueError, match="words of one token"):
        ProcessReward(causal_folder, replace(SHEPHERD, good="certainly good"))
    with pytest.raises(ModelError, match="has no chat template"):
        ProcessReward(save(tmp_path, "causal", template=False), "rlhflow")
    bad: dict[str, dict[str, Any]] = {
        "layout='rows'": {"layout": "rows"},
        "head='tails'": {"head": "tails"},
        "marker=''": {"marker": ""},
        "asks for an answer in words": {"layout": "turns"},
        "no place for {response}": {"template": "{prompt}"},
    }
    for said, fields in bad.items():
        with pytest.raises(ValueError, match=said):
            StepFormat(**fields)
    with pytest.raises(ValueError, match="format='best' is unknown"):
        ProcessReward(token_folder, "best")
    with pytest.raises(ValueError, match="reduce='max'"):
        ProcessReward(token_folder, reduce="max")  # type: ignore[arg-type]


def test_formats_count_in_results_files(token_folder: Path) -> None:
    usual = describe(ProcessReward(token_folder))
    assert describe(ProcessReward(token_folder, StepFormat())) == usual
    assert describe(ProcessReward(token_folder, StepFormat(separator="\n\n"))) != usual
    assert describe(ProcessReward(token_folder, reduce="mean")) != usual


def test_a_marker_that_the_tokenizer_drops_is_refused(tmp_path: Path) -> None:
    """Some tokenizers have no token for white space: the model would be read at the end of the step instead."""
    save(tmp_path, "token", labels=2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Strip()
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no token for the marker"):
        ProcessReward(tmp_path)
    with pytest.raises(RewardError, match="no token for the end of the marker"):
        ProcessReward(tmp_path, StepFormat(layout="text")).steps(QUESTION, "One step.")
