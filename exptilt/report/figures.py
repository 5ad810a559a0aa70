"""Sums over a method's prompts: accuracy and reward with intervals, accuracy against tokens, cost, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from exptilt.answers import Answer
from exptilt.evaluation.cost import Parameters, cost_of
from exptilt.evaluation.evaluate import wilson
from exptilt.populations.population import Population
from exptilt.report.methods import Method
from exptilt.report.prompt import is_right, kind_of, posterior
from exptilt.running.lines import stored_population, stored_usage

_BINS = 10
_CAPS = 24  # an accuracy curve has at most as many points
_GROWING = {"ETS", "Independent", "SuffixMCMC", "Metropolised"}  # of files from before the trace told whether populations grow


def warning_kinds(methods: Sequence[Method]) -> dict[str, int]:
    """Every kind of warning among the methods, numbered, the most common first."""
    counts: dict[str, int] = {}
    for method in methods:
        for line in method.lines.values():
            for kind in {kind_of(warning) for warning in line.get("warnings", ())}:
                counts[kind] = counts.get(kind, 0) + 1
    return {kind: number for number, kind in enumerate(sorted(counts, key=lambda kind: -counts[kind]))}


def summary(methods: Sequence[Method], read: Answer, parameters: Sequence[Parameters] = ()) -> list[dict[str, Any]]:
    """The figures of each method, in the order of the methods. parameters: of the models of each; without them no FLOPs."""
    sizes = parameters or [None] * len(methods)
    return [
        _method(method, read) | {"differs": _differs(method, methods[0]), "flops": _flops(method, size)}
        for method, size in zip(methods, sizes, strict=True)
    ]


def _differs(method: Method, first: Method) -> list[str]:
    """The parts of the target in which a method differs from the first one: then accuracies do not compare samplers."""
    return [name for name, value in method.target.items() if value != first.target[name]]


def _method(method: Method, read: Answer) -> dict[str, Any]:
    answered = [line for line in method.lines.values() if "error" not in line]
    judged = [line for line in method.lines.values() if line["reference"] is not None]
    right = [_right(line, read) for line in judged]
    return {
        "name": method.name,
        "kind": method.kind,
        "label": method.label,
        "file": method.path.name,
        "beta": method.beta,
        "seed": method.settings["seed"],
        "settings": method.settings,
        "answered": len(answered),
        "failed": len(method.lines) - len(answered),
        "stopped": sum(line["stopped"] != "done" for line in answered),
        "accuracy": _share(right),
        "reward": _mean([line["reward"] for line in answered if line["reward"] is not None]),
        "cost": _cost(answered),
        "curve": _curve(method, judged, read),
        "calibration": _calibration([line for line in judged if "error" not in line], read),
    }


def _right(line: Mapping[str, Any], read: Answer) -> bool:
    """A prompt that failed has no right answer."""
    return "error" not in line and is_right(read(line["draft"]["text"]), line["reference"], read)


def _share(right: Sequence[bool]) -> dict[str, Any] | None:
    if not right:
        return None
    share = sum(right) / len(right)
    low, high = wilson(share, len(right))
    return {"value": share, "low": low, "high": high, "n": len(right)}


def _mean(values: Sequence[float]) -> dict[str, Any] | None:
    """A mean with its 95 % interval by the normal distribution."""
    finite = np.array([value for value in values if math.isfinite(value)])
    if not finite.size:
        return None
    half = 1.96 * float(finite.std(ddof=1)) / math.sqrt(finite.size) if finite.size > 1 else 0.0
    mean = float(finite.mean())
    return {"value": mean, "low": mean - half, "high": mean + half, "n": int(finite.size)}


def _cost(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What one answer cost on average."""
    usages = [line["usage"] for line in lines]

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values)) if values else 0.0

    both = {
        name: mean([usage["reference"][name] + usage["proposal"][name] for usage in usages])
        for name in ("generated", "scored", "forwards", "prompt", "cached")
    }
    calls = {name: mean([usage[name] for usage in usages]) for name in ("reward_calls", "rated", "reused", "seconds")}
    proposal = mean([usage["proposal"]["generated"] + usage["proposal"]["scored"] for usage in usages])
    return {"tokens": both["generated"] + both["scored"], "proposal": proposal, **both, **calls}


def _flops(method: Method, parameters: Parameters | None) -> list[float | None] | None:
    """FLOPs of one answer on average: of reference, proposal and reward. A reward's None where no population tells its tokens."""
    answered = [line for line in method.lines.values() if "error" not in line]
    if parameters is None or not answered:
        return None
    populations = [stored_population(line) for line in answered]
    lengths = [0.0 if each is None else float(np.mean([draft.decided for draft in each.drafts])) for each in populations]
    *models, reward = cost_of([stored_usage(line) for line in answered], lengths).flops(parameters)
    return [*models, None if parameters.reward and None in populations else reward]


