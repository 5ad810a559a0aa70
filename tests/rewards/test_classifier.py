"""Sequence classifiers as rewards: their own logits, alone and in batches, and models that are refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
import transformers

import exptilt as xt
from exptilt.describe import describe
from exptilt.engines.table import TableEngine
from exptilt.errors import ModelError, RewardError, StoreError
from exptilt.rewards import ClassifierReward
from exptilt.samplers.ets import ETS
from exptilt.testing.enumeration import distance, expected_weights, gamma
from tests.rewards.reward_models import ANSWERS, QUESTION, drafts, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def reward(folder: Path) -> ClassifierReward:
    return ClassifierReward(folder)


def directly(folder: Path, text: str) -> np.ndarray:
    """The logits that transformers gives for one chat, alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id  # which a chat template writes itself, once
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": text}]
    ids = tokenizer.apply_chat_template(turns, return_dict=False, return_tensors="pt")
    with torch.no_grad():
        return model(ids).logits[0].double().numpy()


def test_scores_are_the_models_own_logits_alone_and_together(folder: Path) -> None:
    expected = [directly(folder, text)[0] for text in ANSWERS]
    assert np.ptp(expected) > 0.1
    assert ClassifierReward(folder)(QUESTION, drafts(*ANSWERS)) == pytest.approx(expected, abs=1e-5)
    alone, small = ClassifierReward(folder), ClassifierReward(folder, batch_tokens=64)
    assert [alone(QUESTION, drafts(text))[0] for text in ANSWERS] == pytest.approx(expected, abs=1e-5)
    assert small(QUESTION, drafts(*ANSWERS)) == pytest.approx(expected, abs=1e-5)


def test_a_model_without_a_padding_token_reads_rows_one_by_one(tmp_path: Path) -> None:
    save(tmp_path, pad_token_id=None)
    expected = [directly(tmp_path, text)[0] for text in ANSWERS]
    assert ClassifierReward(tmp_path)(QUESTION, drafts(*ANSWERS)) == pytest.approx(expected, abs=1e-5)


def test_texts_are_read_once(folder: Path) -> None:
    reward = ClassifierReward(folder)
    reward(QUESTION, drafts(*ANSWERS, *ANSWERS))
    tokens = reward.work.prompt
    assert (reward.work.forwards, tokens > 0) == (len(ANSWERS), True)
    reward(QUESTION, drafts(*ANSWERS[::-1]))
    assert (reward.work.forwards, reward.work.prompt) == (len(ANSWERS), tokens)
    reward("Another question?", drafts(ANSWERS[0]))
    assert reward.work.forwards == len(ANSWERS) + 1


def test_labels_are_chosen_by_number_or_name(tmp_path: Path) -> None:
    save(tmp_path, labels=3, id2label={0: "bad", 1: "fair", 2: "good"})
    logits = directly(tmp_path, ANSWERS[0])
    share = np.exp(logits) / np.exp(logits).sum()
    cases: dict[Any, float] = {
        (2, "logit"): logits[2],
        ("good", "log-prob"): np.log(share[2]),
        ("bad", "log-odds"): np.log(share[0] / (1 - share[0])),
    }
    for (label, value), expected in cases.items():
        assert ClassifierReward(tmp_path, label=label, value=value)(QUESTION, drafts(ANSWERS[0])) == pytest.approx(
            [expected], abs=1e-5
        )
    for label in (None, 3, "best"):
        with pytest.raises(ValueError, match="'fair': 1"):
            ClassifierReward(tmp_path, label=label)
    with pytest.raises(ValueError, match="say which by label"):
        ClassifierReward(tmp_path, value="log-odds")
    with pytest.raises(ValueError, match="value='probability'"):
        ClassifierReward(tmp_path, label=1, value="probability")  # type: ignore[arg-type]


def test_two_texts_or_a_plain_form_where_they_are_asked_for(tmp_path: Path) -> None:
    save(tmp_path, "bert", template=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        pairs = [model(**tokenizer(QUESTION, text, return_tensors="pt")).logits.item() for text in ANSWERS]
        plain = [model(tokenizer(f"{QUESTION}\n{text}", return_tensors="pt").input_ids).logits.item() for text in ANSWERS]
    assert ClassifierReward(tmp_path, template="pair")(QUESTION, drafts(*ANSWERS)) == pytest.approx(pairs, abs=1e-5)
    form = ClassifierReward(tmp_path, template="{prompt}\n{response}")
    assert form(QUESTION, drafts(*ANSWERS)) == pytest.approx(plain, abs=1e-5)
    with pytest.raises(ModelError, match="has no chat template"):
        ClassifierReward(tmp_path)
    with pytest.raises(ValueError, match=r"no place for \{response\}"):
        ClassifierReward(tmp_path, template="{prompt}")


def test_segments_of_the_two_texts_are_told_apart(tmp_path: Path) -> None:
    save(tmp_path, "bert")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(tmp_path)(QUESTION, ANSWERS[0], return_tensors="pt")
    assert encoded["token_type_ids"].unique().tolist() == [0, 1]
    with torch.no_grad():
        expected = model(**encoded).logits.item()
    found = ClassifierReward(tmp_path, template="pair")(QUESTION, drafts(*ANSWERS))
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_many_threads_share_batches_and_get_their_own_scores(folder: Path, reward: ClassifierReward) -> None:
    prompts = [f"{QUESTION} ({number})" for number in range(24)]
    expected = [ClassifierReward(folder)(prompt, drafts(*ANSWERS)) for prompt in prompts[:3]]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda prompt: reward(prompt, drafts(*ANSWERS)), prompts))
    for ours, alone in zip(found, expected, strict=False):
        assert ours == pytest.approx(alone, abs=1e-5)
    assert len({scores[0] for scores in found}) == len(prompts)


