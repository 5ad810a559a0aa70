"""Several responses of one result: the chosen one, and the others by their weight."""

from __future__ import annotations

from typing import NamedTuple

from exptilt.running.result import Result


class Response(NamedTuple):
    """A response, how much of the population's weight all drafts with its text have, and its reward."""

    text: str
    share: float
    reward: float

    @property
    def told(self) -> str:
        return f"[{self.share:.1%} · reward {self.reward:.3g}]\n{self.text}"


def responses(result: Result, count: int) -> list[Response]:
    """Up to `count` different responses, the chosen one first; those of weight zero are left out."""
    population = result.population
    found: dict[str, Response] = {}
    for draft, weight, reward in zip(population.drafts, population.weights, population.rewards, strict=True):
        before = found[draft.text].share if draft.text in found else 0.0
        found[draft.text] = Response(draft.text, before + float(weight), float(reward))
    chosen = [found.pop(result.text)] if result.text in found else []
    others = sorted((each for each in found.values() if each.share > 0), key=lambda each: -each.share)
    return [*chosen, *others][:count]
