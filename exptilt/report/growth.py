"""How a population grew, as its trace tells it: the tree of a guided chain, generations of particles, a Markov chain.

Trees are columns of cards. A card is a partial draft: {"text", "parent", "share", "log", "path"}, where `parent` is
the number of a card in the column before (-1 in the first), `share` its part of the column's energy or weight, `log`
the logarithm that came from, and `path` whether it lies on the path to the end. Cards of a tree also have
`rollouts: [first, count]`, rows of the population.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exptilt.populations.diagnostics import log_shares
from exptilt.populations.population import Population
from exptilt.samplers.trace import Beams, Chain, Generations, Tree


class Texts:
    """The texts of one prompt, each once; everything else names them by number."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def add(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    @property
    def all(self) -> list[str]:
        return list(self._places)


def tree(trace: Tree, population: Population | None, texts: Texts) -> dict[str, Any]:
    """The candidates of every step of a guided chain, the pick of each, and where their rollouts lie."""
    columns, parent = [], -1
    for number, step in enumerate(trace.steps):
        cards = _cards(step.candidates, step.log_energies, [parent] * len(step.candidates), texts)
        cards[step.pick]["path"] = True
        if population is not None and step.rollouts is not None and step.first is not None:
            ends = step.first + np.cumsum(step.rollouts)
            for card, end, count in zip(cards, ends.tolist(), step.rollouts, strict=True):
                card["rollouts"] = [end - count, count]
        parent = step.pick
        note = f"log W {step.log_weight:+.2f}".replace("-", "−")
        columns.append({"title": f"Step {number + 1}", "note": note, "cards": cards})
    return {"kind": "candidates", "columns": columns}


def generations(trace: Generations | Beams, chosen: str | None, texts: Texts) -> dict[str, Any]:
    """The particles, or beams, of every generation with their parents; the path leads to the chosen draft, if there is one."""
    selected = "resampled" if isinstance(trace, Generations) else "the best kept"
    columns = []
    for number, each in enumerate(trace.generations):
        parents = each.parents if number else [-1] * len(each.texts)
        cards = _cards(each.texts, each.log_w, parents, texts)
        resampled = number > 0 and each.parents != tuple(range(len(each.parents)))
        columns.append({"title": f"Generation {number + 1}", "note": selected if resampled else "", "cards": cards})
    place = next((place for place, text in enumerate(trace.generations[-1].texts) if text == chosen), -1)
    for column in reversed(columns):
        if place >= 0:
            column["cards"][place]["path"] = True
            place = column["cards"][place]["parent"]
    return {"kind": "particles", "columns": columns}


def chain(trace: Chain, states: int) -> dict[str, int]:
    """How the rows of a chain's population lie: chains advance together, so each step has one row of each."""
    return {"chains": trace.chains, "burn_in": trace.burn_in, "steps": states // trace.chains}


def _cards(bodies: Sequence[str], logs: Sequence[float], parents: Sequence[int], texts: Texts) -> list[dict[str, Any]]:
    values = np.array(logs, dtype=np.float64)
    shares = np.exp(log_shares(values)) if values.max() > -np.inf else np.zeros(values.size)
    return [
        {"text": texts.add(body), "parent": parent, "share": share, "log": log}
        for body, parent, share, log in zip(bodies, parents, shares.tolist(), values.tolist(), strict=True)
    ]
