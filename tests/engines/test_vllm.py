"""The vLLM engine against a backend that answers as vLLM does and whose law is a table; `tests/servers` has the real one."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from exptilt.blocks import Block
from exptilt.core import Engine, Target
from exptilt.draft import Draft
from exptilt.engines.language import LanguageEngine
from exptilt.engines.loading import load
from exptilt.errors import ModelError, PromptError
from exptilt.keys import Key
from exptilt.running.run import sample
from exptilt.samplers import ETS
from exptilt.serve.room import Room, room_of
from exptilt.testing.toys import random_table
from exptilt.usage import Work
from tests.engines.laws import check_law

pytest.importorskip("transformers")

from exptilt.engines.sampling import Sampling
from exptilt.engines.text import Text
from exptilt.engines.vllm import Model

CAP = 4
END = 2  # of the tokenizer of tests/engines/conftest.py
LETTERS = "ab"
BLOCK = 4  # tokens; sharing of prefixes goes by whole blocks
CONTEXT = 64
OTHER_LAWS: list[dict[str, Any]] = [{"temperature": 0.7}, {"top_k": 2}, {"top_p": 0.8, "temperature": 1.5}]


@dataclass
class Fake:
    """As vLLM in its habits: draws by a seed for each request, tells processed log-probabilities of what it draws and raw
    ones of what it reads, reads past the cache where those are asked for, ends at end tokens alone."""

    symbols: tuple[int, ...]  # the tokens of the table, the end last
    under_way: dict[str, Any] = field(default_factory=dict)
    cached: set[tuple[int, ...]] = field(default_factory=set)
    seen: list[Mapping[str, Any]] = field(default_factory=list)
    most: int = 0  # requests in one step
    failure: Exception | None = None
    reason: str | None = None  # instead of an answer
    pause: Callable[[], object] = lambda: None
    closed: bool = False
    table: Any = field(default_factory=lambda: cache(random_table(3, len(LETTERS) + 1)))

    def add(self, name: str, tokens: Sequence[int], parameters: Mapping[str, Any], *, gradual: bool) -> None:
        known = [size for size in range(BLOCK, len(tokens), BLOCK) if tuple(tokens[:size]) in self.cached]
        found = 0 if "prompt_logprobs" in parameters else max(known, default=0)
        self.cached.update(tuple(tokens[:size]) for size in range(BLOCK, len(tokens) + 1, BLOCK))
        rng = np.random.default_rng(parameters.get("seed"))
        self.under_way[name] = SimpleNamespace(
            read=tuple(tokens), asked=parameters, gradual=gradual, cached=found, drawn=[], told=[], rng=rng
        )
        self.seen.append(parameters)

    def step(self) -> list[Any]:
        self.pause()
        if self.failure is not None:
            raise self.failure
        self.most = max(self.most, len(self.under_way))
        return [output for name in list(self.under_way) if (output := self._advance(name)) is not None]

    def abort(self, names: Sequence[str]) -> None:
        for name in names:
            self.under_way.pop(name, None)

    def close(self) -> None:
        self.closed = True

    def law(self, read: Sequence[int], temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> np.ndarray:
        """Probabilities of the symbols after some tokens."""
        place = max((i + 1 for i, token in enumerate(read) if token not in self.symbols), default=0)
        law = np.asarray(self.table(tuple(self.symbols.index(token) for token in read[place:]))) ** (1 / temperature)
        if top_k:
            law = np.where(law >= np.sort(law)[-top_k], law, 0.0)
        law /= law.sum()
        order = np.argsort(-law)
        law[order[1 + int(np.searchsorted(np.cumsum(law[order]), top_p)) :]] = 0.0
        return law / law.sum()

    def _advance(self, name: str) -> Any:
        row = self.under_way[name]
        law = self.law((*row.read, *row.drawn), *(row.asked[key] for key in ("temperature", "top_p", "top_k")))
        with np.errstate(divide="ignore"):
            values = {token: SimpleNamespace(logprob=float(np.log(p))) for token, p in zip(self.symbols, law, strict=True)}
        token = self.symbols[int(row.rng.choice(len(law), p=law))]
        wanted = row.asked.get("logprob_token_ids", ())
        row.drawn.append(token)
        row.told.append({each: values[each] for each in (token, *wanted)})
        reason = "stop" if token in row.asked.get("stop_token_ids", ()) else None
        reason = reason or ("length" if len(row.drawn) == row.asked["max_tokens"] else None)
        reason = self.reason or reason
        if reason is not None:
            del self.under_way[name]
        if not (reason or row.gradual):
            return None
        new = slice(-1, None) if row.gradual else slice(None)
        before = None
        if "prompt_logprobs" in row.asked:
            before = SimpleNamespace(logprobs=[self._raw(row.read[:i], row.read[i]) for i in range(1, len(row.read))])
        answer = SimpleNamespace(token_ids=row.drawn[new], logprobs=row.told[new], finish_reason=reason)
        return SimpleNamespace(
            request_id=name, outputs=[answer], prompt_logprobs=before, num_cached_tokens=row.cached, finished=reason is not None
        )

    def _raw(self, read: Sequence[int], token: int) -> float:
        if token not in self.symbols:
            return -7.0
        return float(np.log(self.law(read)[self.symbols.index(token)]))


@pytest.fixture
def fake(tokenizer: Any) -> Fake:
    return Fake((*[tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS], END))


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture
def engine(fake: Fake, tokenizer: Any) -> Any:
    text = Text(tokenizer, [END])
    model = Model(fake, text, name="vllm:fake", context=CONTEXT, vocabulary=len(tokenizer), max_rows=64, settings={})
    yield LanguageEngine(model, Sampling(max_tokens=CAP))
    model.close()


def keys(count: int, *path: int) -> list[Key]:
    return [Key(0, *path, i) for i in range(count)]


def draw(engine: Engine, count: int, tokens: int | None = None, prompt: str = "Q?") -> list[Draft]:
    return engine.extend([engine.start(prompt)] * count, keys(count), tokens)


def whole_law(fake: Fake, cap: int = CAP, **law: Any) -> dict[tuple[int, ...], float]:
    """Probabilities of all responses."""
    found: dict[tuple[int, ...], float] = {}
    open_ended: dict[tuple[int, ...], float] = {(): 1.0}
    while open_ended:
        tokens, mass = open_ended.popitem()
        for symbol, p in zip(fake.symbols, fake.law(tokens, **law), strict=True):
            grown = (*tokens, symbol)
            ended = symbol == END or len(grown) == cap
            (found if ended else open_ended)[grown] = mass * float(p)
    return found


# --------------------------------------------------------------------------------------------------------------- the law


@pytest.mark.parametrize("block", [1, 3, None])
@pytest.mark.parametrize("changes", [{}, *OTHER_LAWS], ids=str)
def test_draws_follow_the_law_and_record_it(
    engine: LanguageEngine[Any], fake: Fake, changes: dict[str, Any], block: int | None
) -> None:
    law = engine.with_sampling(**changes)
    drafts = [law.start("Q?")] * 600
    for step in range(CAP):
        drafts = law.extend(drafts, keys(600, step), block)
    expected = {tokens: p for tokens, p in whole_law(fake, **changes).items() if p}
    check_law(drafts, expected, lambda draft: draft.tokens)
    for draft in drafts[:50]:
        assert draft.logq is not None
        assert math.fsum(draft.logq) == pytest.approx(math.log(expected[draft.tokens]), abs=1e-9)
        assert draft.finish == ("stop" if draft.tokens[-1] == END else "length")
        assert set(draft.text) <= set(LETTERS)


@pytest.mark.parametrize("changes", [{}, *OTHER_LAWS], ids=str)
def test_scores_are_of_the_same_law_from_any_token_on(engine: LanguageEngine[Any], fake: Fake, changes: dict[str, Any]) -> None:
    """vLLM rates the tokens it reads by the raw law: other laws are asked for token by token."""
    law = engine.with_sampling(**changes)
    drafts = draw(law, 12)
    starts = [i % (len(draft.tokens) + 1) for i, draft in enumerate(drafts)]
    for draft, score in zip(drafts, law.score(drafts), strict=True):
        assert score.tolist() == pytest.approx(draft.logq, abs=1e-12)
    before = len(fake.seen)
    for draft, score, start in zip(drafts, law.score(drafts, starts), starts, strict=True):
        assert draft.logq is not None
        assert score.tolist() == pytest.approx(draft.logq[start:], abs=1e-12)
    different = {(draft.tokens, start) for draft, start in zip(drafts, starts, strict=True)}  # equal drafts are asked for once
    wanted = [len(tokens) - start for tokens, start in different]
    assert len(fake.seen) - before == (sum(wanted) if changes else sum(count > 0 for count in wanted))


def test_what_truncation_excludes_scores_minus_infinity(engine: LanguageEngine[Any]) -> None:
    greedy = engine.with_sampling(top_k=1)
    [best] = draw(greedy, 1)
    assert greedy.score([best])[0].tolist() == [0.0] * len(best.tokens)
    others = [draft for draft in draw(engine, 50) if draft.tokens != best.tokens]
    assert all(score.min() == -math.inf for score in greedy.score(others))


def test_guided_search_runs_and_repeats(engine: LanguageEngine[Any]) -> None:
    target = Target(engine, lambda _, drafts: [float(len(draft.text)) for draft in drafts], 1.0)
    first, again = (sample(target, "Q?", ETS(candidates=2, rollouts=2, block=2), seed=3) for _ in range(2))
    assert first.draft == again.draft
    assert first.population.drafts == again.population.drafts


# ------------------------------------------------------------------------------------------------- drafts and their ends


def test_stop_strings_end_a_response_also_across_calls(engine: LanguageEngine[Any]) -> None:
    stopping = engine.with_sampling(stop=["ba"])
    for block in (1, 2, None):
        drafts = [stopping.start("Q?")] * 300
        for step in range(CAP):
            drafts = stopping.extend(drafts, keys(300, step), block)
        wholes = engine.backend.text.decode([draft.tokens for draft in drafts])
        for draft, whole in zip(drafts, wholes, strict=True):
            assert whole.find("ba") in (-1, len(whole) - 2), "nothing is kept beyond the token that completes it"
            assert draft.text == whole.removesuffix("ba")
            assert draft.logq is not None
            assert len(draft.logq) == len(draft.tokens)
            assert (draft.finish == "stop") == ("ba" in whole or draft.tokens[-1] == END)
        assert any("ba" in whole for whole in wholes)


def test_steps_of_text_end_with_the_token_that_completes_their_end(engine: LanguageEngine[Any]) -> None:
    """vLLM is asked for the rest of the response and stopped; the response itself goes on from there."""
    drafts = [engine.start("Q?")] * 300
    steps = Counter[int]()
    for step in range(CAP):
        grown = engine.extend(drafts, keys(300, step), Block("b"))
        for draft, old in zip(grown, drafts, strict=True):
            own = draft.text[len(old.text) :]
            assert draft.finish or (own.count("b") == 1 and own.endswith("b"))
            steps[draft.decided - old.decided] += 1
        drafts = grown
    assert all(draft.finish for draft in drafts)
    assert min(steps[1], steps[2]) > 10


def test_cut_finished_and_full_drafts(engine: LanguageEngine[Any], fake: Fake) -> None:
    done = next(draft for draft in draw(engine, 50) if len(draft.tokens) == CAP)
    cut = done.cut(2)
    before = len(fake.seen)
    [same] = engine.extend([cut], keys(1), 0)
    assert (same.text, same.finish, same.tokens) == (done.text[:2], None, cut.tokens)
    full = Draft("Q?", fake.symbols[:1] * CAP, None)
    assert engine.extend([done, full], keys(2)) == [done, Draft("Q?", full.tokens, None, "a" * CAP, "length")]
    assert len(fake.seen) == before, "none of this needs the model"
    [longer] = engine.extend([Draft("Q?", cut.tokens, None)], keys(1), 1)
    assert longer.tokens[:2] == cut.tokens
    assert longer.logq is None
    assert engine.extend([], []) == []
    with pytest.raises(ValueError, match="tokens=-1"):
        engine.extend([cut], keys(1), -1)


def test_drafts_and_prompts_that_do_not_fit_are_refused(engine: LanguageEngine[Any]) -> None:
    with pytest.raises(PromptError, match="empty"):
        engine.start(" ")
    with pytest.raises(PromptError, match=r"the prompt has \d+ tokens and max_tokens is 4"):
        engine.start("X" * CONTEXT)
    for token in (-1, 10**6):
        with pytest.raises(ValueError, match="engines with the same alphabet"):
            engine.extend([Draft("Q?", (token,))], keys(1))
        with pytest.raises(ValueError, match="engines with the same alphabet"):
            engine.score([Draft("Q?", (token,))])
    with pytest.raises(ValueError, match="leaves no room for a prompt in the 64 tokens"):
        engine.with_sampling(max_tokens=CONTEXT)
    for temperature in (0.001, 2.5):
        with pytest.raises(ValueError, match=rf"temperature={temperature} is outside 0\.01 to 2\.0"):
            engine.with_sampling(temperature=temperature)
    with pytest.raises(ValueError, match="needs a chat template"):
        LanguageEngine(engine.backend, system="Be brief.")


# ---------------------------------------------------------------------------------------- batches, threads and failures


def test_a_draft_depends_on_its_key_alone_and_callers_share_a_batch(engine: LanguageEngine[Any], fake: Fake) -> None:
    together = draw(engine, 24)
    assert [engine.extend([engine.start("Q?")], [key])[0] for key in keys(24)] == together
    assert len({draft.tokens for draft in together}) > 5
    fake.most, alike = 0, threading.Barrier(4)

    def call(part: int) -> list[Draft]:
        alike.wait()
        return engine.extend([engine.start("Q?")] * 6, keys(24)[6 * part : 6 * part + 6])

    fake.pause = lambda: time.sleep(0.05)  # so that all four come before the first is done
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(call, range(4)))
    assert [draft for part in parts for draft in part] == together
    assert fake.most > 6


def test_a_short_call_does_not_wait_for_a_long_one(engine: LanguageEngine[Any], fake: Fake) -> None:
    long, told = engine.with_sampling(max_tokens=40), threading.Event()
    fake.table = lambda _: [0.5, 0.5, 0.0]
    fake.pause = lambda: told.wait(0.05)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(draw, long, 3)
        quick = pool.submit(draw, engine, 3)
        assert [len(draft.tokens) for draft in quick.result(10)] == [CAP] * 3
        assert not slow.done()
        told.set()
        assert [len(draft.tokens) for draft in slow.result(10)] == [40] * 3


def test_a_failure_reaches_the_caller_and_the_next_call_works(engine: LanguageEngine[Any], fake: Fake) -> None:
    expected = draw(engine, 3)
    fake.failure = RuntimeError("out of memory")
    with pytest.raises(ModelError, match="vllm:fake failed with RuntimeError: out of memory"):
        draw(engine, 3)
    fake.failure, fake.reason = None, "abort"
    with pytest.raises(ModelError, match=r"vLLM ended a request with 'abort'.*lower max_rows"):
        draw(engine, 3)
    fake.reason = None
    assert draw(engine, 3) == expected
    assert not fake.under_way


def test_work_counts_every_token_that_was_evaluated(engine: LanguageEngine[Any]) -> None:
    work, again, scored = Work(), Work(), Work()
    prompt = "eleven byte"
    read = len(engine.prompt_tokens(prompt))
    [draft] = draw(engine.metered(work), 1, prompt=prompt)
    count = len(draft.tokens)
    assert work == Work(prompt=read - 1, generated=count, forwards=count)
    draw(engine.metered(again), 1, prompt=prompt)
    held = (read - 1) // BLOCK * BLOCK
    assert again == Work(prompt=read - 1 - held, cached=held, generated=count, forwards=count)
    engine.metered(scored).score([draft])
    assert (scored.scored, scored.generated, scored.forwards) == (count, 0, 1)
    assert scored.prompt + scored.cached == read - 1
    engine.with_sampling(temperature=0.9).metered(scored).score([draft], [count - 1])
    assert scored.scored == count + 1


def test_a_closed_model_refuses_calls_and_ends_vllm(engine: LanguageEngine[Any], fake: Fake) -> None:
    engine.backend.close()
    assert fake.closed
    with pytest.raises(ModelError, match="vllm:fake is closed: load the engine again"):
        draw(engine, 1)


def test_views_share_the_model(engine: LanguageEngine[Any]) -> None:
    colder = engine.with_sampling(temperature=0.5)
    assert isinstance(colder, Engine)
    assert colder.backend is engine.backend
    assert colder.settings == {**engine.settings, "temperature": 0.5}
    assert hash(engine) is not None


# --------------------------------------------------------------------------------------------------------------- loading


@dataclass
class _EngineArgs:
    model: str = ""
    dtype: str = "auto"
    logprobs_mode: str = "raw_logprobs"
    enable_prefix_caching: bool = False
    skip_tokenizer_init: bool = False
    enable_chunked_prefill: bool = True
    disable_log_stats: bool = False
    max_num_seqs: int = 256
    block_size: int = 16
    quantization: str | None = None


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[_EngineArgs]:
    """What vLLM was started with, by a package that has its names alone."""
    asked: list[_EngineArgs] = []

    def start(arguments: _EngineArgs) -> Any:
        asked.append(arguments)
        if arguments.quantization:
            raise RuntimeError("no such quantization")
        config = SimpleNamespace(
            max_model_len=300,
            dtype="torch.float32",
            hf_text_config=SimpleNamespace(eos_token_id=2),
            try_get_generation_config=lambda: {"eos_token_id": [2, 3]},
            get_vocab_size=lambda: 260,
        )
        scheduling = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=arguments.max_num_seqs))
        core = SimpleNamespace(shutdown=lambda: asked.remove(arguments))
        return SimpleNamespace(model_config=config, vllm_config=scheduling, engine_core=core)

    package = SimpleNamespace(EngineArgs=_EngineArgs, LLMEngine=SimpleNamespace(from_engine_args=start))
    platforms = SimpleNamespace(current_platform=SimpleNamespace(is_cpu=lambda: True))
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setattr("exptilt.engines.openers.require", lambda *_: None)
    return asked


def test_loading_asks_vllm_for_what_exactness_needs(started: list[_EngineArgs], model_folder: Path) -> None:
    engine: Any = load(f"vllm:{model_folder}", max_rows=8, block_size=32)
    [asked] = started
    assert asked.model == str(model_folder)
    assert (asked.dtype, asked.logprobs_mode, asked.enable_prefix_caching) == ("float32", "processed_logprobs", True)
    assert not asked.enable_chunked_prefill, "a seeded request whose prompt is read in parts breaks vLLM on a CPU"
    assert (asked.max_num_seqs, asked.block_size, engine.backend.scheduler.admission.max_rows) == (8, 32, 8)
    assert engine.backend.text.ends == {2, 3}
    assert engine.settings["options"] == {}, "how prefixes are shared is not part of the law"
    assert engine.alphabet == load(f"hf:{model_folder}", max_tokens=8).alphabet


def test_options_that_vllm_refuses_are_told(started: list[_EngineArgs], model_folder: Path) -> None:
    with pytest.raises(ValueError, match="beams: vLLM has no such option"):
        load(f"vllm:{model_folder}", beams=3)
    with pytest.raises(ValueError, match=r"logprobs_mode: .*sets it itself"):
        load(f"vllm:{model_folder}", logprobs_mode="raw_logprobs")
    with pytest.raises(ModelError, match="no such quantization"):
        load(f"vllm:{model_folder}", quantization="none at all")
    with pytest.raises(ValueError, match="device='cuda' is vLLM's own choice"):
        load(f"vllm:{model_folder}", device="cuda")
    before = len(started)
    with pytest.raises(ValueError, match="max_tokens=400 leaves no room"):
        load(f"vllm:{model_folder}", max_tokens=400)
    assert len(started) == before, "vLLM is ended again"


def test_a_missing_package_names_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exptilt.engines.requirements.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs vllm and transformers, .*pip install .*\[vllm\]'"):
        load("vllm:x")


def test_a_server_may_draw_twice_as_many_responses_as_vllm_holds_at_once(engine: Any) -> None:
    """vLLM does not say what its cache holds in tokens: it preempts requests where it is short."""
    assert room_of([engine]) == Room(rows=128)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ({"presence_penalty": 1.0}, "count what vLLM draws in one call"),
        ({"frequency_penalty": 1.0}, "count what vLLM draws in one call"),
        ({"min_p": 0.1, "top_p": 0.9}, "applies min_p before top_p"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias names the token 1000000"),
    ],
)
def test_what_vllm_takes_in_another_sense_is_refused(law: dict[str, Any], message: str, engine: LanguageEngine):
    """A draft is continued with the tokens before as its prompt, which vLLM's counts leave out: another distribution."""
    with pytest.raises(ValueError, match=message):
        engine.with_sampling(**law)


def test_bias_penalty_min_p_and_stop_tokens_reach_vllm(engine: LanguageEngine, fake: Fake):
    law = {"min_p": 0.1, "repetition_penalty": 1.3, "logit_bias": {5: -2.0}, "stop_token_ids": [fake.symbols[0]]}
    other = engine.with_sampling(**law)
    drafts = draw(other, 30)
    told = fake.seen[-1]
    assert (told["min_p"], told["repetition_penalty"], told["logit_bias"]) == (0.1, 1.3, {5: -2.0})
    assert told["stop_token_ids"] == sorted([END, fake.symbols[0]])
    stopped = [draft for draft in drafts if draft.tokens[-1] == fake.symbols[0]]
    assert stopped
    assert all(draft.finish == "stop" and LETTERS[0] not in draft.text for draft in stopped)
    fake.seen.clear()
    other.score(drafts[:1])
    assert len(fake.seen) == len(drafts[0].tokens), "vLLM rates what it reads without them, so each token is asked for"
    assert all(asked["repetition_penalty"] == 1.3 for asked in fake.seen)
