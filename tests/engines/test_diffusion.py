"""The masked-diffusion engine: laws against enumeration, scores against draws, rows independent of their neighbours."""

from __future__ import annotations

import itertools
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import exptilt as xt
from exptilt.core import Work
from exptilt.draft import MASK
from exptilt.errors import CapabilityError, ModelError, PromptError, TargetError
from exptilt.evaluation.tasks.word_problems import word_problems

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from exptilt.engines.checkpoints import Repository
from exptilt.engines.diffusion import DiffusionSampling, MaskedWeights
from exptilt.engines.diffusion.loading import find_ends, find_mask
from exptilt.engines.language import LanguageEngine

WORDS = ("<end>", "a", "b", "<mask>")
END, MASKED = 0, 3
DENSE = ("left", "random", "max-probability", "margin", "entropy")
CHUNK = 500  # draws per call


class Filler(torch.nn.Module):
    """A model of random weights with the forward interface of LLaDA: ids in, `.logits` out, reading in both directions.

    It takes an attention mask and pays no heed to it, as LLaDA does, so padding would change what it says.
    """

    def __init__(self, vocabulary: int = len(WORDS), width: int = 16, seed: int = 0, *, heeds: bool = False) -> None:
        torch.nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(seed)
        self.config = SimpleNamespace(max_position_embeddings=64, model_type="filler", to_diff_dict=lambda: {"seed": seed})
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.places = torch.nn.Embedding(64, width)
        self.mix = torch.nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = torch.nn.Linear(width, vocabulary)
        self.heeds = heeds
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                scale = 1.0 if name.startswith(("embed", "places")) else 0.4
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        hidden = self.embed(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        padding = attention_mask == 0 if self.heeds and attention_mask is not None else None
        hidden = hidden + torch.tanh(self.mix(hidden, hidden, hidden, key_padding_mask=padding, need_weights=False)[0])
        return SimpleNamespace(logits=self.head(hidden))


def word_tokenizer(words: tuple[str, ...] = WORDS) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", mask_token="<mask>")


def filler(
    sampling: DiffusionSampling, *, seed: int = 0, thin: bool = True, shifted: bool = False, **model: Any
) -> LanguageEngine[Any]:
    weights = MaskedWeights(
        Filler(seed=seed, **model), word_tokenizer(), mask=MASKED, ends=[END], name="filler", thin=thin, shifted=shifted
    )  # fmt: skip
    return LanguageEngine(weights, sampling)


def keys(count: int, *path: int | str) -> list[xt.Key]:
    return [xt.Key(7, *path, i) for i in range(count)]


def draws(engine: LanguageEngine[Any], count: int, pieces: int | None = None, prompt: str = "a b") -> list[xt.Draft]:
    """Independent draws; with `pieces` every draft is extended by that many decisions at a time."""
    drafts = []
    for chunk in range(math.ceil(count / CHUNK)):
        some = [engine.start(prompt)] * CHUNK
        for turn in range(1 if pieces is None else engine.max_tokens):
            some = engine.extend(some, keys(CHUNK, chunk, turn), pieces)
        drafts += some
    assert all(draft.finish is not None for draft in drafts)
    return drafts


# ------------------------------------------------------------------------------- the law, written out a second time


class Oracle:
    """The law of paths computed from the module's documentation alone, by recursion over every outcome of every step."""

    def __init__(self, engine: LanguageEngine[Any], prompt: tuple[int, ...] = (1, 2)) -> None:
        self.engine, self.law, self.prompt = engine, engine.sampling, prompt

    def probabilities(self, state: tuple[int, ...]) -> np.ndarray:
        """float64 [positions, vocabulary]."""

        def logits(prompt: tuple[int, ...]) -> np.ndarray:
            ids = [*prompt, *[MASKED if token == MASK else token for token in state]]
            with torch.inference_mode():
                found = self.engine.backend.model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
            first = len(prompt) - self.engine.backend.network.shifted
            return found[first : first + len(state)]

        values = logits(self.prompt)
        if self.law.guidance:
            blind = logits((MASKED,) * len(self.prompt))
            values = blind + (1 + self.law.guidance) * (values - blind)
        values = values / self.law.temperature
        values[:, MASKED] = -math.inf
        return np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)

    def sets(self, state: tuple[int, ...], first: int, last: int) -> list[tuple[float, list[int]]]:
        """The sets of holes that the next step may take, with their chances."""
        holes = [place for place in range(first, last) if state[place] == MASK]
        p = self.probabilities(state)
        size = min(self.law.per_step, len(holes))
        if self.law.threshold is not None:
            sure = [p[place].max() >= self.law.threshold for place in holes]
            run = next((i for i, enough in enumerate(sure) if not enough), len(sure))
            size = max(size, run if self.law.order == "left" else sum(sure))
        if self.law.order == "random":
            some = list(itertools.combinations(holes, size))
            return [(1 / len(some), list(chosen)) for chosen in some]
        measure = {
            "left": lambda place: -place,
            "max-probability": lambda place: p[place].max(),
            "margin": lambda place: np.sort(p[place])[-1] - np.sort(p[place])[-2],
            "entropy": lambda place: float(np.sum(p[place][p[place] > 0] * np.log(p[place][p[place] > 0]))),
        }[self.law.order]
        return [(1.0, sorted(holes, key=measure, reverse=True)[:size])]

    def enumerate(self) -> dict[tuple[int, ...], float]:
        """Probability of every finished response, holes included."""
        total: dict[tuple[int, ...], float] = {}
        self._walk((MASK,) * self.law.max_tokens, 1.0, total)
        assert sum(total.values()) == pytest.approx(1.0)
        return total

    def _walk(self, state: tuple[int, ...], mass: float, total: dict[tuple[int, ...], float]) -> None:
        size = self.law.block or self.law.max_tokens
        done = sum(token != MASK for token in state)
        if done and (done % size == 0 or done == len(state)):
            block = state[(done - 1) // size * size : done]
            if END in block or done == len(state):
                total[state] = total.get(state, 0.0) + mass
                return
        first = done // size * size
        p = self.probabilities(state)
        for chance, places in self.sets(state, first, min(first + size, len(state))):
            for tokens in itertools.product((0, 1, 2), repeat=len(places)):
                filled = list(state)
                for place, token in zip(places, tokens, strict=True):
                    filled[place] = token
                product = math.prod(p[place][token] for place, token in zip(places, tokens, strict=True))
                self._walk(tuple(filled), mass * chance * product, total)


def check_law(drafts: list[xt.Draft], law: dict[tuple[int, ...], float]) -> None:
    """Frequencies within five standard errors of the law, outcome by outcome, and nothing else drawn.

    Outcomes that are expected fewer than ten times count as one: their frequencies are far from normal.
    """
    assert {draft.tokens for draft in drafts} <= set(law)
    common = {tokens for tokens, p in law.items() if p * len(drafts) >= 10}
    counts: dict[tuple[int, ...], int] = {}
    for draft in drafts:
        tokens = draft.tokens if draft.tokens in common else ()
        counts[tokens] = counts.get(tokens, 0) + 1
    pooled = {tokens: law[tokens] for tokens in common}
    for tokens, p in {**pooled, (): max(0.0, 1 - sum(pooled.values()))}.items():
        assert abs(counts.get(tokens, 0) / len(drafts) - p) <= 5 * math.sqrt(p * (1 - p) / len(drafts)) + 1e-9, tokens


LAWS = {
    **{f"{order}, one at a time": DiffusionSampling(max_tokens=3, block=None, order=order) for order in DENSE},  # type: ignore[arg-type]
    **{f"{order}, two at a time": DiffusionSampling(max_tokens=3, block=None, per_step=2, order=order) for order in DENSE},  # type: ignore[arg-type]
    "blocks": DiffusionSampling(max_tokens=4, block=2),
    "blocks that do not fit": DiffusionSampling(max_tokens=3, block=2, per_step=3, temperature=2.0),
    "threshold": DiffusionSampling(max_tokens=4, block=3, threshold=0.6),
    "threshold from the left": DiffusionSampling(max_tokens=3, block=None, threshold=0.5, order="left"),
    "guidance": DiffusionSampling(max_tokens=3, block=None, guidance=0.7),
}  # fmt: skip


@pytest.mark.parametrize("pieces", [None, 1], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", LAWS)
def test_draws_follow_the_enumerated_law(name: str, pieces: int | None) -> None:
    """Also where every decision is a call of its own: a draft that was cut within a step goes on as if it had not been."""
    engine = filler(LAWS[name], seed=3)
    check_law(draws(engine, 3000, pieces), Oracle(engine).enumerate())


def test_from_the_left_a_sure_hole_behind_an_unsure_one_waits() -> None:
    """With a threshold "left" takes the first holes up to the first unsure one; counting all sure ones took that one too.

    The threshold is put between the first position's surest token and the second's, so that only the second is sure.
    """
    met = 0
    for seed in range(30):
        first, second, _ = Oracle(filler(LAWS["threshold from the left"], seed=seed)).probabilities((MASK,) * 3).max(axis=1)
        if second - first < 0.02:
            continue
        met += 1
        sampling = DiffusionSampling(max_tokens=3, block=None, order="left", threshold=float(first + second) / 2)
        engine = filler(sampling, seed=seed)
        for draft, score in zip(drafts := engine.extend([engine.start("a b")] * 4, keys(4)), engine.score(drafts), strict=True):
            assert draft.order == (0, 1, 2)
            after_first = Oracle(engine).probabilities((draft.tokens[0], MASK, MASK))[1, draft.tokens[1]]
            assert draft.logq is not None
            assert draft.logq[1] == pytest.approx(math.log(after_first), abs=1e-5)  # drawn in a step of its own
            assert np.allclose(score, draft.logq, atol=1e-5)
    assert met > 5


def test_shifted_logits_and_whole_logits_follow_the_law() -> None:
    for options in ({"shifted": True}, {"thin": False}, {"heeds": True}):
        engine = filler(LAWS["max-probability, one at a time"], seed=3, **options)
        check_law(draws(engine, 2000), Oracle(engine).enumerate())


def test_low_confidence_keeps_the_surest_of_the_drawn_tokens() -> None:
    engine = filler(DiffusionSampling(max_tokens=2, block=None, order="low-confidence"), seed=3)
    oracle, law = Oracle(engine), {}
    p = oracle.probabilities((MASK, MASK))
    for one, two in itertools.product((0, 1, 2), repeat=2):
        kept = (one, MASK) if p[0, one] >= p[1, two] else (MASK, two)
        after = oracle.probabilities(kept)[kept.index(MASK)]
        for token in (0, 1, 2):
            filled = tuple(token if place == MASK else place for place in kept)
            law[filled] = law.get(filled, 0.0) + p[0, one] * p[1, two] * after[token]
    drafts = draws(engine, 3000)
    check_law(drafts, law)
    assert all(draft.logq is None for draft in drafts)


@pytest.mark.parametrize("name", LAWS)
def test_recorded_log_probabilities_are_those_of_the_law_and_of_score(name: str) -> None:
    engine = filler(LAWS[name], seed=5)
    law = Oracle(engine)
    drafts = engine.extend([engine.start("a b")] * 40, keys(40))
    for draft, score in zip(drafts, engine.score(drafts), strict=True):
        assert draft.logq is not None
        assert np.allclose(score, draft.logq, atol=1e-5)
        assert len(draft.logq) == draft.decided
    if law.law.per_step == 1 and law.law.threshold is None:
        for draft in drafts:
            state = [MASK] * engine.max_tokens
            for place, logq in zip(draft.order or (), draft.logq or (), strict=True):
                assert math.log(law.probabilities(tuple(state))[place, draft.tokens[place]]) == pytest.approx(logq, abs=1e-5)
                state[place] = draft.tokens[place]


def test_score_of_cut_drafts_is_the_beginning_of_the_whole_score() -> None:
    for name in ("blocks", "threshold", "threshold from the left", "max-probability, two at a time"):
        engine = filler(LAWS[name], seed=5)
        [draft] = engine.extend([engine.start("a b")], keys(1))
        [whole] = engine.score([draft])
        parts = engine.score([draft.cut(count) for count in range(draft.decided)])
        assert all(np.allclose(part, whole[: len(part)], atol=1e-6) for part in parts)


def test_a_coarse_law_is_rescored_by_the_fine_one_along_its_order() -> None:
    """What ETS-IS needs: E_q[p/q] = 1 for a fixed order, the reference deciding one at a time, the proposal three."""
    fine = filler(DiffusionSampling(max_tokens=3, block=None, order="left"), seed=3)
    coarse = fine.with_sampling(per_step=3)
    assert fine.alphabet == coarse.alphabet
    drafts = coarse.extend([coarse.start("a")] * 2000, keys(2000))
    ratios = np.exp([score.sum() - sum(draft.logq or ()) for draft, score in zip(drafts, fine.score(drafts), strict=True)])
    assert ratios.std() > 0.01
    assert abs(ratios.mean() - 1) < 5 * ratios.std() / len(ratios) ** 0.5


# ----------------------------------------------------------------------------------------- batches, keys and work


@pytest.mark.parametrize("heeds", [True, False], ids=["padded", "by length"])
def test_a_row_does_not_depend_on_its_neighbours(heeds: bool) -> None:
    engine = filler(DiffusionSampling(max_tokens=6, block=3), seed=6, heeds=heeds)
    assert engine.backend.network._pads is heeds
    prompts = ["a", "a b", "b b a b", "a b", "b"] * 4
    together = engine.extend([engine.start(prompt) for prompt in prompts], keys(20))
    alone = [engine.extend([engine.start(prompt)], [key])[0] for prompt, key in zip(prompts, keys(20), strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        assert np.allclose(one.logq or (), other.logq or (), atol=1e-5)


def test_threads_share_a_batch_and_keep_their_draws() -> None:
    engine = filler(DiffusionSampling(max_tokens=6, block=3, order="random"), seed=6)
    wanted = engine.extend([engine.start("a b")] * 24, keys(24))
    found: list[xt.Draft | None] = [None] * 24

    def work(i: int) -> None:
        law = engine if i % 2 else engine.with_sampling(order="random")
        [found[i]] = law.extend([law.start("a b")], [keys(24)[i]])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [draft and draft.tokens for draft in found] == [draft.tokens for draft in wanted]


def test_work_counts_evaluations_and_shares_equal_states() -> None:
    work = Work()
    engine = filler(DiffusionSampling(max_tokens=6, block=None, per_step=2, order="left")).metered(work)
    engine.extend([engine.start("a")], keys(1))
    assert (work.generated, work.forwards, work.scored) == (6, 3, 0)
    engine.extend([engine.start("a")] * 5, keys(5), 2)  # five candidates look at the same empty response
    assert (work.generated, work.forwards) == (16, 4)
    [draft] = engine.extend([engine.start("a")], keys(1))
    engine.score([draft])
    assert (work.scored, work.forwards) == (6, 10)


# --------------------------------------------------------------------------------------------------- ends and errors


def test_the_text_ends_at_the_first_end_and_later_blocks_stay_open() -> None:
    engine = filler(DiffusionSampling(max_tokens=8, block=2), seed=3)
    drafts = engine.extend([engine.start("a b")] * 200, keys(200))
    stopped = [draft for draft in drafts if draft.finish == "stop"]
    assert len(stopped) > 50
    assert {draft.finish for draft in drafts} == {"stop", "length"}
    for draft in stopped:
        decided = draft.tokens[: draft.decided]
        assert draft.decided % 2 == 0
        assert MASK not in decided
        assert END in decided[-2:]
        assert END not in decided[:-2]
        assert set(draft.tokens[draft.decided :]) <= {MASK}
        assert draft.text.split() == [WORDS[token] for token in decided[: decided.index(END)]]
    assert engine.extend(stopped[:3], keys(3)) == stopped[:3]


def test_low_confidence_tells_what_it_cannot_do() -> None:
    engine = filler(DiffusionSampling(max_tokens=4, block=None, per_step=2, order="low-confidence"))
    assert engine.can == {"continue"}
    assert engine.with_sampling(order="left").can == {"continue", "logq", "score"}
    with pytest.raises(CapabilityError, match="depend on the drawn tokens"):
        engine.score(engine.extend([engine.start("a")], keys(1)))
    target = xt.Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0, proposal=engine)
    with pytest.raises(CapabilityError, match=r"\['logq'\] is missing|\['score'\] is missing"):
        xt.sample(target, "a", xt.ETS(2, 1, 2))
    with pytest.raises(CapabilityError, match="within a step"):
        engine.extend([engine.start("a")], keys(1), 1)
    [draft] = engine.extend([engine.start("a")], keys(1))
    with pytest.raises(CapabilityError, match="SuffixMCMC needs"):
        engine.extend([draft.cut(3)], keys(1))
    assert engine.extend([draft.cut(2)], keys(1))[0].finish is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature=0 must be positive"),
        ({"per_step": 0}, "per_step=0 must be a whole number"),
        ({"block": 0}, "block=0 .* or None"),
        ({"order": "best"}, "order='best' is unknown: give one of left"),
        ({"cache": "all"}, "cache='all' is unknown: give one of none, prefix, dual"),
        ({"threshold": 1.5}, "threshold=1.5 must be a probability"),
        ({"threshold": 0.9, "order": "margin"}, 'goes with order="max-probability" or "left"'),
        ({"guidance": math.inf}, "guidance=inf"),
        ({"max_tokens": 64}, "leaves no room"),
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filler(DiffusionSampling(max_tokens=4)).with_sampling(**changes)


def test_foreign_drafts_and_prompts_are_refused() -> None:
    engine = filler(DiffusionSampling(max_tokens=4, block=2))
    with pytest.raises(ValueError, match="without it: start drafts"):
        engine.score([xt.Draft("a", (1, 2, 1, 2), (0.0,) * 4)])
    with pytest.raises(ValueError, match="not one of 3 with it"):
        engine.score([xt.Draft("a", (1, 2, 1), (0.0,) * 3, order=(0, 1, 2))])
    with pytest.raises(ValueError, match="decision 1 of a draft is at position 3"):
        engine.score([xt.Draft("a", (1, MASK, MASK, 2), (0.0,) * 2, order=(0, 3))])
    with pytest.raises(ValueError, match="tokens from 9 to 9, but filler has 0 to 3"):
        engine.score([xt.Draft("a", (9, MASK, MASK, MASK), (0.0,), order=(0,))])
    with pytest.raises(ValueError, match="decision 0 of a draft has no token"):
        engine.score([xt.Draft("a", (MASK,) * 4, (0.0,), order=(0,))])
    with pytest.raises(PromptError, match="empty"):
        engine.start(" ")
    with pytest.raises(PromptError, match="shorten the prompt"):
        engine.start("a " * 80)
    with pytest.raises(TargetError, match="alphabet"):
        xt.Target(engine, lambda prompt, drafts: [0.0] * len(drafts), 1.0, proposal=engine.with_sampling(block=4))


def test_mask_and_ends_are_read_not_assumed() -> None:
    config, tokenizer = SimpleNamespace(mask_token_id=12, eos_token_id=[3, 4]), word_tokenizer()
    assert find_mask(config, tokenizer, "x") == 12
    assert find_mask(SimpleNamespace(), tokenizer, "x") == MASKED
    assert find_ends(config, tokenizer, SimpleNamespace()) == {0, 3, 4}
    with pytest.raises(ModelError, match="mask=ID"):
        find_mask(SimpleNamespace(), SimpleNamespace(), "x")


class HandsOn(Filler):
    """A model that hands its mask to torch's attention as it is, as Dream does: whole numbers for keys alone fail there."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> SimpleNamespace:
        hidden = self.embed(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        heads = hidden[:, None]
        seen = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=attention_mask)[:, 0]
        return SimpleNamespace(logits=self.head(torch.tanh(hidden + seen)))


def test_a_model_that_hands_its_mask_on_is_tried_with_masks_of_pairs() -> None:
    """Dream failed at load: "Expected attn_mask dtype to be bool or float"."""
    weights = MaskedWeights(HandsOn(), word_tokenizer(), mask=MASKED, ends=[END], name="hands on")
    engine = LanguageEngine(weights, DiffusionSampling(max_tokens=6))
    assert weights.network._pads
    started = [engine.start(prompt) for prompt in ("a", "a b c b a b c", "b a")]
    for together, draft, key in zip(engine.extend(started, keys(3)), started, keys(3), strict=True):
        [alone] = engine.extend([draft], [key])
        assert together.tokens == alone.tokens
        assert together.logq == pytest.approx(alone.logq, abs=1e-5)


def test_a_callers_model_is_left_as_it_is() -> None:
    """`MaskedWeights(model)` switched off the dropout of a model that its owner went on training."""
    model = Filler(seed=0)
    model.train()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    weights = MaskedWeights(model, word_tokenizer(), mask=MASKED, ends=[END], name="held")
    engine = LanguageEngine(weights, DiffusionSampling(max_tokens=6))
    engine.extend([engine.start("a b")], keys(1))
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in weights.model.modules())
    after = model.state_dict()
    assert all(after[name].data_ptr() == place and torch.equal(after[name], value) for name, (place, value) in before.items())
    assert {each.data_ptr() for each in weights.model.parameters()} == {each.data_ptr() for each in model.parameters()}


def test_the_end_of_a_turn_ends_a_response() -> None:
    """LLaDA's instructed models end an answer with a token that no configuration names: drafts went on behind it."""
    tokenizer = word_tokenizer((*WORDS, "<turn>"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    nothing = SimpleNamespace()
    assert find_ends(nothing, tokenizer, nothing) == {END}
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }} <turn> {% endfor %}"
    assert find_ends(nothing, tokenizer, nothing) == {END, tokenizer.convert_tokens_to_ids("<turn>")}
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }} b {% endfor %}"
    assert find_ends(nothing, tokenizer, nothing) == {END}, "an ordinary word behind an answer"


def test_a_model_with_its_own_code_is_refused_until_trusted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llada", "auto_map": {"AutoConfig": "code.Config"}}))
    with pytest.raises(ModelError, match="trust_remote_code=True"):
        xt.load(f"mdlm:{tmp_path}")
    assert Repository().trust_remote_code is False


CODE = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

class OwnConfig(PreTrainedConfig):
    model_type = "own"
    def __init__(self, vocab_size=4, mask_token_id=3, **more):
        PreTrainedConfig.__init__(self, **more)
        self.vocab_size, self.mask_token_id = vocab_size, mask_token_id

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        self.table = torch.nn.Embedding(config.vocab_size, 8)
        self.head = torch.nn.Linear(8, config.vocab_size)
        self.post_init()
    def get_input_embeddings(self):
        return self.table
    def get_output_embeddings(self):
        return self.head
    def forward(self, input_ids, attention_mask=None):
        hidden = self.table(input_ids)
        return MaskedLMOutput(logits=self.head(torch.tanh(hidden + hidden.mean(dim=1, keepdim=True))))
"""


def test_a_model_with_its_own_code_is_loaded_when_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way LLaDA and Dream come: a folder with Python files that the configuration names, loaded by AutoModel."""
    import transformers.dynamic_module_utils as modules
    from safetensors.torch import save_file

    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "own.py").write_text(CODE)
    names = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names, "eos_token_id": END}))
    generator = torch.Generator().manual_seed(0)
    shapes = {"table.weight": (4, 8), "head.weight": (4, 8), "head.bias": (4,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    word_tokenizer().save_pretrained(folder)
    with pytest.raises(ModelError, match=r'cannot decode with cache="dual".*attention interface'):
        xt.load(f"mdlm:{folder}", trust_remote_code=True, max_tokens=6, block=3, cache="dual")
    engine = xt.load(f"mdlm:{folder}", trust_remote_code=True, max_tokens=6, block=3)
    assert isinstance(engine, LanguageEngine)
    assert (engine.backend.network.mask, engine.backend.text.ends) == (MASKED, {END})
    drafts = engine.extend([engine.start("a b")] * 5, keys(5))
    for draft, score in zip(drafts, engine.score(drafts), strict=True):
        assert np.allclose(score, draft.logq or (), atol=1e-5)


# ------------------------------------------------------------------------------------------------- the bundled model

TINY = Path(xt.__file__).parent / "models" / "tiny-mdlm"
needs_tiny = pytest.mark.skipif(not TINY.is_dir(), reason="tiny-mdlm is not trained here")


@pytest.fixture(scope="module")
def tiny() -> LanguageEngine[Any]:
    engine = xt.load("tiny-mdlm")
    assert isinstance(engine, LanguageEngine)
    return engine


def digits(prompt: str, drafts: list[xt.Draft]) -> list[float]:
    """Some reward of mild spread: the share of digits in the text."""
    return [sum(letter.isdigit() for letter in draft.text) / max(1, len(draft.text)) for draft in drafts]


@needs_tiny
def test_tiny_scores_what_it_draws(tiny: LanguageEngine[Any]) -> None:
    questions = [problem.question for problem in word_problems("test", 4, seed=1)]
    changes: list[dict[str, Any]] = [
        {},
        {"order": "entropy", "per_step": 3},
        {"cache": "prefix", "order": "max-probability", "block": 16},
        {"cache": "dual", "threshold": 0.9},
    ]
    for law in [tiny.with_sampling(**change) for change in changes]:
        drafts = law.extend([law.start(question) for question in questions], keys(4))
        for draft, score in zip(drafts, law.score(drafts), strict=True):
            assert np.allclose(score, draft.logq or (), atol=1e-5, rtol=1e-5)
        starts = [min(number, draft.decided) for number, draft in zip(range(0, 24, 6), drafts, strict=True)]
        for draft, start, part in zip(drafts, starts, law.score(drafts, starts), strict=True):
            assert np.allclose(part, np.array(draft.logq)[start:], atol=1e-5, rtol=1e-5)
            assert len(part) == draft.decided - start


@needs_tiny
def test_tiny_estimates_of_z_agree(tiny: LanguageEngine[Any]) -> None:
    """Independent, ETS and SMC estimate one Z, and ETS with a coarse proposal too: the order of both is fixed."""
    short = tiny.with_sampling(max_tokens=16, per_step=4, order="left")
    coarse = replace(xt.Target(short, digits, beta=0.3), proposal=short.with_sampling(per_step=8, temperature=1.2))
    question = word_problems("test", 1, seed=2)[0].question
    estimates = []
    for target, sampler, runs in (
        (replace(coarse, proposal=None), xt.Independent(4), 60),
        (replace(coarse, proposal=None), xt.ETS(3, 1, 8), 40),
        (replace(coarse, proposal=None), xt.SMC(4, 8), 40),
        (coarse, xt.ETS(3, 1, 8), 40),
    ):
        results = [xt.sample(target, question, sampler, seed=seed) for seed in range(runs)]
        values = np.exp([result.log_z for result in results if result.log_z is not None])
        estimates.append((values.mean(), values.std(ddof=1) / len(values) ** 0.5))
    (first, error), *others = estimates
    for mean, spread in others:
        assert abs(mean - first) < 5 * math.hypot(error, spread)


@needs_tiny
@pytest.mark.parametrize(
    "sampler",
    [xt.ETS(2, 1, 16), xt.Independent(2), xt.SMC(2, 16), xt.SuffixMCMC(2), xt.Metropolised(xt.Independent(2), 1)],
    ids=["ets", "independent", "smc", "mcmc", "metropolised"],
)
def test_tiny_serves_every_sampler(sampler: Any, tiny: LanguageEngine[Any]) -> None:
    target = xt.Target(tiny.with_sampling(per_step=4), xt.rewards.Arithmetic(), beta=0.1)
    question = word_problems("test", 1, seed=5)[0].question
    one, two = (xt.sample(target, question, sampler, seed=3) for _ in range(2))
    assert one.text == two.text
    assert one.usage.reference.forwards > 0
