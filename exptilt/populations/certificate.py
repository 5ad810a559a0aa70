"""Proofs: when the responses seen so far decide which answer is the most probable under π, whatever the unseen ones are.

Let S be the p-probability of the different responses seen, and G_a = Σ p(y)·exp(r(y)/β) over those of them with answer a. What
was not seen has probability 1 - S and, with r ≤ r_max, a γ-mass of (1 - S)·exp(r_max/β) at most; in the worst case all of it
has the second answer. So

    G_1 > G_2 + (1 - S)·exp(r_max/β)

proves that answer 1 is argmax_a π(a): a vote of infinitely many draws would choose it. Log-probabilities
move by about 1e-6 nats a token with the batch they were computed in, so each mass is taken with a margin against the claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from exptilt.draft import Draft, known_logq
from exptilt.keys import Floats

MARGIN = 1e-3  # of each mass; a thousand tokens at 1e-6 nats each


class Rated(Protocol):
    """What a proof reads of a population."""

    @property
    def drafts(self) -> Sequence[Draft]: ...

    @property
    def rewards(self) -> Floats: ...


def certified(
    population: Rated, answer: Callable[[str], str | None], *, beta: float, reward_max: float, margin: float = MARGIN
) -> str | None:
    """The answer that is proved to be the most probable one under π; None where the responses seen do not prove one.

    population: drafts with the log-probabilities of p itself (a target without proposal), in any number and with any weights,
        those of weight zero included: only which responses were seen counts.
    answer: reads the canonical answer of a text; texts without one count as one group, and are never proved.
    beta: of the target.
    reward_max: an upper bound of the reward.
    margin: by how much, relatively, each probability may be off.

    Raises ValueError for a reward above its bound, where log-probabilities are missing, and for drafts of masked models, whose
    log-probabilities leave out how likely their order was.
    """
    seen = {draft.tokens: row for row, draft in enumerate(population.drafts) if draft.finish is not None}
    mass = 0.0
    tilted: dict[str | None, float] = {}
    for row in seen.values():
        draft, reward = population.drafts[row], float(population.rewards[row])
        if reward > reward_max:
            raise ValueError(f"the reward {reward:g} is above reward_max={reward_max:g}: give a true upper bound")
        p = math.exp(_log_p(draft))
        mass += p
        found = answer(draft.text)
        tilted[found] = tilted.get(found, 0.0) + p * math.exp((reward - reward_max) / beta)
    standing = {name: value for name, value in tilted.items() if name is not None}
    if not standing:
        return None
    first = max(standing, key=lambda name: standing[name])
    second = max((value for name, value in tilted.items() if name != first), default=0.0)
    unseen = max(0.0, 1.0 - mass * (1.0 - margin))
    return first if tilted[first] * (1.0 - margin) > second * (1.0 + margin) + unseen else None


def _log_p(draft: Draft) -> float:
    if draft.order is not None:
        raise ValueError(
            "the drafts are of a masked model, which does not record how likely their order was: nothing can be proved"
        )
    return math.fsum(known_logq(draft))
