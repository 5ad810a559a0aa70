"""The run of one prompt on one target: its budget, its usage so far, and the trace of its populations.

A `Session` hands the sampler a target that looks like the user's own, with engines and a reward that are counted
(`exptilt.running.metered`). A `PromptReward` is bound here as well, on those same engines, so that the pilot it draws is
counted like everything else. If the reward is not a fixed function (`target.fixed` is False) nothing is remembered, because
every call may return something else, and populations lose their weights, because there is no π that they could represent.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np

from exptilt.cancelling import Deadline, Flag, any_of, current
from exptilt.core import Reward, Sampler, Target
from exptilt.draft import Draft, Prompt
from exptilt.errors import BudgetSpent, Cancelled, ExptiltError, RewardError, SelectError, TargetError, raised_at
from exptilt.keys import Key
from exptilt.populations.overlap import Overlap
from exptilt.populations.population import Population
from exptilt.populations.until import Explained, Until
from exptilt.rating import reward_name, told_maximum
from exptilt.running.foresight import foresee
from exptilt.running.metered import MeteredEngine, MeteredReward
from exptilt.running.result import Stopped
from exptilt.usage import Budget, Usage


class Session:
    """A target made ready for one run on one prompt, under one budget.

    target: what the sampler gets instead of the user's own.
    usage: what has been spent so far, always current.
    trace: one record for each population yielded.
    stopped: what ended the run: "done" if the sampler came to its own end, "budget", or "until" for the stop rule.
    limit: which limit or rule it was, in words, such as "tokens: 980 of 1000, and the next call may take 40 more".
    reward_timeout: seconds that one call of the reward may take; binding it, which may draw a pilot, has no such limit.
    usage: given where it is wanted after an error too.

    The budget is asked before each engine call for what the call may cost at the most, and before each reward call for all but
    its tokens: what has been generated and paid for may still be rated. When its seconds are over, or `cancel` is set, the call
    under way ends as soon as it can, and the run with it, in the latter case with `Cancelled`.

    Raises PromptError for a prompt that no answer can be drawn for, BudgetSpent where binding the reward took it all,
    RewardError where binding it fails.
    """

    def __init__(
        self,
        target: Target,
        prompt: Prompt,
        key: Key,
        budget: Budget | None = None,
        cancel: Flag | None = None,
        reward_timeout: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.prompt = prompt
        self.usage = Usage() if usage is None else usage
        self.trace: tuple[dict[str, Any], ...] = ()
        self._drafts: Sequence[Draft] = ()  # of the last population
        self.stopped: Stopped = "done"
        self.limit: str | None = None
        self._budget = budget or Budget()
        self._reward_budget = replace(self._budget, tokens=None)
        self._cancel = any_of(cancel, current())
        self._began = time.monotonic()
        self._deadline = Deadline(self._began + (self._budget.seconds or math.inf))
        self._given = target
        self._refused = 0  # tokens spent, with those of the call that a budget refused
        self._fixed = target.fixed
        for engine in (target.engine, target.proposal):
            if engine is not None:
                engine.start(prompt)  # this says at once what is wrong with a prompt
        halt = any_of(cancel, current(), None if self._budget.seconds is None else self._deadline)
        engines = {
            "engine": MeteredEngine(target.engine, (self.usage.reference,), self._check, halt),
            "proposal": target.proposal
            and MeteredEngine(target.proposal, (self.usage.proposal,), self._check, halt, scored=True),
        }
        bound = target if target.is_bound else self._bind(replace(target, **engines), key.child("bind"))
        reward = cast(Reward, bound.reward)
        self._bound = self.usage.tokens  # by binding the reward
        self._reward_max = told_maximum(reward)
        if reward_timeout is None and self._budget.seconds is not None:
            reward_timeout = math.inf  # its calls can be left behind
        rated = MeteredReward(reward, self.usage, self._check_reward, halt, self._fixed, reward_timeout)
        self._ratios: list[float] = []  # log p/q of what the proposal drew
        if target.proposal is not None:
            engines["engine"] = replace(engines["engine"], ratios=self._ratios)
        self.target = replace(target, **engines, reward=rated)

    def _bind(self, target: Target, key: Key) -> Target:
        """The target with its reward made a function for the prompt."""
        name = reward_name(self._given.reward)
        try:
            bound = target.bind(self.prompt, key)
        except (BudgetSpent, Cancelled) as ended:
            limit, least = self._ended(ended), f": tokens={self._refused} lets it be drawn" if self._refused else ""
            raise BudgetSpent(
                f"the budget ended ({limit}) while the reward drew its pilot: give a larger budget{least}"
            ) from None
        except (ExptiltError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise RewardError(
                f"reward {name} raised {type(error).__name__} when it was bound to a prompt: {error}{raised_at(error)}. "
                "Fix the reward; no score is assumed."
            ) from error
        if not bound.is_bound:
            raise TargetError(f"{type(target.reward).__name__}.bind did not return a function of (prompt, drafts): fix its bind")
        return bound

    @property
    def overlap(self) -> Overlap | None:
        """How well the proposal's draws so far cover the model; None without a proposal, and before the first draw."""
        return Overlap.of(self._ratios) if self._ratios else None

    def populations(self, sampler: Sampler, key: Key, until: Until | None = None) -> Iterator[Population]:
        """The sampler's populations as they come, until it ends, the budget does, or `until` is true of one of them.

        Raises BudgetSpent where the budget ends before the first of them, and whatever the engine, the reward, the
        sampler or the stop rule raises.
        """
        try:
            for population in sampler(self.target, self.prompt, key):
                known = self._known(population, getattr(sampler, "power", 1.0) != 1.0)
                enough = until is not None and _asked(until, known)
                if until is not None and enough:
                    self.stopped, self.limit = "until", _why(until, known)
                    # draws that end with a success are not a fair sample: their sum is biased, their shares are what was seen
                    known = replace(known, proper=False)
                self._record(known)
                yield known
                if enough:
                    return
        except (BudgetSpent, Cancelled) as ended:
            self.stopped, self.limit = "budget", self._ended(ended)
        finally:
            self._tick()
        if not self.trace and self.limit is not None:
            raise BudgetSpent(
                f"the budget ended ({self.limit}) before {type(sampler).__name__} had a first complete population. "
                f"Give a larger budget{self._enough(sampler)}, or make the sampler draw less before its first population."
            )
        if not self.trace:
            raise TargetError(f"{type(sampler).__name__} yielded no population: a sampler must yield at least one")

    def run(self, sampler: Sampler, key: Key, until: Until | None = None) -> Population:
        """The last of the sampler's `populations`; the others are let go of as they come."""
        return deque(self.populations(sampler, key, until), maxlen=1).pop()

    def _known(self, population: Population, power: bool) -> Population:
        """The population with what its target tells; without a fixed reward there is none, and weights but zero are taken away.

        power: whether the sampler's target is a power of p.
        """
        if not self._fixed:
            held = population.log_w > -math.inf
            return Population.unweighted(population.drafts, population.rewards, population.trace, held)
        own = self.target.proposal is None and not power
        return population.of_target(float(self.target.beta), self._reward_max, own)

    def _record(self, population: Population) -> None:
        """Add a population to the trace."""
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
            "grown": population.drafts[: len(self._drafts)] == self._drafts,
        }
        if (overlap := self.overlap) is not None:
            entry["overlap"] = asdict(overlap)
        self.trace, self._drafts = (*self.trace, entry), population.drafts

    def _tick(self) -> None:
        self.usage.seconds = time.monotonic() - self._began

    def _check(self, most: Callable[[], int]) -> None:
        """most: tells how many tokens the call to come may take; counted only where tokens have a limit."""
        self._ask(self._budget, 0 if self._budget.tokens is None else most())

    def _check_reward(self) -> None:
        self._ask(self._reward_budget, 0)

    def _ask(self, budget: Budget, most: int) -> None:
        self._tick()
        if self._cancel.is_set():
            raise Cancelled("the run was cancelled before this prompt was finished: run it again")
        if limit := budget.spent(self.usage, most):
            self._refused = self.usage.tokens + most if limit.startswith("tokens") else 0
            raise BudgetSpent(limit)

    def _ended(self, by: BudgetSpent | Cancelled) -> str:
        """Which limit it was, in words. Raises `Cancelled` again where it was no limit."""
        if isinstance(by, BudgetSpent):
            return str(by)
        if self._cancel.is_set() or not self._deadline.is_set():
            raise by
        self._tick()
        return f"seconds: {self.usage.seconds:.6g} of {self._budget.seconds:.6g}"

    def _enough(self, sampler: Sampler) -> str:
        """The budget of tokens that is always enough for a first population, in words; nothing where it was not the tokens."""
        if not self._refused:
            return ""
        foreseen = foresee(self._given, self.prompt, sampler, whole=False)
        if foreseen is None or not self._given.is_bound:  # which may draw and score as well
            return f", tokens={max(self._refused, foreseen.first if foreseen else 0)} at the least"
        return f" (tokens={self._bound + foreseen.first} is enough for one)"


def _asked(rule: Until, population: Population) -> bool:
    """What a stop rule says. Raises SelectError where it raises, or says neither True nor False."""
    try:
        said = rule(population)
    except (ExptiltError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: a rule that calls exit() must not end the run
        raise SelectError(
            f"the stop rule {name_of(rule)} raised {type(error).__name__}: {error}{raised_at(error)}. Correct the rule."
        ) from error
    if not isinstance(said, bool | np.bool_):
        raise SelectError(f"the stop rule {name_of(rule)} returned {said!r:.80}: return True to stop, or False")
    return bool(said)


def _why(rule: Until, population: Population) -> str:
    """Which rule was met, and by what where it tells."""
    return rule.why(population) if isinstance(rule, Explained) else name_of(rule)


def name_of(rule: Until) -> str:
    """What to call a stop rule: a function's name, else the rule as text."""
    return getattr(rule, "__qualname__", None) or str(rule)
