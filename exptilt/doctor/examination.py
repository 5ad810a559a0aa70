"""What an examination is asked for and what it finds: the records of the doctor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from exptilt.doctor.checks import Checks
from exptilt.doctor.findings import Findings
from exptilt.doctor.tilt import Estimate, Tilt
from exptilt.evaluation.compare import Point
from exptilt.samplers import Independent


@dataclass(frozen=True)
class Plan:
    """Independent draws for one prompt.

    ess: effective draws, which would serve as well if drawn from π itself.
    tokens: tokens generated.
    rated: drafts rated.
    """

    sampler: Independent
    ess: Estimate
    tokens: float
    rated: float

    @classmethod
    def reaching(cls, ess: float, tilt: Tilt, tilts: Sequence[Tilt], length: float) -> Plan:
        """As many draws as make `ess` effective ones: n draws are worth n times the ESS share.

        tilts: bootstrap resamples of the tilt.
        length: tokens of a draw.
        """
        n = max(1, math.ceil(ess / tilt.share - 1e-9))
        return cls(Independent(n), Estimate.of(n * tilt.share, (n * other.share for other in tilts)), n * length, n)

    def resized(self, n: int) -> Plan:
        """The same with another number of draws."""
        times = n / self.sampler.n
        return Plan(Independent(n), Estimate(*(times * value for value in self.ess)), times * self.tokens, n)


@dataclass(frozen=True)
class Goal:
    """What the long run is to reach.

    ess: effective draws from π for each prompt.
    accuracy: share of problems solved, for a pilot with a task.
    beta, kl, share: how far to tilt, by β, by KL in nats, or by the ESS as a share of draws. Give at most one of them; by
        default a KL of 1 nat, less where the pilot could not show as much.
    """

    ess: float = 8.0
    accuracy: float | None = None
    beta: float | None = None
    kl: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.beta, self.kl, self.share)) > 1:
            raise ValueError(f"Goal(beta={self.beta}, kl={self.kl}, share={self.share}): give at most one of them")
        for name, most in (("ess", math.inf), ("accuracy", 1.0), ("beta", math.inf), ("kl", math.inf), ("share", 1.0)):
            value = getattr(self, name)
            if value is not None and not (0 < value <= most and value < math.inf):
                raise ValueError(f"Goal({name}={value}): give a positive number{' up to 1' if most == 1 else ''}")


@dataclass(frozen=True)
class Speed:
    """What the pilot cost, without the few drafts that are rated again.

    tokens, seconds: those of the whole pilot, by the wall clock.
    per_token, per_rating: seconds of one, each its share of the whole at the pilot's concurrency.
    binding: tokens that the reward draws for itself for each prompt, such as an agreement's pilot.
    """

    tokens: int
    seconds: float
    per_token: float
    per_rating: float
    binding: float


@dataclass(frozen=True)
class Bill:
    """What a run is expected to cost, from the pilot's lengths and speed. rated: drafts, of which equal ones count once."""

    tokens: float
    rated: float
    seconds: float


@dataclass(frozen=True)
class Examination:
    """What was found and what follows from it. `examine` says how.

    beta: the suggested β, or the one that was given; None where no reward varies, and then there is no tilt, plan or choice.
    kl, share: KL(π‖p) in nats and the ESS share at that β, in the mean over the prompts whose reward varies.
    best_of: the n whose best-of-n has the same mean reward; None where the pilot's draws do not suffice.
    heavy: prompts whose exp(r/β) has a heavy tail by k̂.
    explained: for `PLACES` mean lengths, the share of the variance of exp(r/β) that the prefix explains.
    lost: for the same lengths, the share of the draws without weight that are seen to be lost by then.
    acceptance: of suffix redraws under π.
    plan: the number of independent draws that reaches the effective draws; where an accuracy is wanted and reached, the number
        that reaches it.
    why: a sentence.
    curve: accuracy of fewer draws, for a pilot with a task.
    select: how the answer is picked, "draw", "best" or "vote".
    warnings: in plain words, each with its cure.
    """

    findings: Findings
    checks: Checks
    speed: Speed
    beta: Estimate | None = None
    kl: Estimate | None = None
    share: Estimate | None = None
    best_of: int | None = None
    heavy: int = 0
    explained: tuple[Estimate, ...] = ()
    lost: tuple[Estimate, ...] = ()
    acceptance: Estimate | None = None
    plan: Plan | None = None
    why: str = ""
    curve: tuple[Point, ...] = ()
    select: str = "draw"
    warnings: tuple[str, ...] = ()

    def bill(self, plan: Plan, problems: int) -> Bill:
        """What `problems` prompts would cost."""
        tokens, rated = problems * (plan.tokens + self.speed.binding), problems * plan.rated
        return Bill(tokens, rated, tokens * self.speed.per_token + rated * self.speed.per_rating)
