"""`sample` and `run`: the same answers alone and in company, one prompt's trouble kept apart, bad requests refused."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import exptilt as xt
from exptilt.blocks import BlockSize
from exptilt.core import Engine, Sampler, Target
from exptilt.draft import Draft
from exptilt.errors import BudgetSpent, CapabilityError, ModelError, RewardError, TargetError
from exptilt.running.places import _Load
from exptilt.running.result import Failure, Outcome
from exptilt.testing.toys import random_table
from exptilt.usage import Work
from tests.running.long_run import same

SAMPLERS: list[Sampler] = [
    xt.Independent(6),
    xt.ETS(3, 2, 2),
    xt.SuffixMCMC(6, chains=2),
    xt.SMC(4, 2),
    xt.Metropolised(xt.ETS(2, 1, 2), 4),
]
PROMPTS = [f"prompt {number}" for number in range(32)]


def reward(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 4 for draft in drafts]


def table(seed: int = 3, cap: int = 5) -> xt.engines.TableEngine:
    return xt.engines.TableEngine(random_table(seed, 4), cap, 3)


TARGET = Target(table(), reward, beta=0.5)


def under_way() -> list[str]:
    """The threads of prompts that are still running."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("exptilt-prompt")]


@pytest.mark.parametrize(("crowded", "most"), [(True, 8), (False, 20)])
def test_prompts_that_only_compute_have_few_threads(crowded: bool, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 threads of cheap prompts were in each other's way for a third of the time."""
    monkeypatch.setattr(_Load, "crowded", lambda _: crowded)
    seen: set[str] = set()

    def watched(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        seen.update(under_way())
        time.sleep(0.002)
        return reward(prompt, drafts)

    xt.run(replace(TARGET, reward=watched), [f"prompt {number}" for number in range(200)], xt.Independent(2), concurrency=20)
    assert len(seen) == most


def test_threads_are_crowded_where_they_compute_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [10.0]
    monkeypatch.setattr("exptilt.running.places.monotonic", lambda: clock[0])
    load = _Load(3)

    def after(seconds: float, *spent: float) -> bool:
        clock[0] += seconds
        load.seconds = [before + more for before, more in zip(load.seconds, spent, strict=True)]
        return load.crowded()

    assert after(0.005, 0.002, 0.002, 0.0005)  # seen before a window is over
    assert after(0.045, 0.02, 0.02, 0.004)
    assert not after(0.1, 0.01, 0.0, 0.0)  # of this window; they wait
    assert not after(0.1, 0.09, 0.09, 0.09)  # side by side
    assert after(0.1, 0.1, 0.0, 0.0)
    assert not after(0.005, 0.0, 0.0, 0.0)


def test_all_prompts_that_wait_for_each_other_are_under_way() -> None:
    together = threading.Barrier(20)

    def awaited(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        together.wait(30)
        return reward(prompt, drafts)

    outcomes = xt.run(replace(TARGET, reward=awaited), PROMPTS[:20], xt.Independent(2), concurrency=20)
    assert all(isinstance(outcome, xt.Result) for outcome in outcomes)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_the_same_answer_alone_and_among_32(sampler: Sampler) -> None:
    together = xt.run(TARGET, PROMPTS, sampler, select=xt.vote(xt.answers.exact), seed=5, concurrency=32)
    for prompt, outcome in zip(PROMPTS, together, strict=True):
        assert same(outcome, xt.sample(TARGET, prompt, sampler, select=xt.vote(xt.answers.exact), seed=5))


def test_answers_depend_neither_on_order_nor_on_concurrency() -> None:
    forwards = xt.run(TARGET, PROMPTS, xt.ETS(3, 2, 2), concurrency=1)
    backwards = xt.run(TARGET, PROMPTS[::-1], xt.ETS(3, 2, 2), concurrency=7)[::-1]
    assert all(map(same, forwards, backwards))


def test_answers_do_not_depend_on_a_bound_reward_of_others() -> None:
    target = replace(TARGET, reward=xt.rewards.Agreement(xt.answers.exact, pilot=4))
    together = xt.run(target, PROMPTS, xt.Independent(4))
    assert same(together[9], xt.sample(target, PROMPTS[9], xt.Independent(4)))


def test_repeated_prompts_draw_anew_and_other_seeds_too() -> None:
    results = xt.run(TARGET, ["again"] * 8, xt.Independent(6))
    assert len({outcome.population.drafts for outcome in results if isinstance(outcome, xt.Result)}) == 8
    assert same(results[0], xt.sample(TARGET, "again", xt.Independent(6)))
    assert not same(results[0], xt.sample(TARGET, "again", xt.Independent(6), seed=1))


def test_results_hold_what_led_to_them() -> None:
    result = xt.sample(TARGET, "why?", xt.ETS(3, 2, 2), select=xt.vote(xt.answers.exact), seed=4)
    assert result.prompt == "why?"
    assert result.text == result.draft.text
    assert result.draft in result.population.drafts
    assert result.log_z == result.population.log_z
    assert result.posterior is not None
    assert math.isclose(sum(result.posterior.values()), 1.0)
    assert result.reward == sum(result.draft.tokens) / 4
    assert (result.sampler, result.seed, result.stopped, result.limit) == (xt.ETS(3, 2, 2), 4, "done", None)
    assert result.trace[-1]["tokens"] == result.usage.tokens
    assert xt.sample(TARGET, "why?", xt.ETS(3, 2, 2)).posterior is None


def test_warnings_are_in_plain_words() -> None:
    cold = replace(TARGET, beta=0.01)
    assert any("weight" in sentence for sentence in xt.sample(cold, "why?", xt.Independent(50)).warnings)


def test_budgets_stop_each_prompt() -> None:
    results = xt.run(TARGET, PROMPTS[:4], xt.Independent(400, batch=4), budget=xt.Budget(tokens=60))
    assert [outcome.stopped for outcome in results if isinstance(outcome, xt.Result)] == ["budget"] * 4
    assert all(60 - 4 * 5 < outcome.usage.tokens <= 60 for outcome in results if isinstance(outcome, xt.Result))


def test_no_more_prompts_are_under_way_than_asked_for() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def busy(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.005)
        with lock:
            now -= 1
        return [0.0] * len(drafts)

    xt.run(replace(TARGET, reward=busy), PROMPTS, xt.Independent(2), concurrency=3)
    assert most == 3


def test_progress_hears_of_every_prompt(tmp_path: Path) -> None:
    heard: list[tuple[int, int, Outcome]] = []
    results = xt.run(
        TARGET, PROMPTS[:5], xt.Independent(2), progress=lambda *news: heard.append(news), store=tmp_path / "a.jsonl"
    )
    assert [(done, total) for done, total, _ in heard] == [(done, 5) for done in range(1, 6)]
    assert {outcome.prompt for _, _, outcome in heard} == {outcome.prompt for outcome in results}
    heard.clear()
    xt.run(TARGET, PROMPTS[:7], xt.Independent(2), progress=lambda *news: heard.append(news), store=tmp_path / "a.jsonl")
    assert [(done, total) for done, total, _ in heard] == [(6, 7), (7, 7)]


# ------------------------------------------------------------------------------------------------ one prompt's trouble


def test_trouble_of_one_prompt_is_recorded_and_the_others_go_on() -> None:
    def moody(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        if prompt == "raises":
            raise KeyError("nothing here")
        rewards = {"nan": [math.nan] * len(drafts), "short": [0.0] * (len(drafts) - 1), "excluded": [-math.inf] * len(drafts)}
        return rewards.get(prompt, [0.0] * len(drafts))

    prompts = ["good", "", "raises", "nan", "short", "excluded", "fine"]
    outcomes = xt.run(replace(TARGET, reward=moody), prompts, xt.ETS(3, 2, 2))
    assert [outcome.prompt for outcome in outcomes] == prompts
    failures = {outcome.prompt: outcome for outcome in outcomes if isinstance(outcome, Failure)}
    assert [failures[prompt].error for prompt in prompts[1:6]] == ["PromptError", *["RewardError"] * 3, "AllWeightsZero"]
    assert "moody raised KeyError: 'nothing here'" in failures["raises"].message
    assert "moody returned nan" in failures["nan"].message
    assert "moody returned values of shape" in failures["short"].message
    assert isinstance(outcomes[0], xt.Result)
    assert isinstance(outcomes[6], xt.Result)


def test_budgets_that_are_too_small_fail_their_prompt() -> None:
    outcome = xt.run(TARGET, ["why?"], xt.ETS(3, 2, 2, returns="chain"), budget=xt.Budget(tokens=1))[0]
    assert isinstance(outcome, Failure)
    assert outcome.error == "BudgetSpent"
    assert "larger budget" in outcome.message


@dataclass(frozen=True)
class Broken(xt.engines.TableEngine):
    """A model that breaks down at one prompt."""

    def extend(self, drafts: Sequence[Draft], keys: Sequence[xt.Key], tokens: BlockSize | None = None) -> list[Draft]:
        if drafts[0].prompt == "prompt 3":
            raise ModelError("out of memory: use fewer candidates at once")
        time.sleep(0.002)
        return xt.engines.TableEngine.extend(self, drafts, keys, tokens)


def test_trouble_of_the_model_ends_the_run() -> None:
    """The prompts under way stop at their next call: a chain of 100,000 steps is not waited for."""
    broken = replace(TARGET, engine=Broken(random_table(3, 4), 5, 3))
    with pytest.raises(ModelError, match="out of memory"):
        xt.run(broken, PROMPTS[2:], xt.SuffixMCMC(100_000), concurrency=2)
    assert not under_way()


def test_what_was_finished_before_the_trouble_is_kept(tmp_path: Path) -> None:
    store, heard = tmp_path / "a.jsonl", []
    broken = replace(TARGET, engine=Broken(random_table(3, 4), 5, 3))
    with pytest.raises(ModelError):
        xt.run(broken, PROMPTS, xt.Independent(2), store=store, concurrency=1)
    results = xt.run(TARGET, PROMPTS, xt.Independent(2), store=store, progress=lambda *news: heard.append(news))
    assert len(results) == 32
    assert heard[0][0] == 4  # three were there already


def test_an_interrupt_ends_the_run() -> None:
    def interrupt(done: int, total: int, outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        xt.run(TARGET, PROMPTS, xt.SuffixMCMC(50), progress=interrupt, concurrency=2)
    assert not under_way()


# ------------------------------------------------------------------------------------------------------- bad requests


class Handless:
    """An engine that can only finish drafts."""

    def __init__(self) -> None:
        self.inner = table()

    can = frozenset[str]()
    name, max_tokens, alphabet, settings = "handless", 5, "letters", {"engine": "handless"}

    def with_sampling(self, **changes: Any) -> Engine:
        return self

    def metered(self, work: Work) -> Engine:
        return self

    def prompt_tokens(self, prompt: Any) -> tuple[int, ...]:
        return ()

    def start(self, prompt: Any) -> Draft:
        raise AssertionError("nothing may be started before the request is checked")

    def extend(self, drafts: Sequence[Draft], keys: Sequence[xt.Key], tokens: BlockSize | None = None) -> list[Draft]:
        return self.inner.extend(drafts, keys, tokens)

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Any]:
        return self.inner.score(drafts, starts)


def test_what_cannot_work_is_refused_before_any_work(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    with pytest.raises(CapabilityError, match=r"ETS .* needs \['continue'\] but handless can \[\].*Choose an engine"):
        xt.run(Target(Handless(), reward, 1.0), PROMPTS, xt.ETS(3, 2, 2), store=store)
    assert not store.exists()


@pytest.mark.parametrize("beta", [0, -1.0, math.nan, math.inf, "0.1"])
def test_beta_must_be_positive(beta: Any) -> None:
    with pytest.raises(TargetError, match="must be a positive finite number"):
        Target(table(), reward, beta)


def test_mistaken_arguments_are_named() -> None:
    with pytest.raises(TargetError, match="give an instance"):
        xt.sample(TARGET, "why?", xt.ETS)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TargetError, match="put it into a list"):
        xt.run(TARGET, "why?", xt.Independent(2))
    with pytest.raises(TargetError, match="put it into a list"):
        xt.run(TARGET, [{"role": "user", "content": "why?"}], xt.Independent(2))  # pyright: ignore[reportArgumentType]
    for wrong in (b"why?", 3, None):
        with pytest.raises(xt.PromptError, match="a string or a list of messages"):
            xt.run(TARGET, [wrong], xt.Independent(2))  # pyright: ignore[reportArgumentType]
        with pytest.raises(xt.PromptError, match="a string or a list of messages"):
            xt.sample(TARGET, wrong, xt.Independent(2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TargetError, match="cannot be called"):
        xt.sample(TARGET, "why?", xt.Independent(2), select="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="concurrency=0"):
        xt.run(TARGET, PROMPTS, xt.Independent(2), concurrency=0)
    with pytest.raises(ModelError, match="no-such-model"):
        xt.load("no-such-model")


def test_errors_of_a_single_sample_are_raised() -> None:
    with pytest.raises(xt.PromptError, match="empty"):
        xt.sample(TARGET, " \n", xt.Independent(2))
    with pytest.raises(BudgetSpent):
        xt.sample(TARGET, "why?", xt.ETS(3, 2, 2, returns="chain"), budget=xt.Budget(tokens=1))
    with pytest.raises(RewardError, match="Correct the reward"):
        xt.sample(replace(TARGET, reward=lambda prompt, drafts: [prompt / draft for draft in drafts]), "why?", xt.Independent(2))


@dataclass(frozen=True)
class Idle:
    """A sampler that yields nothing."""

    weighted: ClassVar[bool] = True

    def needs(self, target: Target) -> frozenset[str]:
        return frozenset()

    def __call__(self, target: Target, prompt: str, key: xt.Key) -> Iterator[xt.Population]:
        return iter(())


def test_a_sampler_must_yield() -> None:
    with pytest.raises(TargetError, match="Idle yielded no population"):
        xt.sample(TARGET, "why?", Idle())
