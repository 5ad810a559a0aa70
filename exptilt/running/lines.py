"""The lines of a results file: JSON that keeps infinities, and outcomes as JSON values and back.

JSON has no infinities: they are written as {"float": "-inf"}. Everything else reads back as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from exptilt.core import Sampler
from exptilt.describe import describe
from exptilt.draft import Draft, Prompt, as_prompt, prompt_json
from exptilt.pictures import StoredPicture
from exptilt.populations.population import Population
from exptilt.running.result import Failure, Outcome, Result
from exptilt.running.traces import stored_trace, trace_line
from exptilt.usage import Usage, Work


def encode(value: Any, *, sort: bool = False) -> str:
    """JSON on one line, in ASCII."""
    return json.dumps(_plain(value), sort_keys=sort, allow_nan=False)


def decode(text: str) -> Any:
    """What `encode` wrote; tuples and arrays come back as lists."""
    return json.loads(text, object_hook=lambda row: float(row["float"]) if row.keys() == {"float"} else row)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


# ------------------------------------------------------------------------------------------------------- outcomes

_OF_TARGET = ("beta", "reward_max", "own_logq", "independent")  # what a population knows of its target and its draws


def to_line(name: str, outcome: Outcome, *, population: bool = True) -> dict[str, Any]:
    """An outcome as the values of its line; without `population` only the chosen draft is kept of it."""
    if isinstance(outcome, Failure):
        failed = {"id": name, "prompt": prompt_json(outcome.prompt), "error": outcome.error, "message": outcome.message}
        failed |= _example_line(outcome)
        return failed if outcome.usage is None else failed | {"usage": asdict(outcome.usage)}
    line = {
        "id": name,
        "prompt": prompt_json(outcome.prompt),
        "text": outcome.text,
        "reward": outcome.reward,
        "log_z": outcome.log_z,
        "ess": outcome.population.ess,
        "stopped": outcome.stopped,
        "limit": outcome.limit,
        "warnings": outcome.warnings,
        "posterior": None if outcome.posterior is None else [[_answer(key), p] for key, p in outcome.posterior.items()],
        "usage": asdict(outcome.usage),
        "trace": outcome.trace,
        "how": trace_line(outcome.population.trace),
        "draft": _draft_line(outcome.draft),
        "proved": outcome.proved,
    }
    line |= _example_line(outcome)
    return line | {"population": _population_line(outcome.population)} if population else line


def from_line(line: Mapping[str, Any], sampler: Sampler, seed: int, *, described: Any = None, index: int = 0) -> Outcome:
    """The outcome in a line. Without its population, the chosen draft stands for it alone.

    described: the sampler's description, where the sampler is not there to be described.
    index: where the outcome is in the list that it becomes part of.
    """
    prompt, example = as_prompt(line["prompt"]), line.get("example", {"id": None, "columns": {}})
    own: dict[str, Any] = {"id": example["id"], "columns": example["columns"], "index": index}
    if "error" in line:
        return Failure(prompt, line["error"], line["message"], stored_usage(line) if "usage" in line else None, **own)
    draft = _draft(prompt, line["draft"])
    trace = stored_trace(line, describe(sampler) if described is None else described)
    return Result(
        prompt=prompt,
        draft=draft,
        population=stored_population(line, trace) or _alone(draft, line, trace),
        usage=stored_usage(line),
        trace=tuple({name: value for name, value in entry.items() if name != "stats"} for entry in line["trace"]),
        sampler=sampler,
        seed=seed,
        stopped=line["stopped"],
        limit=line["limit"],
        warnings=tuple(line["warnings"]),
        posterior=None if line["posterior"] is None else {_hashable(answer): share for answer, share in line["posterior"]},
        proved=line.get("proved"),
        **own,
    )


def _example_line(outcome: Outcome) -> dict[str, Any]:
    """The id and the columns of the problem, as far as they are JSON values; nothing where there are none."""
    columns = {name: value for name, value in outcome.columns.items() if is_json(value)}
    return {"example": {"id": outcome.id, "columns": columns}} if columns or outcome.id is not None else {}


def is_json(value: Any) -> bool:
    """Whether a value of a column can be written into a results file."""
    try:
        encode(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def changed_columns(line: Mapping[str, Any], columns: Mapping[str, Any]) -> str:
    """How the columns of a line differ from those of its problem now, such as "answer: 4 → 5"; empty where they agree."""
    stored = line.get("example", {}).get("columns", {})
    both = {
        name: (encode(value), encode(columns[name]))
        for name, value in stored.items()
        if is_json(columns.get(name)) and name in columns
    }
    return "; ".join(f"{name}: {before:.60} → {now:.60}" for name, (before, now) in both.items() if before != now)


def _answer(answer: Any) -> Any:
    """An answer of a vote as JSON values; what JSON cannot hold, such as a fraction, as it prints itself."""
    if isinstance(answer, tuple):
        return [_answer(part) for part in answer]
    return answer if answer is None or isinstance(answer, str | bool | int | float | np.generic) else repr(answer)


def _hashable(answer: Any) -> Any:
    return tuple(map(_hashable, answer)) if isinstance(answer, list) else answer


def stored_usage(line: Mapping[str, Any]) -> Usage:
    """What a result cost."""
    return Usage(**(line["usage"] | {law: Work(**line["usage"][law]) for law in ("reference", "proposal")}))


def stored_population(line: Mapping[str, Any], trace: object = None) -> Population | None:
    """The weighted drafts of a result's line; None where the file keeps only the chosen ones."""
    if "population" not in line:
        return None
    return _population(as_prompt(line["prompt"]), line["population"], trace)


def _draft_line(draft: Draft) -> dict[str, Any]:
    line = {"tokens": draft.tokens, "logq": draft.logq, "text": draft.text, "finish": draft.finish}
    if draft.output is not None and draft.glimpse != draft.text:
        line["picture"] = draft.glimpse
    return line if draft.order is None else line | {"order": draft.order}


def _draft(prompt: Prompt, line: Mapping[str, Any]) -> Draft:
    logq, order = (None if values is None else tuple(values) for values in (line["logq"], line.get("order")))
    picture = StoredPicture(line["picture"]) if "picture" in line else None
    return Draft(prompt, tuple(line["tokens"]), logq, line["text"], line["finish"], order, picture)


def _population_line(population: Population) -> dict[str, Any]:
    """Each different draft once, and for every member which of them it is: a chain repeats its states."""
    places: dict[Draft, int] = {}
    rows = [places.setdefault(draft, len(places)) for draft in population.drafts]
    log_w, rewards = population.log_w, population.rewards
    line = {"proper": population.proper, "drafts": [*map(_draft_line, places)], "rows": rows, "log_w": log_w, "rewards": rewards}
    return line | {name: getattr(population, name) for name in _OF_TARGET}


def _population(prompt: Prompt, line: Mapping[str, Any], trace: object) -> Population:
    drafts = [_draft(prompt, draft) for draft in line["drafts"]]
    if any(row < 0 for row in line["rows"]):
        raise IndexError(f"rows={line['rows']}")
    told = {name: line[name] for name in _OF_TARGET if name in line}  # older files do not tell
    return Population([drafts[row] for row in line["rows"]], line["log_w"], line["rewards"], line["proper"], trace, **told)


def _alone(draft: Draft, line: Mapping[str, Any], trace: object) -> Population:
    rewards: Sequence[float] = [math.nan if line["reward"] is None else line["reward"]]
    if line["log_z"] is None:
        return Population.unweighted([draft], rewards, trace)
    return Population([draft], np.array([line["log_z"]]), np.array(rewards), trace=trace)
