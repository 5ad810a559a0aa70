"""One prompt's run of one target: what it may spend, what it has spent, and how its populations grew.

A sampler knows nothing of budgets or counters. A `Session` hands it a target that looks like the user's own, with

- engines that ask the budget before every call that costs something, and count each call's work in `usage`;
- a reward that is called only for drafts it has not seen: a draft's identity is its tokens (and their order, in
  masked diffusion), so a Markov chain's repeats and a guided chain's finished candidates cost one rating each.

A `PromptReward` is bound here as well, on those same engines, so that the pilot it draws is counted like everything
else. Where the reward is not a fixed function (`target.fixed` is False) nothing is remembered, because every call may
answer differently, and populations lose their weights, because there is no π for them to belong to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from typing import Any

import numpy as np

from exptilt.core import Engine, PromptReward, Reward, Sampler, Target, rate, reward_name
from exptilt.draft import Draft, Prompt
from exptilt.engines.certainty import CertainEngine, Certainty
from exptilt.engines.log_probs import check_certain, check_drawn, check_scored
from exptilt.errors import BudgetSpent, CapabilityError, ExptiltError, RewardError, TargetError
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.usage import Budget, Usage, Work


class Halted(ExptiltError):
    """The whole run is stopping, and this prompt's part of it was given up between two calls."""


@dataclass(frozen=True)
class MeteredEngine:
    """An engine that runs `check` before each call that costs something and adds what the call did to `works`."""

    engine: Engine
    works: tuple[Work, ...]
    check: Callable[[], None]

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def can(self) -> frozenset[str]:
        return self.engine.can

    @property
    def max_tokens(self) -> int:
        return self.engine.max_tokens

    @property
    def alphabet(self) -> str:
        return self.engine.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.engine.settings

    def with_sampling(self, **changes: Any) -> MeteredEngine:
        return replace(self, engine=self.engine.with_sampling(**changes))

    def metered(self, work: Work) -> MeteredEngine:
        """Count in `work` too: what a session has seen stays counted in the session."""
        return replace(self, works=(*self.works, work))

    def prompt_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return self.engine.prompt_tokens(prompt)

    def start(self, prompt: Prompt) -> Draft:
        return self.engine.start(prompt)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: int | None = None) -> list[Draft]:
        if all(draft.finish is not None for draft in drafts):
            return list(drafts)  # nothing to decide, so nothing to refuse: what is finished may still be rated
        with self._counted() as engine:
            extended = engine.extend(drafts, keys, tokens)
        check_drawn(self.name, extended, [draft.decided for draft in drafts])
        return extended

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        if not drafts:
            return []
        with self._counted() as engine:
            scores = engine.score(drafts, starts)
        check_scored(self.name, scores)
        return scores

    def certainty(self, drafts: Sequence[Draft]) -> list[Certainty]:
        with self._counted() as engine:
            if "certainty" not in engine.can or not isinstance(engine, CertainEngine):
                raise CapabilityError(f'{self.name} cannot measure certainty: use an engine with "certainty" in its `can`')
            certainties = engine.certainty(drafts)
        check_certain(self.name, certainties)
        return certainties

    @contextmanager
    def _counted(self) -> Iterator[Engine]:
        self.check()
        work = Work()
        try:
            yield self.engine.metered(work)
        finally:
            for total in self.works:
                total.add(**vars(work))


@dataclass(frozen=True)
class MeteredReward:
    """A reward that is counted in `usage`, and called only for the drafts it has not rated yet.

    remember: whether it may reuse its answers; False where the reward changes while the sampler runs.
    timeout: seconds that one call may take; None for any.
    """

    reward: Reward
    usage: Usage
    check: Callable[[], None]
    remember: bool
    timeout: float | None = None
    known: dict[Hashable, float] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, prompt: str, drafts: list[Draft]) -> Floats:
        if not self.remember:
            return self._rate(prompt, drafts)
        # A rule may read an unfinished draft in another way, and a likelihood reads a masked one in its order.
        names = [(prompt, draft.tokens, draft.finish, draft.order) for draft in drafts]
        fresh = {name: draft for name, draft in zip(names, drafts, strict=True) if name not in self.known}
        if fresh:
            self.known.update(zip(fresh, self._rate(prompt, list(fresh.values())), strict=True))
        self.usage.reused += len(drafts) - len(fresh)
        return np.array([self.known[name] for name in names], dtype=np.float64)

    def _rate(self, prompt: str, drafts: list[Draft]) -> Floats:
        self.check()
        self.usage.reward_calls += 1
        self.usage.rated += len(drafts)
        return rate(self.reward, prompt, drafts) if self.timeout is None else self._rate_in_time(self.timeout, prompt, drafts)

    def _rate_in_time(self, seconds: float, prompt: str, drafts: list[Draft]) -> Floats:
        """Rate in a thread of its own. No thread can be ended from outside: one that hangs is left behind, as a daemon."""
        answer: Future[Floats] = Future()

        def work() -> None:
            try:
                answer.set_result(rate(self.reward, prompt, drafts))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
                answer.set_exception(error)

        Thread(target=work, name="exptilt-reward", daemon=True).start()
        try:
            return answer.result(seconds)
        except TimeoutError:  # of the wait: what the reward raises is a RewardError
            raise RewardError(
                f"reward {reward_name(self.reward)} did not return within {seconds:g} s for {len(drafts)} drafts. Make it faster "
                "or allow more time (reward_timeout). What may hang for ever belongs into rewards.Isolated, which can end it."
            ) from None


