"""When what has been drawn is enough, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exptilt.errors import UsageError
from exptilt.names.answers import find_answer
from exptilt.objects import Registry
from exptilt.populations import until
from exptilt.populations.until import Until

RULES: Mapping[str, type[Any]] = {
    "reward": until.RewardReached,
    "sure": until.Sure,
    "certain": until.Certain,
    "ess": until.SampleSize,
    "log_z_error": until.LogZError,
}
STOP_RULES = Registry(
    "stop rule", {}, tuple(kind.help.partition(",")[0] for kind in RULES.values()), takes="(population) -> bool"
)


def stop_rule(spec: str) -> Until:
    """A stop rule by what it is and its numbers, such as "reward:1.0" or "sure:number:0.95", or the user's own by where it is."""
    kind, _, rest = spec.partition(":")
    kind = kind.replace("-", "_")
    if kind not in RULES:
        return STOP_RULES.find(spec)
    form = RULES[kind].help
    try:
        if kind == "sure":
            answer, _, level = rest.rpartition(":")
            number = float(level)
            return until.sure(find_answer(answer), number)
        if kind == "certain":
            answer, _, bound = rest.rpartition(":")
            given = answer != "" and is_number(bound)
            return until.certain(find_answer(answer if given else rest), reward_max=float(bound) if given else None)
        return RULES[kind](float(rest))
    except ValueError as error:
        raise UsageError(f"{spec!r} is not a stop rule ({error}): write {form}") from None


def is_number(text: str) -> bool:
    """Whether a text is a number, as Python writes them."""
    try:
        float(text)
    except ValueError:
        return False
    return True
