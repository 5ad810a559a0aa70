"""Bias, penalties, min_p and stop tokens: against transformers' own processors, and against all responses enumerated."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exptilt.core import Target
from exptilt.engines import distribution_numpy
from exptilt.engines.adjustments import Before, adjustments
from exptilt.engines.language import LanguageEngine
from exptilt.engines.loading import load
from exptilt.engines.sampling import Sampling
from exptilt.errors import TargetError
from exptilt.keys import Key
from exptilt.proposals import check_cover
from exptilt.running.run import sample
from exptilt.samplers import SMC, SuffixMCMC
from exptilt.testing.engines import CHECKS, EngineContract
from tests.engines.laws import check_law

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from exptilt.engines.distribution_torch import Laws, adjust, supported  # noqa: E402
from exptilt.engines.hf import Weights  # noqa: E402

END = 2
PROMPT = (3, 4, 4)
LAWS: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.7},
    "less than one": {"repetition_penalty": 0.6, "temperature": 0.8},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": -1.2, "temperature": 1.4},
    "bias": {"logit_bias": {3: 2.5, END: -4.0}},
    "min_p": {"min_p": 0.3, "temperature": 1.2},
    "all": {
        "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.7, "logit_bias": {5: -1.0, 4: 1.0},
        "min_p": 0.05, "top_k": 5, "top_p": 0.95, "temperature": 1.3,
    },
}  # fmt: skip


class Letters:
    """A tokenizer of six tokens: <bos>, <pad>, <end>, a, b, c."""

    chat_template, bos_token_id, eos_token_id = None, None, END
    texts = ("", "", "", "a", "b", "c")

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        return transformers.BatchEncoding({"input_ids": [self.texts.index(letter) for letter in text]})

    def get_vocab(self) -> dict[str, int]:
        return {text or f"<{token}>": token for token, text in enumerate(self.texts)}

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return "".join(self.texts[token] for token in tokens)

    def batch_decode(self, responses: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return [self.decode(tokens) for tokens in responses]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=6, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=64, initializer_range=0.6, bos_token_id=None, eos_token_id=END, pad_token_id=1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def weights(model: Any) -> Any:
    return Weights(model, Letters(), name="letters")


def engine_of(weights: Any, **law: Any) -> LanguageEngine[Any]:
    return LanguageEngine(weights, Sampling(max_tokens=4, **law))


def processed(logits: Any, tokens: Sequence[int], prompt: int, law: Mapping[str, Any]) -> Any:
    """The next token's log-probabilities by transformers' processors; the two penalties of OpenAI by their definition."""
    processors = transformers.LogitsProcessorList()
    if bias := law.get("logit_bias"):
        processors.append(transformers.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()]))
    if (penalty := law.get("repetition_penalty", 1.0)) != 1:
        processors.append(transformers.RepetitionPenaltyLogitsProcessor(penalty))
    ids = torch.tensor([list(tokens)])
    scores = processors(ids, logits[None].clone())
    for token in tokens[prompt:]:
        scores[0, token] -= law.get("frequency_penalty", 0.0)
    for token in set(tokens[prompt:]):
        scores[0, token] -= law.get("presence_penalty", 0.0)
    warpers = transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(law.get("temperature", 1.0))])
    for name, kind in (
        ("top_k", transformers.TopKLogitsWarper),
        ("top_p", transformers.TopPLogitsWarper),
        ("min_p", transformers.MinPLogitsWarper),
    ):
        if name in law:
            warpers.append(kind(law[name]))
    return warpers(ids, scores)[0].double().log_softmax(-1)


_known: dict[str, dict[tuple[int, ...], float]] = {}


def enumerated(model: Any, law: Mapping[str, Any], cap: int = 4) -> dict[tuple[int, ...], float]:
    """Every response with its log-probability, each prefix by one plain pass of the model; found once for each law."""
    if repr(law) not in _known:
        _known[repr(law)] = _enumerated(model, law, cap)
    return _known[repr(law)]


def _enumerated(model: Any, law: Mapping[str, Any], cap: int) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = {}
    open_ended: dict[tuple[int, ...], float] = {(): 0.0}
    while open_ended:
        tokens, log_p = open_ended.popitem()
        text = (*PROMPT, *tokens)
        with torch.inference_mode():
            logits = model(torch.tensor([text])).logits[0, -1]
        for token, value in enumerate(processed(logits, text, len(PROMPT), law).tolist()):
            grown = (*tokens, token)
            if value > -np.inf:
                (found if token == END or len(grown) == cap else open_ended)[grown] = log_p + value
    return found


@pytest.mark.parametrize("name", LAWS)
def test_scores_are_those_of_transformers_and_sum_to_one(name: str, model: Any, weights: Any):
    law, engine = enumerated(model, LAWS[name]), engine_of(weights, **LAWS[name])
    plain = enumerated(model, {})
    assert max(abs(np.exp(law.get(each, -np.inf)) - np.exp(value)) for each, value in plain.items()) > 0.01, (
        "it changes something"
    )
    start = engine.start("abb")
    drafts = [type(start)("abb", tokens, None, "", "stop") for tokens in law]
    found = [float(score.sum()) for score in engine.score(drafts)]
    assert found == pytest.approx([*law.values()], abs=1e-4)
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("blocks", [None, 1])
def test_draws_follow_them_also_in_blocks_and_merged_rows(name: str, blocks: int | None, model: Any, weights: Any):
    """Rows of equal tokens share one forward, and a continued draft has its penalties from the tokens before the call."""
    law, engine = enumerated(model, LAWS[name]), engine_of(weights, **LAWS[name])
    drafts = [engine.start("abb")] * 600
    for step in range(4 if blocks else 1):
        drafts = engine.extend(drafts, [Key(1, step, i) for i in range(len(drafts))], blocks)
    for draft in drafts:
        assert draft.logq is not None
        assert sum(draft.logq) == pytest.approx(law[draft.tokens], abs=1e-4)
    check_law(drafts, {tokens: np.exp(value) for tokens, value in law.items()}, lambda draft: draft.tokens)


def test_without_shared_forwards_they_are_the_same(model: Any, weights: Any):
    slow = Weights(model, Letters(), name="letters", fast=False)
    keys = [Key(5, i) for i in range(40)]
    found = [engine_of(each, **LAWS["all"]).extend([engine_of(each).start("abb")] * 40, keys) for each in (weights, slow)]
    assert [draft.tokens for draft in found[0]] == [draft.tokens for draft in found[1]]


@pytest.mark.parametrize("check", list(CHECKS))
def test_the_contract_of_engines(check: str, weights: Any):
    engine = LanguageEngine(weights, Sampling(max_tokens=10, **{**LAWS["all"], "top_p": 1.0}))
    case = EngineContract(engine, ["abb", "c", "ba", "abcabc"], tolerance=1e-4, singles=32, draws=600)
    if not CHECKS[check].applies(case):
        pytest.skip("it does not concern this engine")
    CHECKS[check].run(case)


def test_a_sampler_over_them_is_exact(model: Any, weights: Any):
    """log Z of a reward by SMC, from draws and scores in blocks, against the sum over all responses."""
    law = enumerated(model, LAWS["all"])
    exact = np.log(sum(np.exp(value + tokens.count(3)) for tokens, value in law.items()))
    target = Target(engine_of(weights, **LAWS["all"]), lambda prompt, drafts: [float(d.tokens.count(3)) for d in drafts], 1.0)
    found = [sample(target, "abb", SMC(64, block=1), seed=seed).log_z for seed in range(12)]
    assert abs(np.mean(np.exp(np.array(found) - exact)) - 1) < 5 * np.std(np.exp(np.array(found) - exact)) / np.sqrt(12)
    assert sample(target, "abb", SuffixMCMC(steps=3, chains=4), seed=0).population


def test_numpy_has_the_same_distributions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 40)).astype(np.float32) * 3
    tokens = [rng.integers(0, 40, size=9).tolist() for _ in range(7)]
    laws = [Sampling(**law) for law in LAWS.values()]
    changes = adjustments(Before(law, 4, seen) for law, seen in zip(laws, tokens, strict=True))
    shifted, _ = supported(adjust(torch.from_numpy(logits), changes), Laws.of(laws, 40, torch.device("cpu")))
    wanted = shifted.double().log_softmax(-1).numpy()
    changed = distribution_numpy.adjust(logits, changes)
    for row, (law, want) in enumerate(zip(laws, wanted, strict=True)):
        found = distribution_numpy.log_probability(changed[[row] * 40], range(40), law)[:, 0]
        assert found == pytest.approx(want, abs=2e-5)
        exact = processed(torch.from_numpy(logits[row]), tokens[row], 4, [*LAWS.values()][row]).numpy()
        assert found == pytest.approx(exact, abs=2e-5)


def test_a_model_that_is_read_whole_has_them_too(model: Any):
    whole = Weights(model, Letters(), name="whole", fast=False)
    whole.network.caches = False
    law, engine = enumerated(model, LAWS["all"]), engine_of(whole, **LAWS["all"])
    for draft in engine.extend([engine.start("abb")] * 50, [Key(2, i) for i in range(50)]):
        assert sum(draft.logq or ()) == pytest.approx(law[draft.tokens], abs=1e-4)
        assert engine.score([draft])[0].sum() == pytest.approx(law[draft.tokens], abs=1e-4)


# ------------------------------------------------------------------------------------------------------- stop tokens


def test_stop_tokens_end_a_response_and_are_not_in_its_text(weights: Any):
    engine = LanguageEngine(weights, Sampling(max_tokens=12, stop_token_ids=[4]))
    drafts = engine.extend([engine.start("abb")] * 60, [Key(0, i) for i in range(60)])
    stopped = [draft for draft in drafts if draft.tokens[-1] == 4]
    assert stopped
    assert all(draft.finish == "stop" and "b" not in draft.text for draft in drafts if draft.tokens[-1] == 4)
    assert all(4 not in draft.tokens[:-1] for draft in drafts)
    again = engine.extend(stopped, [Key(9)] * len(stopped))
    assert again == stopped
    steps = [engine.start("abb")] * 60
    for step in range(12):
        steps = engine.extend(steps, [Key(3, step, i) for i in range(60)], 1)
    assert all(draft.text == "".join("" if t < 3 or t == 4 else Letters.texts[t] for t in draft.tokens) for draft in steps)


def test_a_special_token_as_a_stop_string(chat_folder: Path):
    """Its text is in no response, so the token itself must stop."""
    by_text = load(f"hf:{chat_folder}", max_tokens=60, stop="<pad>")
    by_id = load(f"hf:{chat_folder}", max_tokens=60, stop_token_ids=[0])
    keys = [Key(0, i) for i in range(80)]
    one, other = (engine.extend([engine.start("one")] * 80, keys) for engine in (by_text, by_id))
    assert [draft.tokens for draft in one] == [draft.tokens for draft in other]
    assert any(draft.tokens[-1] == 0 for draft in one)
    assert all(draft.finish == "stop" for draft in one if 0 in draft.tokens)


# ------------------------------------------------------------------------------------------------ values and settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_p": -0.1}, "min_p=-0.1 must be from 0 to 1"),
        ({"min_p": 1.5}, "min_p=1.5"),
        ({"stop_token_ids": [-1]}, "stop_token_ids=.* whole numbers from 0 on"),
        ({"stop_token_ids": ["<end>"]}, "stop_token_ids="),
        ({"repetition_penalty": 0}, "repetition_penalty=0 must be positive"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"presence_penalty": 3}, "presence_penalty=3 must be from -2 to 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty=nan"),
        ({"logit_bias": {5: 200}}, "numbers from -100 to 100"),
        ({"logit_bias": {-5: 2}}, "ids from 0 on"),
        ({"logit_bias": {"a": 2}}, "must map ids of tokens to numbers"),
        ({"logit_bias": 7}, "must map ids of tokens to numbers"),
        ({"logit_bias": {5000: 1.0}}, "logit_bias names the token 5000, but .* has 0 to"),
        ({"stop_token_ids": [5000]}, "stop_token_ids names the token 5000"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str, model_folder: Path):
    with pytest.raises(ValueError, match=message):
        load(f"hf:{model_folder}", max_tokens=8, **changes)


def test_settings_name_what_is_on_and_nothing_else():
    """A results file of a run without them has no such settings, and must still be resumed."""
    assert {*Sampling().settings()} == {"temperature", "top_p", "top_k", "max_tokens", "stop"}
    told = Sampling(logit_bias={"7": 1, 3: -2}, stop_token_ids=[9], min_p=0.1, presence_penalty=1.0).settings()
    assert json.loads(json.dumps(told)) == told
    assert (told["logit_bias"], told["stop_token_ids"], told["min_p"]) == ({"3": -2.0, "7": 1.0}, [9], 0.1)
    assert "repetition_penalty" not in told
    assert Sampling(logit_bias={"7": 1, 3: -2}) == Sampling(logit_bias=[(3, -2.0), (7, 1.0)])
    assert len({Sampling(logit_bias={7: 1}), Sampling(logit_bias={7: 1}), Sampling(logit_bias={7: 2})}) == 2


COVERS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"min_p": 0.1}, {"min_p": 0.05}, True),
    ({"min_p": 0.05}, {"min_p": 0.1}, False),
    ({"min_p": 0.1}, {"min_p": 0.1, "temperature": 2.0}, True),
    ({"min_p": 0.1, "temperature": 2.0}, {"min_p": 0.1}, False),
    ({}, {"min_p": 0.1}, False),
    ({"min_p": 0.1}, {}, True),
    ({"stop_token_ids": [5]}, {}, False),
    ({"stop_token_ids": [5]}, {"stop_token_ids": [5]}, True),
    ({"repetition_penalty": 1.2}, {}, True),
]


@pytest.mark.parametrize(("ours", "theirs", "covers"), COVERS)
def test_proposals_that_lack_something_are_refused(ours: Any, theirs: Any, covers: bool, weights: Any):
    engine, proposal = engine_of(weights, **ours), engine_of(weights, **theirs)
    if covers:
        check_cover(engine, proposal)
    else:
        with pytest.raises(TargetError, match="Give"):
            check_cover(engine, proposal)


@pytest.mark.parametrize(
    "option", ["repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "stop_token_ids"]
)
def test_masked_models_refuse_what_depends_on_a_prefix(option: str):
    asked: dict[str, Any] = {option: 1.5}
    with pytest.raises(ValueError, match=rf"{option}: 'tiny-mdlm' decides positions in any order"):
        load("tiny-mdlm", **asked)


def test_masked_models_have_min_p():
    from exptilt.engines.diffusion import DiffusionSampling

    assert "min_p" not in DiffusionSampling().settings()
    assert DiffusionSampling(min_p=0.2).settings()["min_p"] == 0.2
    assert DiffusionSampling(min_p=0.2).truncated
    with pytest.raises(ValueError, match="min_p=2"):
        DiffusionSampling(min_p=2)
    one = load("tiny-mdlm", max_tokens=8, block=4, order="left", temperature=1.5, min_p=1.0)
    greedy = load("tiny-mdlm", max_tokens=8, block=4, order="left", temperature=1.5, top_k=1)
    for engine, other in itertools.permutations([one, greedy]):
        [draft] = engine.extend([engine.start("Tom has 3 apples.")], [Key(0)])
        assert other.score([draft])[0].sum() == pytest.approx(0.0, abs=1e-4)
