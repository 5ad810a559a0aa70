"""How exptilt's own traces are drawn: the tree of a guided chain, generations of particles, a Markov chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from exptilt.populations.diagnostics import log_shares
from exptilt.populations.growth import Card, Column, Columns, Walk, growth
from exptilt.samplers.trace import Beams, Chain, Generation, Generations, Tree


@growth.register
def tree(trace: Tree, rows: int, chosen: str | None) -> Columns | None:
    """The candidates of every step of a guided chain, the pick of each, and where their rollouts lie."""
    columns, parent = [], -1
    for number, step in enumerate(trace.steps):
        cards = _cards(step.candidates, step.log_energies, [parent] * len(step.candidates))
        if rows and step.rollouts is not None and step.first is not None:
            ends = step.first + np.cumsum(step.rollouts)
            lie = zip(cards, ends.tolist(), step.rollouts, strict=True)
            cards = [replace(card, rollouts=(end - count, count)) for card, end, count in lie]
        cards[step.pick] = replace(cards[step.pick], path=True)
        parent = step.pick
        note = f"log W {step.log_weight:+.2f}".replace("-", "−")
        columns.append(Column(f"Step {number + 1}", note, tuple(cards)))
    return Columns("candidates", tuple(columns)) if columns else None


@growth.register
def particles(trace: Generations, rows: int, chosen: str | None) -> Columns | None:
    """The particles of every generation with their parents; the path leads to the chosen draft."""
    return _side_by_side(trace.generations, chosen, "resampled")


@growth.register
def beams(trace: Beams, rows: int, chosen: str | None) -> Columns | None:
    """The drafts that a beam search kept at each step; the path leads to the chosen one."""
    return _side_by_side(trace.generations, chosen, "the best kept")


@growth.register
def walk(trace: Chain, rows: int, chosen: str | None) -> Walk | None:
    """The states of Markov chains, where they are the rows of the population."""
    return Walk(trace.chains, trace.burn_in, rows // trace.chains) if rows and not trace.recycled else None


def _side_by_side(generations: Sequence[Generation], chosen: str | None, selected: str) -> Columns | None:
    if not generations:
        return None
    path = _ancestry(generations, chosen)
    columns = []
    for number, each in enumerate(generations):
        cards = _cards(each.texts, each.log_w, each.parents if number else [-1] * len(each.texts))
        if path:
            cards[path[number]] = replace(cards[path[number]], path=True)
        resampled = number > 0 and each.parents != tuple(range(len(each.parents)))
        columns.append(Column(f"Generation {number + 1}", selected if resampled else "", tuple(cards)))
    return Columns("particles", tuple(columns))


def _ancestry(generations: Sequence[Generation], chosen: str | None) -> list[int]:
    """The number of the chosen draft's forebear in each generation; empty where it is in none."""
    found = next((number for number, text in enumerate(generations[-1].texts) if text == chosen), None)
    if found is None:
        return []
    path = [found]
    for each in reversed(generations[1:]):
        path.append(each.parents[path[-1]])
    return path[::-1]


def _cards(texts: Sequence[str], logs: Sequence[float], parents: Sequence[int]) -> list[Card]:
    values = np.array(logs, dtype=np.float64)
    shares = np.exp(log_shares(values)) if values.max() > -np.inf else np.zeros(values.size)
    return [Card(*each) for each in zip(texts, parents, shares.tolist(), values.tolist(), strict=True)]