class Session:
    """A target made ready for one run on one prompt, under one budget.

    target: what the sampler gets instead of the user's own. usage: what has been spent so far, always current.
    trace: one record for each population yielded. limit: the limit of the budget that ended the run, in words, such
    as "tokens: 1210 of 1000"; None where the sampler came to its own end.

    The budget is asked before each engine call, and before each reward call for all but its tokens: what has been
    generated and paid for may still be rated. `halt` ends the run at the next call, with `Halted`. reward_timeout: seconds
    that one call of the reward may take; binding it, which may draw a pilot, has no such limit.

    Raises PromptError for a prompt that no answer can be drawn for, BudgetSpent where binding the reward took it all,
    RewardError where binding it fails.
    """

    def __init__(
        self,
        target: Target,
        prompt: str,
        key: Key,
        budget: Budget | None = None,
        halt: Event | None = None,
        reward_timeout: float | None = None,
    ) -> None:
        self.prompt = prompt
        self.usage = Usage()
        self.trace: tuple[dict[str, Any], ...] = ()
        self.limit: str | None = None
        self._budget = budget or Budget()
        self._reward_budget = replace(self._budget, tokens=None)
        self._halt = halt or Event()
        self._began = time.monotonic()
        self._fixed = target.fixed
        for engine in (target.engine, target.proposal):
            if engine is not None:
                engine.start(prompt)  # says at once what is wrong with a prompt
        metered = replace(
            target,
            engine=MeteredEngine(target.engine, (self.usage.reference,), self._check),
            proposal=target.proposal and MeteredEngine(target.proposal, (self.usage.proposal,), self._check),
        )
        try:
            bound = metered.bind(prompt, key.child("bind"))
        except BudgetSpent as spent:
            raise BudgetSpent(f"the budget ended ({spent}) while the reward drew its pilot: give a larger budget") from None
        except (ExptiltError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise RewardError(
                f"reward {reward_name(target.reward)} raised {type(error).__name__} when it was bound to a prompt: {error}. "
                "Mend the reward; no score is assumed."
            ) from error
        if isinstance(bound.reward, PromptReward):
            raise TargetError(f"{type(target.reward).__name__}.bind returned no function of (prompt, drafts): mend its bind")
        rated = MeteredReward(bound.reward, self.usage, self._check_reward, remember=self._fixed, timeout=reward_timeout)
        self.target = replace(bound, reward=rated)

    def run(self, sampler: Sampler, key: Key) -> Population:
        """The sampler's last population; where the budget ends first, the last one that was complete.

        Raises BudgetSpent where there was none yet, and whatever the engine, the reward or the sampler raises.
        """
        last = None
        try:
            for population in sampler(self.target, self.prompt, key):
                last = self._record(population)
        except BudgetSpent as spent:
            self.limit = str(spent)
        finally:
            self._tick()
        if last is None and self.limit is not None:
            raise BudgetSpent(
                f"the budget ended ({self.limit}) before {type(sampler).__name__} had a first complete population. "
                "Give a larger budget, or have the sampler draw less before its first population."
            )
        if last is None:
            raise TargetError(f"{type(sampler).__name__} yielded no population: a sampler must yield at least one")
        return last

    def _record(self, population: Population) -> Population:
        """Add a population to the trace; without a fixed reward, take its weights away first, but for those of zero."""
        if not self._fixed:
            held = population.log_w > -math.inf
            population = Population.unweighted(population.drafts, population.rewards, population.trace, held)
        self._tick()
        entry = {
            "tokens": self.usage.tokens,
            "seconds": self.usage.seconds,
            "n": len(population),
            "ess": population.ess,
            "max_share": population.max_share,
            "log_z": population.log_z,
            "mean_reward": population.mean_reward,
            "excluded": population.excluded,
        }
        self.trace = (*self.trace, entry)
        return population

    def _tick(self) -> None:
        self.usage.seconds = time.monotonic() - self._began

    def _check(self) -> None:
        self._ask(self._budget)

    def _check_reward(self) -> None:
        self._ask(self._reward_budget)

    def _ask(self, budget: Budget) -> None:
        self._tick()
        if self._halt.is_set():
            raise Halted("the run was stopped before this prompt was finished: run it again to go on")
        if limit := budget.spent(self.usage):
            raise BudgetSpent(limit)
