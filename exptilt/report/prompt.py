"""One line of a results file as JSON values for the page: at a glance, for lists and figures, and in full detail."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from exptilt.answers import Answer
from exptilt.answers import reference as read_reference
from exptilt.populations.growth import Walk, growth
from exptilt.populations.population import Population
from exptilt.report.growth import Texts, columns_json
from exptilt.report.methods import Method
from exptilt.running.lines import stored_population
from exptilt.running.traces import stored_trace
from exptilt.samplers.trace import Beams, Chain, Generations, Tree

_NUMBER = re.compile(r"[-−+]?(?:\d[\d.,]*\d|\d)%?|\binf\b")


def kind_of(warning: str) -> str:
    """A warning without its numbers: what the warnings of many prompts have in common."""
    return _NUMBER.sub("…", warning)


def is_right(answer: str | None, reference: str, read: Answer) -> bool:
    """Whether an answer in canonical form is that of the reference, a bare answer or a text that gives it."""
    return answer is not None and answer in (reference.strip(), read_reference(read, reference))


def posterior(line: Mapping[str, Any], population: Population | None, read: Answer) -> list[tuple[str | None, float]]:
    """The weight of each answer, falling: the one the run's own select told, else summed up from the weights."""
    if line["posterior"] is not None:
        return [(None if answer is None else str(answer), float(share)) for answer, share in line["posterior"]]
    shares: dict[str | None, float] = {}
    if population is not None:
        for draft, weight in zip(population.drafts, population.weights.tolist(), strict=True):
            answer = read(draft.text)
            shares[answer] = shares.get(answer, 0.0) + weight
    return sorted(shares.items(), key=lambda item: -item[1])


def glance(
    line: Mapping[str, Any], method: Method, reference: str | None, read: Answer, kinds: Mapping[str, int]
) -> dict[str, Any]:
    """What lists, filters and figures need of one prompt. kinds: the number of each kind of warning."""
    if "error" in line:
        return {"error": line["error"], "right": None if reference is None else False}
    population, trace = stored_population(line), stored_trace(line, method.settings["sampler"])
    text, last = line["draft"]["text"], line["trace"][-1]
    answer = read(text)
    return {
        "answer": answer,
        "share": dict(posterior(line, population, read)).get(answer),
        "right": None if reference is None else is_right(answer, reference, read),
        "reward": line["reward"],
        "n": last["n"],
        "ess": None if line["log_z"] is None else last["ess"],  # the equal weights of a chain say nothing
        "log_z": line["log_z"],
        "kl": population.kl(method.beta) if population is not None and population.proper else None,
        "k_hat": population.k_hat if population is not None and population.proper else None,
        "acceptance": trace.acceptance if isinstance(trace, Chain) else None,
        "r_hat": trace.r_hat if isinstance(trace, Chain) else None,
        "tokens": tokens(line),
        "seconds": line["usage"]["seconds"],
        "stopped": line["stopped"] != "done",
        **({"picture": line["draft"]["picture"]} if "picture" in line["draft"] else {}),
        "warnings": sorted({kinds[kind_of(warning)] for warning in line["warnings"]}),
    }


def tokens(line: Mapping[str, Any]) -> int:
    """Tokens generated and scored by both models."""
    return sum(line["usage"][law][name] for law in ("reference", "proposal") for name in ("generated", "scored"))


def detail(line: Mapping[str, Any], method: Method, read: Answer, most_drafts: int) -> dict[str, Any]:
    """How the answer of one prompt came about: its texts once each, and everything else as numbers that point at them."""
    if "error" in line:
        return {"error": line["error"], "message": line["message"]}
    texts, population = Texts(), stored_population(line)
    shown = {
        "chosen": texts.add(_glimpse(line["draft"])),
        "answer": read(line["draft"]["text"]),
        "posterior": posterior(line, population, read),
        "warnings": list(line["warnings"]),
        "limit": line["limit"],
        "stopped": line["stopped"],
        "proved": line.get("proved"),  # older files do not tell
        "usage": line["usage"],
        "growth": [{name: entry[name] for name in ("tokens", "n", "ess", "log_z", "mean_reward")} for entry in line["trace"]],
        "missing": [],
    }
    if population is None:
        shown["missing"].append(
            "The file keeps only the chosen responses (--no-population), so drafts and weights are not known."
        )
    else:
        shown |= _drafts(population, line, texts, read, most_drafts)
    shown |= _history(line, method, population, texts, shown["missing"])
    return shown | {"texts": texts.all}


def _glimpse(draft: Mapping[str, Any]) -> str:
    """What is shown of a draft of a line: its text, or its picture."""
    return draft.get("picture", draft["text"])


def _drafts(population: Population, line: Mapping[str, Any], texts: Texts, read: Answer, most_drafts: int) -> dict[str, Any]:
    """Each different draft once, and for every row of the population which of them it is, its weight and its reward."""
    places: dict[Hashable, int] = {}
    names = [(draft.tokens, draft.order, draft.glimpse, draft.finish) for draft in population.drafts]
    rows = [places.setdefault(name, len(places)) for name in names]
    total = np.zeros(len(places))
    np.add.at(total, rows, population.weights)
    kept = set(np.argsort(-total, kind="stable")[:most_drafts].tolist())
    chosen = (line["draft"]["tokens"], line["draft"]["text"])
    drafts = []
    for draft, number in zip(population.drafts, rows, strict=True):
        if number != len(drafts):
            continue  # a repeat
        is_chosen = [*draft.tokens] == chosen[0] and draft.text == chosen[1]
        text = texts.add(draft.glimpse) if number in kept or is_chosen else None
        drafts.append([text, read(draft.text), draft.decided, draft.finish, is_chosen])
    return {
        "drafts": drafts,
        "rows": rows,
        "weights": population.weights.tolist(),
        "rewards": population.rewards.tolist(),
        "proper": population.proper,
        "left_out": len(drafts) - sum(draft[0] is not None for draft in drafts),
    }


def _history(
    line: Mapping[str, Any], method: Method, population: Population | None, texts: Texts, missing: list[str]
) -> dict[str, Any]:
    """The tree, the generations or the chain that the trace tells of; `missing` gains what it does not tell."""
    trace = stored_trace(line, method.settings["sampler"])
    grown = growth(trace, 0 if population is None else len(population), _glimpse(line["draft"]))
    if isinstance(trace, Tree) and trace.steps:
        if any(step.rollouts is None for step in trace.steps):
            missing.append("The file was written before rollouts were recorded by candidate: they are listed without.")
        elif all(step.first is None for step in trace.steps):
            missing.append("The population holds the chain alone, so the rollouts behind the energies were not kept.")
    if isinstance(trace, Generations | Beams) and not trace.generations:
        missing.append("The file was written before generations were recorded, so only the last one is shown.")
    if isinstance(trace, Chain):
        if trace.runs:
            missing.append("Of the runs that proposed the states of this chain, only the states are kept.")
        if trace.recycled:
            missing.append("The states of this chain were recycled: its drafts are states and proposals by their chances.")
    if isinstance(grown, Walk):
        return {"chain": asdict(grown)}
    return {} if grown is None else {"tree": columns_json(grown, texts)}


def plain(value: Any) -> Any:
    """JSON values with 6 significant digits; infinities are written as "inf" and "-inf", NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(f"{value:.6g}") if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    return value
