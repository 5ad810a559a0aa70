"""Independent draws, importance-weighted: the plainest sampler.

`Independent(n)` draws y_1..y_n from q, the proposal if the target has one and p itself otherwise, with weights

    w_i = (1/n)·exp(r(y_i)/β)·p(y_i)/q(y_i),

properly weighted for γ = p·exp(r/β) at every n. With the selects of `exptilt.populations.select` this one sampler is
importance sampling, best-of-n (`best`), soft best-of-n (`draw`: Verdun et al., 2505.03156), majority and weighted votes
(`vote`) and MBR (`mbr`). Its draw tends to π with KL(π‖p_n) ≤ log(1 + χ²/n), where χ² = Var_p(exp(r/β))/Z².

weights="distinct" counts each different response once, by the probability that n draws find it (Horvitz and Thompson,
"A generalization of sampling without replacement from a finite universe", 1952):

    w(y) = exp(r(y)/β)·p(y)/(1 - (1 - q(y))^n),     y among the distinct responses drawn,

properly weighted as well, since 1 - (1-q)^n is the probability that y is among them. Where responses repeat, the votes of
such a population vary only with what was not seen; where none repeats nothing changes. In logarithms the denominator is
log(-expm1(n·log1p(-q))). The identity of a response is its tokens, and in masked models the order of its decisions, which must
follow from the network: a random order has a probability of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np

from exptilt.core import Target
from exptilt.describe import LATER
from exptilt.draft import Draft, Prompt, known_logq
from exptilt.errors import TargetError
from exptilt.keys import Floats, Key
from exptilt.populations.population import Population
from exptilt.samplers.command import Command
from exptilt.samplers.common import at_least_one, log_ratio
from exptilt.watching import drawing_the_answer

Weights = Literal["draws", "distinct"]


@dataclass(frozen=True)
class Independent:
    """n independent responses, importance-weighted; the plainest sampler, and the base of all comparisons.

    n: how many responses.
    batch: how many to draw before each population is yielded; all at once where not given.
    weights: "draws" weighs every draw, "distinct" each different response once (needs log-probabilities).

    While all drawn so far have weight zero nothing is yielded: Ẑ = 0 counts as such until a draft is allowed.
    Raises AllWeightsZero where none of the n is.
    """

    n: int
    batch: int | None = None
    weights: Weights = field(default="draws", metadata=LATER)
    weighted: ClassVar[bool] = True
    command: ClassVar[Command] = Command(
        "independent", "n independent responses, importance-weighted: best-of-n, votes, MBR", start={"n": 16}
    )

    def __post_init__(self) -> None:
        at_least_one(self, "n", "batch")
        if self.weights not in get_args(Weights):
            raise ValueError(f'Independent(weights={self.weights!r}): give "draws" to weigh each draw, or "distinct"')

    def needs(self, target: Target) -> frozenset[str]:
        """Nothing; "score" where there is a proposal, "logq" for distinct weights.

        Raises TargetError for distinct weights of a masked model whose order is random: q is then the probability of a path
        given its order, and the probability of the order is not known.
        """
        if self.weights == "distinct" and target.law.settings.get("order") == "random":
            raise TargetError(
                f'weights="distinct" needs the probability of each response, and {target.law.name} decides its positions in a '
                'random order, whose probability is not known: take another order, such as "left", or weights="draws"'
            )
        told = {"logq"} if self.weights == "distinct" else set()
        return frozenset(told if target.proposal is None else told | {"score"})

    def __call__(self, target: Target, prompt: Prompt, key: Key) -> Iterator[Population]:
        drafts: list[Draft] = []
        log_h, rewards = np.zeros(0), np.zeros(0)
        while len(drafts) < self.n:
            count = min(self.batch or self.n, self.n - len(drafts))
            keys = [key.child("draft", len(drafts) + i) for i in range(count)]
            with drawing_the_answer(self) if self.n == 1 else nullcontext():
                fresh = target.law.extend([target.law.start(prompt)] * count, keys)
            rated = target.rate(prompt, fresh)
            drafts += fresh
            rewards = np.concatenate([rewards, rated])
            log_h = np.concatenate([log_h, target.tilt(rated) + log_ratio(target, fresh, [0] * count)])
            if len(drafts) == self.n or log_h.max() > -math.inf:
                yield self._population(drafts, log_h, rewards)

    def _population(self, drafts: list[Draft], log_h: Floats, rewards: Floats) -> Population:
        """The draws so far, or the distinct ones among them. log_h: log of exp(r/β)·p/q, float64 [draws]."""
        if self.weights == "draws":
            return Population(drafts, log_h - math.log(len(drafts)), rewards)
        first = {(draft.tokens, draft.order): row for row, draft in reversed([*enumerate(drafts)])}
        rows = sorted(first.values())
        log_q = np.array([math.fsum(known_logq(drafts[row])) for row in rows])
        log_w = log_h[rows] + log_q - log_found(log_q, len(drafts))  # log_h has p/q, and only p is wanted
        return Population([drafts[row] for row in rows], log_w, rewards[rows])


def log_found(log_q: Floats, draws: int) -> Floats:
    """log(1 - (1-q)^n), the probability that n draws find a response of probability q: float64 [responses], nats."""
    with np.errstate(divide="ignore"):  # at q = 1, log1p(-1) = -inf: it is found with probability 1
        found = np.log(-np.expm1(draws * np.log1p(-np.exp(np.minimum(log_q, 0.0)))))
    return np.where(log_q < -40.0, math.log(draws) + log_q, found)  # n·q is exact to the last digit here
