"""Draws against a law that is known exactly, and drafts against those that were drawn alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from exptilt.draft import Draft, known_logq


def check_law(drafts: Sequence[Draft], law: Mapping[Any, float], name: Callable[[Draft], Any]) -> None:
    """Every count as likely as five standard errors of a normal law at least, and nothing outside the support.

    The binomial tail itself: a rare outcome that came once is many standard errors away without being unlikely, and
    drafts drawn without seeds differ from run to run.
    """
    counts, n = Counter(map(name, drafts)), len(drafts)
    assert not set(counts) - set(law)
    for outcome, probability in law.items():
        assert binomial_tail(counts[outcome], n, probability) > math.erfc(5 / math.sqrt(2)), outcome


def binomial_tail(count: int, n: int, probability: float) -> float:
    """Twice the probability of a count at least as far out on its side."""
    if probability in (0.0, 1.0):
        return float(count == n * probability)
    k = np.arange(n + 1)
    choices = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)])
    mass = np.exp(choices + k * math.log(probability) + (n - k) * math.log1p(-probability))
    return 2 * min(float(mass[: count + 1].sum()), float(mass[count:].sum()))


def prefixes(drafts: Sequence[Draft], start: int = 0) -> int:
    """How many distinct prefixes the drafts have that were evaluated to draw the token after them."""
    return len({(draft.prompt, draft.tokens[:n]) for draft in drafts for n in range(start, len(draft.tokens))})


def agree(engine: Any, found: Sequence[Draft], alone: Sequence[Draft], *, atol: float = 1e-5) -> None:
    """The same tokens, with the same log-probabilities, which are their scores as well."""
    assert [draft.tokens for draft in found] == [draft.tokens for draft in alone]
    for draft, other, scores in zip(found, alone, engine.score(found), strict=True):
        np.testing.assert_allclose(known_logq(draft), known_logq(other), atol=atol)
        np.testing.assert_allclose(known_logq(draft), scores, atol=atol)
