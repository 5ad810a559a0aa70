"""How a population grew, as the trace tells it: the tree of ETS, the generations of SMC, the path of a Markov chain.

Trees are columns of cards. A card is a partial draft: {"text", "parent", "share", "log", "path"}, where `parent` is
the number of a card in the column before (-1 in the first), `share` its part of the column's energy or weight, `log`
the logarithm that came from, and `path` whether it lies on the path to the end. Cards of ETS also have
`rollouts: [first, count]`, rows of the population.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exptilt.populations.diagnostics import log_sum
from exptilt.populations.population import Population


class Texts:
    """The texts of one prompt, each once; everything else names them by number."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def add(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    @property
    def all(self) -> list[str]:
        return list(self._places)


def tree(stats: Sequence[Mapping[str, Any]], population: Population | None, texts: Texts) -> dict[str, Any]:
    """The candidates of every step of a guided chain, the pick of each, and where their rollouts lie."""
    records = [record for stat in stats for record in [*stat.get("earlier", []), stat]]
    steps = {record["step"]: record for record in records if "step" in record}  # a dead end tells of its last step again
    columns, parent = [], -1
    for number, record in sorted(steps.items()):
        cards = _cards(record["candidates"], record["log_energies"], [parent] * len(record["candidates"]), texts)
        cards[record["pick"]]["path"] = True
        if population is not None and "rollouts" in record and record["first"] is not None:
            ends = record["first"] + np.cumsum(record["rollouts"])
            for card, end, count in zip(cards, ends.tolist(), record["rollouts"], strict=True):
                card["rollouts"] = [end - count, count]
        parent = record["pick"]
        columns.append(
            {"title": f"Step {number + 1}", "note": f"log W {record['log_weight']:+.2f}".replace("-", "−"), "cards": cards}
        )
    return {"kind": "candidates", "columns": columns}


def generations(records: Sequence[Mapping[str, Any]], chosen: str, texts: Texts) -> dict[str, Any]:
    """The particles of every generation with their parents; the path leads to the chosen draft."""
    columns = []
    for number, record in enumerate(records):
        parents = record["parents"] if number else [-1] * len(record["texts"])
        cards = _cards(record["texts"], record["log_w"], parents, texts)
        resampled = number > 0 and parents != list(range(len(parents)))
        columns.append({"title": f"Generation {number + 1}", "note": "resampled" if resampled else "", "cards": cards})
    place = next((place for place, text in enumerate(records[-1]["texts"]) if text == chosen), -1)
    for column in reversed(columns):
        if place >= 0:
            column["cards"][place]["path"] = True
            place = column["cards"][place]["parent"]
    return {"kind": "particles", "columns": columns}


def chain(sampler: Mapping[str, Any], states: int) -> dict[str, int]:
    """How the rows of a chain's population lie: chains advance together, so each step has one row of each."""
    chains = int(sampler.get("chains", 1))
    return {"chains": chains, "burn_in": int(sampler.get("burn_in", 0)), "steps": states // chains}


def _cards(bodies: Sequence[str], logs: Sequence[float], parents: Sequence[int], texts: Texts) -> list[dict[str, Any]]:
    values = np.array(logs, dtype=np.float64)
    total = log_sum(values)
    shares = np.exp(values - total) if total > -np.inf else np.zeros(values.size)
    return [
        {"text": texts.add(body), "parent": parent, "share": share, "log": log}
        for body, parent, share, log in zip(bodies, parents, shares.tolist(), values.tolist(), strict=True)
    ]
