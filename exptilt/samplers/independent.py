"""Independent draws, importance-weighted: the plainest sampler.

`Independent(n)` draws y_1..y_n from q, the proposal if the target has one and p itself otherwise, with weights

    w_i = (1/n)·exp(r(y_i)/β)·p(y_i)/q(y_i),

properly weighted for γ = p·exp(r/β) at every n. With the selects of `exptilt.populations.select` this one sampler is
importance sampling, best-of-n (`best`), soft best-of-n (`draw`: Verdun et al., 2505.03156), majority and weighted votes
(`vote`) and MBR (`mbr`). Its draw tends to π with KL(π‖p_n) ≤ log(1 + χ²/n), where χ² = Var_p(exp(r/β))/Z².

weights="distinct" counts each different response once, by the probability that n draws find it
(`exptilt.populations.distinct`):

    w(y) = exp(r(y)/β)·p(y)/(1 - (1 - q(y))^n),     y among the distinct responses drawn,

properly weighted as well. A vote counts so by itself, and leaves the population and its log Ẑ as they are. The identity of a
response is its tokens, and in masked models the order of its decisions, which must follow from the network: a random order has
a probability of its own.
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
from exptilt.draft import Draft, Prompt
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
        if self.weights == "distinct" and _random_order(target):
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
                yield self._population(target, drafts, log_h, rewards)

    def _population(self, target: Target, drafts: list[Draft], log_h: Floats, rewards: Floats) -> Population:
        """The draws so far, or the distinct ones among them. log_h: log of exp(r/β)·p/q, float64 [draws]."""
        told = all(draft.logq is not None for draft in drafts)
        if drafts[0].order is not None:  # settings cost time, and only masked models have an order
            told = told and not _random_order(target)
        population = Population(drafts, log_h - math.log(len(drafts)), rewards, independent=told)
        return population if self.weights == "draws" else population.distinct()


def _random_order(target: Target) -> bool:
    """Whether the drafts' log-probabilities leave out how likely their order was."""
    return target.law.settings.get("order") == "random"
