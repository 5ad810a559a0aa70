"""The form of a result's line in a results file, and of the settings in its first line, as patterns that say what is wrong.

A pattern is a name of `_KINDS`, a list of one pattern for all items, a dict of patterns by the names of fields, or a tuple of
patterns of which one must fit. A name of a field that ends in "?" may be missing, as in files of older versions. Fields that
no pattern names are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from exptilt.draft import as_prompt
from exptilt.errors import PromptError

Pattern = str | list[Any] | dict[str, Any] | tuple[Any, ...]


def _is_prompt(value: Any) -> bool:
    try:
        as_prompt(value)
    except PromptError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_answer(value: Any) -> bool:
    return all(map(_is_answer, value)) if isinstance(value, list) else value is None or isinstance(value, str | int | float)


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "any": (lambda value: True, "anything"),
    "none": (lambda value: value is None, "null"),
    "text": (lambda value: isinstance(value, str), "a text"),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
    "number": (lambda value: _is_number(value) and not math.isnan(value), "a number"),
    "finite": (lambda value: _is_number(value) and math.isfinite(value), "a finite number"),
    "positive": (lambda value: _is_number(value) and 0 < value < math.inf, "a positive number"),
    "whole": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
    "count": (lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0, "a count"),
    "size": (lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1, "a whole number of 1 or more"),
    "prompt": (_is_prompt, "a text or a list of messages"),
    "finish": (lambda value: value in (None, "stop", "length"), '"stop", "length" or null'),
    "stopped": (lambda value: value in ("done", "budget", "until"), '"done", "budget" or "until"'),
    "log": (lambda value: _is_number(value) and value < math.inf, "a number below infinity"),
    "pair": (
        lambda value: isinstance(value, list) and len(value) == 2 and _is_answer(value[0]) and _is_number(value[1]),
        "an answer and its share",
    ),
}

_MAYBE_NUMBER = ("number", "none")
_DRAFT = {"tokens": ["whole"], "logq": (["log"], "none"), "text": "text", "finish": "finish", "order?": (["count"], "none")}
_WORK = dict.fromkeys(("prompt", "cached", "generated", "scored", "forwards"), "count")
_USAGE = {
    "reference": _WORK, "proposal": _WORK, "reward_calls": "count", "rated": "count", "reused": "count", "seconds": "finite"
}  # fmt: skip
_STEP = {
    "candidates": ["text"], "log_energies": ["log"], "pick": "count", "log_weight": "number",
    "rollouts?": (["count"], "none"), "first?": ("count", "none"),
}  # fmt: skip
_GENERATION = {"texts": ["text"], "parents": ["count"], "log_w": ["log"], "log_v": ["log"]}
_CHAIN = {
    "acceptance": "finite",
    "r_hat": _MAYBE_NUMBER,
    "chains": "positive",
    "burn_in": "count",
    "runs": "flag",
    "recycled?": "flag",
}
_TRACES: Mapping[str, dict[str, Any]] = {
    "Tree": {"steps": [_STEP]},
    "Generations": {"generations": [_GENERATION], "resampled": "count"},
    "Beams": {"generations": [_GENERATION]},
    "Chain": _CHAIN,
}
_OLDER = {"earlier?": [{}], "generations?": [_GENERATION], "resampled?": "count", "acceptance?": "finite"}
_ENTRY = {
    "tokens": "count",
    "seconds": "finite",
    "n": "size",
    "ess": "finite",
    "log_z": _MAYBE_NUMBER,
    "mean_reward": _MAYBE_NUMBER,
}
_POPULATION = {
    "proper": "flag", "drafts": [_DRAFT], "rows": ["count"], "log_w": ["log"], "rewards": ["log"],
    "beta?": ("positive", "none"), "reward_max?": ("finite", "none"), "own_logq?": "flag",
}  # fmt: skip
_EXAMPLE = {"id": ("text", "whole", "none"), "columns": {}}
_RESULT = {
    "prompt": "prompt", "reward": _MAYBE_NUMBER, "log_z": _MAYBE_NUMBER, "stopped": "stopped", "limit": ("text", "none"),
    "warnings": ["text"], "posterior": (["pair"], "none"), "usage": _USAGE, "trace": [_ENTRY], "draft": _DRAFT,
    "how?": ("none", {}), "proved?": ("text", "none"), "population?": _POPULATION,
    "example?": _EXAMPLE,
}  # fmt: skip
_FAILURE = {"prompt": "prompt", "error": "text", "message": "text", "usage?": _USAGE, "example?": _EXAMPLE}
_SETTINGS = {
    "engine": "any",
    "proposal": "any",
    "reward": "any",
    "beta": "positive",
    "sampler": "any",
    "select": "any",
    "seed": "whole",
}


_MADE = {"date?": "text", "python?": "text", "platform?": "text", "device?": ("text", "none"), "versions?": {}}


def misfit_of_line(line: Mapping[str, Any]) -> str:
    """What of a line is not as a result or a failure has it, in words; empty where all is."""
    if found := _misfit(line, _FAILURE if "error" in line else _RESULT):
        return found.removeprefix(".")
    if "error" in line:
        return ""
    if not line["trace"]:
        return "trace is empty: it has one entry for each population, one at least"
    if "how" not in line:
        return _misfit_of_older(line) or _inconsistent_population(line.get("population"))
    how = line["how"] or {}
    found = _misfit(how, _TRACES.get(str(how.get("type")), {}))
    return f"how{found}" if found else _inconsistent(how) or _inconsistent_population(line.get("population"))


def _misfit_of_older(line: Mapping[str, Any]) -> str:
    """Of a line from before traces had types: each entry of its trace has untyped "stats" instead."""
    for number, entry in enumerate(line["trace"]):
        stats = entry.get("stats")
        if stats is None:
            return "how is missing"
        found = _misfit(stats, _OLDER)
        for record in [] if found else [*stats.get("earlier", ()), stats]:
            found = found or ("candidates" in record and _misfit(record, _STEP | {"step": "count"})) or ""
        if found:
            return f"trace[{number}].stats{found}"
    return ""


def misfit_of_settings(settings: Any) -> str:
    """What of the settings in a first line is not as a run writes them; empty where all is."""
    return _misfit(settings, _SETTINGS).removeprefix(".")


def misfit_of_made(made: Any) -> str:
    """What of the record of versions, device and date is not as a run writes it; empty where all is."""
    found = _misfit(made, _MADE)
    return f"made{found}" if found else ""


def _inconsistent(how: Mapping[str, Any]) -> str:
    """Where the parts of a trace do not fit each other."""
    for number, step in enumerate(how["steps"] if how.get("type") == "Tree" else ()):
        counts = {len(step["candidates"]), len(step["log_energies"]), len(step.get("rollouts") or step["candidates"])}
        if len(counts) > 1 or step["pick"] >= len(step["candidates"]):
            return f"how.steps[{number}] has parts that do not fit each other"
    before = None
    for number, each in enumerate(how["generations"] if how.get("type") in ("Generations", "Beams") else ()):
        counts = {len(each[name]) for name in _GENERATION}
        if counts == {0} or len(counts) > 1 or (before is not None and max(each["parents"]) >= before):
            return f"how.generations[{number}] has parts that do not fit each other"
        before = len(each["texts"])
    return ""


def _inconsistent_population(population: Mapping[str, Any] | None) -> str:
    if population is None:
        return ""
    rows, log_w = population["rows"], population["log_w"]
    if not rows or not len(rows) == len(log_w) == len(population["rewards"]):
        return "population has not as many rows, log_w and rewards, one at least"
    if max(rows) >= len(population["drafts"]):
        return f"population.rows has {max(rows)}, and there are {len(population['drafts'])} drafts"
    if not -math.inf < max(log_w) < math.inf:
        return f"population.log_w has the maximum {max(log_w)}, so that no draft has a weight"
    return ""


def _are_plain(values: list[Any], pattern: Pattern) -> bool:
    """Whether all items fit for a reason that is quick to see: most of a file is long lists of numbers."""
    types = set(map(type, values))
    if pattern in ("whole", "count"):
        return types == {int} and (pattern == "whole" or min(values) >= 0)
    return pattern == "log" and types <= {float, int} and bool(values) and max(values) < math.inf and not math.isnan(sum(values))


def _misfit(value: Any, pattern: Pattern) -> str:
    """Where a value does not fit and why, such as ".rows[3] is 'x', not a count"; empty where it fits."""
    if isinstance(pattern, str):
        fits, wanted = _KINDS[pattern]
        return "" if fits(value) else f" is {value!r:.60}, not {wanted}"
    if isinstance(pattern, tuple):
        found = [_misfit(value, each) for each in pattern]
        return "" if "" in found else found[0]
    if isinstance(pattern, list):
        if not isinstance(value, list):
            return f" is {value!r:.60}, not a list"
        if _are_plain(value, pattern[0]):
            return ""
        return next((f"[{number}]{found}" for number, item in enumerate(value) if (found := _misfit(item, pattern[0]))), "")
    if not isinstance(value, Mapping):
        return f" is {value!r:.60}, not an object"
    for field, inner in pattern.items():
        bare = field.removesuffix("?")
        if bare not in value:
            if bare == field:
                return f".{bare} is missing"
        elif found := _misfit(value[bare], inner):
            return f".{bare}{found}"
    return ""
