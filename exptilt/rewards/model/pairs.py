"""What all model rewards share: a memory of scores, the cut that makes long texts fit, and the choice of one number.

A pair is a prompt and the text of a response. The cut never drops the answer: first the middle of the prompt goes, down to
ASKED characters of it, then the start of the response, down to LEAST. What still does not fit is refused.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from exptilt.errors import RewardError
from exptilt.keys import Floats

Pair = tuple[str, str]
Long = Literal["cut", "refuse"]
Reduce = Literal["min", "last", "product", "mean"]
REMEMBERED = 2**16  # scores that are kept
GAP = " [...] "  # this marks where something was cut
ASKED = 256  # characters of a prompt, half from each end, that a cut leaves
LEAST = 64  # characters of a response's end that a cut leaves
LOGGER = logging.getLogger("exptilt")
_REDUCTIONS: dict[str, Callable[[Floats], float]] = {
    "min": lambda scores: float(scores.min()),
    "last": lambda scores: float(scores[-1]),
    "product": lambda scores: math.prod(scores.tolist()),
    "mean": lambda scores: float(scores.mean()),
}


class Memory:
    """The scores of the last REMEMBERED pairs. Threads may share it; name: the reward, for errors."""

    def __init__(self, name: str, most: int = REMEMBERED) -> None:
        self._name, self._most = name, most
        self._known: OrderedDict[Pair, float] = OrderedDict()
        self._lock = threading.Lock()

    def scores(self, pairs: Sequence[Pair], rate: Callable[[list[Pair]], Sequence[float] | Floats]) -> list[float]:
        """The scores of pairs; `rate` is called for those that are not known, each once.

        Raises RewardError where `rate` returns anything but one finite number for each.
        """
        with self._lock:
            found = {pair: self._known[pair] for pair in dict.fromkeys(pairs) if pair in self._known}
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in found]
        if fresh:
            found.update(zip(fresh, self._checked(fresh, rate(fresh)), strict=True))
        with self._lock:
            for pair in found:
                self._known[pair] = found[pair]
                self._known.move_to_end(pair)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return [found[pair] for pair in pairs]

    def _checked(self, pairs: Sequence[Pair], scores: Sequence[float] | Floats) -> list[float]:
        if len(scores) != len(pairs):
            raise RewardError(f"{self._name} gave {len(scores)} scores for {len(pairs)} responses: it must give one for each")
        for (_, text), score in zip(pairs, scores, strict=True):
            if not math.isfinite(score):
                raise RewardError(
                    f"{self._name} gives {score} for the response {text[:80]!r}. A model that overflows may need "
                    'dtype="float32" or "bfloat16"; no score is assumed.'
                )
        return [float(score) for score in scores]


class Cutter:
    """Makes pairs fit, or refuses those that do not. The first cut is reported to the logger "exptilt"."""

    def __init__(self, name: str, long: Long) -> None:
        if long not in ("cut", "refuse"):
            raise ValueError(f'long={long!r}: give "cut" to shorten texts that are too long, or "refuse" to stop at them')
        self._name, self._long, self._reported = name, long, False

    def fit(self, pair: Pair, fits: Callable[[Pair], bool]) -> Pair:
        """The pair itself where it fits, else as much of it as does. Raises RewardError where that is too little."""
        if fits(pair):
            return pair
        prompt, response = pair
        if self._long == "refuse":
            raise RewardError(
                f"the prompt {prompt[:60]!r} with a response of {len(response)} characters is too long for {self._name}: "
                'raise max_length, lower max_tokens of the engine, or give long="cut"'
            )
        if not self._reported:
            self._reported = True
            LOGGER.warning("%s rates shortened texts: a prompt and its response are longer than it can read", self._name)
        short = prompt if len(prompt) <= ASKED else _without_middle(prompt, ASKED)
        if fits((short, response)):
            kept = ASKED + _most(len(prompt) - ASKED, lambda more: fits((_without_middle(prompt, ASKED + more), response)))
            return _without_middle(prompt, kept), response
        if len(response) <= LEAST or not fits((short, GAP + response[-LEAST:])):
            raise RewardError(
                f"{self._name} has no room for {ASKED} characters of the prompt {prompt[:60]!r} and the last {LEAST} of its "
                "response: raise max_length, or shorten the form around them"
            )
        kept = LEAST + _most(len(response) - LEAST, lambda more: fits((short, GAP + response[-LEAST - more :])))
        return short, GAP + response[-kept:]


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """A count below `limit` that fits although the next does not; 0 is known to fit, `limit` is known not to."""
    low = 0
    while limit - low > 1:
        middle = (low + limit) // 2
        low, limit = (middle, limit) if fits(middle) else (low, middle)
    return low


def _without_middle(prompt: str, kept: int) -> str:
    end = kept // 2
    return prompt[: kept - end] + GAP + prompt[len(prompt) - end :]


def fill(form: str, **fields: str) -> str:
    """A form with its {fields} filled in, all at once: what is filled in is not looked at again."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in fields), lambda found: fields[found[0][1:-1]], form)


def check_form(form: str, *fields: str) -> None:
    """Refuse a form that lacks one of its {fields}."""
    for name in fields:
        if f"{{{name}}}" not in form:
            raise ValueError(f"the form {form[:80]!r} has no place for {{{name}}}: write {{{name}}} where it belongs")


def check_reduce(reduce: str) -> None:
    if reduce not in _REDUCTIONS:
        raise ValueError(f"reduce={reduce!r}: give one of {', '.join(_REDUCTIONS)}")


def reduced(scores: Floats, reduce: Reduce) -> float:
    """The scores of a response's steps, at least one, as one number."""
    return _REDUCTIONS[reduce](scores)


Value = Literal["logit", "log-odds", "log-prob"]


def check_value(value: str, label: object) -> None:
    if value not in ("logit", "log-odds", "log-prob"):
        raise ValueError(f'value={value!r}: give "logit", "log-odds" or "log-prob"')
    if value != "logit" and label is None:
        raise ValueError(f"value={value!r} is about one of several labels: say which by label=")


def chosen(logits: Floats, label: int | None, value: Value) -> float:
    """One number from the logits [labels] of a classifier: of its only label, or of `label`."""
    if label is None or value == "logit":
        return float(logits[label or 0])
    others = np.logaddexp.reduce(np.delete(logits, label))
    odds = float(logits[label] - others)
    return odds if value == "log-odds" else -float(np.logaddexp(0.0, -odds))