# ---------------------------------------------------------------------------------------------------- accuracy curve


def _curve(method: Method, lines: Sequence[Mapping[str, Any]], read: Answer) -> list[tuple[float, float]]:
    """(mean tokens, accuracy) of the weighted vote among what each prompt had drawn when it reached a cap of tokens.

    The caps run from where every prompt had its first population to where the last one ended; a prompt that ended
    earlier keeps its answer. Empty where populations were not stored, or do not grow row by row.
    """
    answered = [line for line in lines if "error" not in line]
    if not all("population" in line and _grows(line, method.kind) for line in answered):
        return []
    select = method.settings["select"]
    once = isinstance(select, Mapping) and bool(select.get("weighted") and select.get("distinct"))
    paths = [_path(line, method.kind, read, once) for line in answered]
    if not paths or max(map(len, paths)) < 2:
        return []
    first, last = max(path[0][0] for path in paths), max(path[-1][0] for path in paths)
    points = []
    for cap in np.geomspace(max(1.0, first), max(1.0, last), _CAPS) * (1 + 1e-9):
        reached = [[entry for entry in path if entry[0] <= cap][-1] for path in paths]
        points.append((float(np.mean([entry[0] for entry in reached])), sum(entry[1] for entry in reached) / len(lines)))
    return points


def _grows(line: Mapping[str, Any], kind: str) -> bool:
    """Whether each population of a run is the first rows of the next, as the trace tells."""
    return all(entry.get("grown", kind in _GROWING) for entry in line["trace"])


def _path(line: Mapping[str, Any], kind: str, read: Answer, once: bool) -> list[tuple[float, bool]]:
    """(tokens, whether the vote is right) after each population that the trace tells of.

    once: whether the run's vote counts each response of independent draws once.
    """
    population = stored_population(line)
    assert population is not None
    cuts = [(entry["tokens"], entry["n"]) for entry in line["trace"]]
    if kind == "Independent" and len(cuts) == 1:  # the first k of n independent draws are a run of k
        whole, count = cuts[0]
        cuts = [(whole * k / count, k) for k in (2**power for power in range(count.bit_length())) if k < count] + cuts
    path = []
    for spent, count in cuts:
        shares: dict[str, float] = {}
        weighted = zip(population.drafts[:count], population.weights[:count].tolist(), strict=True)
        if once and population.independent and population.log_w[:count].max() > -math.inf:
            voting = _first(population, count).distinct()
            weighted = zip(voting.drafts, voting.weights.tolist(), strict=True)
        for draft, weight in weighted:
            if weight > 0 and (answer := read(draft.text)) is not None:
                shares[answer] = shares.get(answer, 0.0) + weight
        top = max(shares, key=lambda answer: shares[answer], default=None)
        path.append((spent, is_right(top, line["reference"], read)))
    return path


def _first(population: Population, count: int) -> Population:
    """The population of the first draws alone."""
    log_w = population.log_w[:count] + math.log(len(population)) - math.log(count)
    return replace(population, drafts=population.drafts[:count], log_w=log_w, rewards=population.rewards[:count])


# -------------------------------------------------------------------------------------------------------- calibration


def _calibration(lines: Sequence[Mapping[str, Any]], read: Answer) -> dict[str, Any] | None:
    """Whether the most probable answer is right as often as its probability says.

    bins: of equal width over [0, 1], those that hold prompts, each with the mean probability and the share of right
    answers with Wilson's interval. error: the mean gap between the two over the prompts (expected calibration error).
    brier: the mean squared distance of the probability from 1 where right and 0 where wrong.
    """
    pairs = []
    for line in lines:
        answer, share = next(iter(posterior(line, stored_population(line), read)), (None, 0.0))
        if share > 0:
            pairs.append((min(1.0, share), is_right(answer, line["reference"], read)))
    if not pairs:
        return None
    shares, right = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs], dtype=np.float64)
    places = np.minimum((shares * _BINS).astype(int), _BINS - 1)
    bins = []
    for place in np.unique(places):
        inside = places == place
        low, high = wilson(float(right[inside].mean()), int(inside.sum()))
        share, accuracy = float(shares[inside].mean()), float(right[inside].mean())
        bins.append({"share": share, "accuracy": accuracy, "low": low, "high": high, "n": int(inside.sum())})
    error = sum(entry["n"] * abs(entry["share"] - entry["accuracy"]) for entry in bins) / len(pairs)
    return {"bins": bins, "error": error, "brier": float(np.mean((shares - right) ** 2)), "n": len(pairs)}
