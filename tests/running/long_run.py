"""A run of 100 prompts on a table, made to be killed.

Usage: `python -m tests.running.long_run STORE SECONDS`, where SECONDS is the pause of each reward call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.running.result import Failure, Outcome
from exptilt.running.run import run
from exptilt.samplers import ETS
from exptilt.testing.toys import random_table

PROMPTS = [f"question {number % 90}" for number in range(100)]  # ten of them come twice
SAMPLER = ETS(candidates=3, rollouts=2, block=2)
pause = 0.0


def reward(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    time.sleep(globals()["pause"])  # not a constant of this function, so not part of the run's settings
    return [sum(draft.tokens) / 4 for draft in drafts]


def target() -> Target:
    return Target(TableEngine(random_table(3, 4), max_tokens=6, end=3), reward, beta=0.5)


def same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are equal in everything but the seconds they took, bit by bit."""
    if isinstance(one, Failure) or isinstance(other, Failure):
        return _untimed(one) == _untimed(other)
    ours, theirs = one.population, other.population
    return (
        (one.prompt, one.draft, one.seed, one.sampler) == (other.prompt, other.draft, other.seed, other.sampler)
        and (one.stopped, one.limit, one.warnings) == (other.stopped, other.limit, other.warnings)
        and (one.posterior, one.log_z, one.reward) == (other.posterior, other.log_z, other.reward)
        and (ours.drafts, ours.proper, ours.stats) == (theirs.drafts, theirs.proper, theirs.stats)
        and (ours.log_w.tobytes(), ours.rewards.tobytes()) == (theirs.log_w.tobytes(), theirs.rewards.tobytes())
        and (one.usage.reference, one.usage.proposal) == (other.usage.reference, other.usage.proposal)
        and [entry["ess"] for entry in one.trace] == [entry["ess"] for entry in other.trace]
    )


def _untimed(outcome: Outcome) -> Outcome:
    """A failure without what it cost, seconds among it."""
    return replace(outcome, usage=None) if isinstance(outcome, Failure) else outcome


if __name__ == "__main__":
    pause = float(sys.argv[2])
    run(target(), PROMPTS, SAMPLER, seed=7, store=sys.argv[1], concurrency=4)
