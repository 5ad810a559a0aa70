"""Traces as the values of a results file's line and back, by the type of the record.

    "how": {"type": "Tree", "steps": [{"candidates": [...], ...}, ...]}

The records of `exptilt.samplers.trace` come back as they were. Another author's dataclass is written under the name of its
module and class, and comes back as a mapping: reading a file imports no code. Files written before traces had types
keep untyped "stats" with each population; they are read as the records that they would be today.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from exptilt.samplers.trace import Beams, Chain, Generation, Generations, Step, Tree

_OWN = (Tree, Generations, Beams, Chain)


def trace_line(trace: object) -> Mapping[str, Any] | None:
    """A trace as the values of its line."""
    if is_dataclass(trace) and not isinstance(trace, type):
        kind = type(trace)
        return {"type": kind.__name__ if kind in _OWN else f"{kind.__module__}.{kind.__qualname__}", **asdict(trace)}
    return trace if isinstance(trace, Mapping) else None


def stored_trace(line: Mapping[str, Any], sampler: Any) -> object:
    """The trace in a line; None where there is none. sampler: its description, as in the file's settings."""
    if "how" not in line:
        return _untyped([entry["stats"] for entry in line["trace"]], sampler if isinstance(sampler, Mapping) else {})
    how = line["how"]
    if how is None:
        return None
    kind = how.get("type")
    if kind == "Tree":
        return Tree(tuple(_step(step) for step in how["steps"]))
    if kind == "Generations":
        return Generations(tuple(_generation(each) for each in how["generations"]), how["resampled"])
    if kind == "Beams":
        return Beams(tuple(_generation(each) for each in how["generations"]))
    return Chain(**{name: value for name, value in how.items() if name != "type"}) if kind == "Chain" else how


def _step(line: Mapping[str, Any]) -> Step:
    rollouts = line.get("rollouts")
    return Step(
        tuple(line["candidates"]),
        tuple(line["log_energies"]),
        line["pick"],
        line["log_weight"],
        None if rollouts is None else tuple(rollouts),
        line.get("first"),
    )


def _generation(line: Mapping[str, Any]) -> Generation:
    return Generation(**{name: tuple(line[name]) for name in ("texts", "parents", "log_w", "log_v")})


def _untyped(stats: Sequence[Mapping[str, Any]], sampler: Mapping[str, Any]) -> object:
    """The record of the populations of an older file, each of which holds its own step of a tree. earlier: the ones before."""
    last = stats[-1]
    if "candidates" in last:
        told = [record for each in stats for record in [*each.get("earlier", ()), each] if "step" in record]
        steps = {record["step"]: _step(record) for record in told}  # a dead end repeated its last step
        return Tree(tuple(steps[number] for number in sorted(steps)))
    if "resampled" in last:
        return Generations(tuple(_generation(each) for each in last.get("generations", ())), last["resampled"])
    if "acceptance" in last:
        runs = sampler.get("type") == "Metropolised"
        return Chain(last["acceptance"], last["r_hat"], sampler.get("chains", 1), sampler.get("burn_in", 0), runs)
    return last or None