def test_a_long_response_keeps_its_end(folder: Path) -> None:
    reward = ClassifierReward(folder, max_length=200)
    long = "He counts them again and again. " * 40
    seven, eight = reward(QUESTION * 9, drafts(long + "The answer is 7.", long + "The answer is 8."))
    assert seven != pytest.approx(eight, abs=1e-4)
    assert 2 * 180 < reward.work.prompt <= 2 * 200
    with pytest.raises(RewardError, match=r"too long for ClassifierReward\("):
        ClassifierReward(folder, max_length=100, long="refuse")(QUESTION, drafts(long))
    with pytest.raises(RewardError, match="no room for"):
        ClassifierReward(folder, max_length=5)(QUESTION, drafts(long))
    with pytest.raises(ValueError, match="max_length=300: give a whole number from 1 to 256"):
        ClassifierReward(folder, max_length=300)


def test_bfloat16_is_close(folder: Path, reward: ClassifierReward) -> None:
    half = ClassifierReward(folder, dtype="bfloat16")
    assert half(QUESTION, drafts(*ANSWERS)) == pytest.approx(reward(QUESTION, drafts(*ANSWERS)), abs=0.2)
    with pytest.raises(ValueError, match="dtype='int3' is unknown"):
        ClassifierReward(folder, dtype="int3")


def test_a_model_that_was_not_trained_as_a_classifier_is_refused(tmp_path: Path) -> None:
    """transformers draws a missing head at random and only logs it: every score would be noise."""
    save(tmp_path / "causal", "causal")
    with pytest.raises(ModelError, match=r"saved as LlamaForCausalLM .*score\.weight would be drawn at random"):
        ClassifierReward(tmp_path / "causal")
    config = json.loads((tmp_path / "causal" / "config.json").read_text())
    (tmp_path / "causal" / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ModelError, match=r"score\.weight would be drawn at random"):
        ClassifierReward(tmp_path / "causal")
    save(tmp_path / "token", "token", labels=1)
    with pytest.raises(ModelError, match="saved as LlamaForTokenClassification and is not a trained LlamaForSequenceClass"):
        ClassifierReward(tmp_path / "token")
    with pytest.raises(ModelError, match="there is no folder"):
        ClassifierReward(tmp_path / "nowhere")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    save(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight that are not numbers"):
        ClassifierReward(tmp_path)


def test_scores_that_overflow_stop_with_an_error(tmp_path: Path) -> None:
    save(tmp_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        model.score.weight.fill_(3e38)
    model.save_pretrained(tmp_path)
    target = xt.Target(TableEngine(lambda prefix: (0.5, 0.5), 2, 1, symbols=("a", "")), ClassifierReward(tmp_path), beta=1.0)
    with pytest.raises(RewardError, match=r"gives (inf|-inf|nan) for the response"):
        xt.sample(target, "x", xt.Independent(4), seed=0)


def test_settings_name_the_weights_and_not_the_place(folder: Path, tmp_path: Path, reward: ClassifierReward) -> None:
    (tmp_path / "moved").symlink_to(folder)
    assert describe(ClassifierReward(tmp_path / "moved", batch_tokens=64)) == describe(reward)
    json.dumps(describe(reward))
    assert describe(ClassifierReward(save(tmp_path / "other", seed=1))) != describe(reward)
    assert describe(ClassifierReward(folder, max_length=50)) != describe(reward)


def table() -> TableEngine:
    return TableEngine(lambda prefix: (0.5, 0.2, 0.3), 3, 2, symbols=("yes ", "no ", ""))


def test_another_models_results_file_is_refused(folder: Path, tmp_path: Path, reward: ClassifierReward) -> None:
    store = tmp_path / "run.jsonl"
    first = xt.run(xt.Target(table(), reward, 0.5), ["a", "b"], xt.Independent(3), store=store)
    again = xt.run(xt.Target(table(), ClassifierReward(folder), 0.5), ["a", "b"], xt.Independent(3), store=store)
    texts = [[result.text for result in outcomes if isinstance(result, xt.Result)] for outcomes in (first, again)]
    assert (texts[0], len(texts[0])) == (texts[1], 2)
    other = ClassifierReward(save(tmp_path / "other", seed=1))
    with pytest.raises(StoreError, match=r"reward\.weights"):
        xt.run(xt.Target(table(), other, 0.5), ["a"], xt.Independent(3), store=store)


def test_ets_is_exact_for_it(reward: ClassifierReward) -> None:
    """Over all random paths, E[Σ w 1[y]] = p(y)·exp(r(y)/β) for every response y."""
    engine = TableEngine(lambda prefix: (0.6, 0.4), 2, 1, symbols=("yes ", ""))
    target = xt.Target(engine, reward, beta=0.7)
    scores = {tokens: reward("x", drafts("yes " * sum(token == 0 for token in tokens)))[0] for tokens in engine.enumerate()}
    assert len({round(score, 4) for score in scores.values()}) > 1
    exact = gamma(engine.enumerate(), lambda tokens: scores[tokens], 0.7)
    assert distance(expected_weights(ETS(2, 1, 1), target), exact) < 1e-9 * sum(exact.values())


def test_guided_search_on_a_language_model_runs_and_repeats(reward: ClassifierReward) -> None:
    target = xt.Target(xt.load("tiny", max_tokens=24), reward, beta=0.5)
    sampler = xt.ETS(candidates=3, rollouts=2, block=8)
    first, again = (xt.sample(target, QUESTION, sampler, seed=4) for _ in range(2))
    assert first.text == again.text
    assert first.reward == pytest.approx(reward(QUESTION, [first.draft])[0])
    assert xt.sample(target, QUESTION, xt.SMC(particles=3, block=8, value=reward), seed=1).log_z is not None
