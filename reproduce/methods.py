"""The methods that the tables of this folder compare, at the tokens of n plain samples, and how they are run and kept.

A *plan* is one run: a target, a sampler, and the methods that choose an answer from its populations. All plans of a
table draw from the same law. Which numbers M, K, N and steps cost about as much as n samples follows from the samplers'
own cost formulas; what they cost in fact is measured and shown.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import exptilt as xt
from exptilt.core import Engine, Sampler, Target
from exptilt.describe import describe
from exptilt.draft import Draft
from exptilt.evaluation.cost import Cost, Load, Parameters, mean_cost
from exptilt.evaluation.evaluate import Score, evaluate, paired_difference
from exptilt.evaluation.tasks import Task
from exptilt.keys import digest
from exptilt.populations.calibrate import choose_beta
from exptilt.populations.utilities import rouge1
from exptilt.running.run import Progress, Select
from exptilt.samplers.trace import Tree

UNGUIDED = ("plain sampling", "majority vote", "MBR", "beam search")
GUIDED = (
    "weighted vote",
    "best-of-n",
    "QAlign",
    "SMC",
    "ETS, raw chain",
    "ETS, all rollouts vote",
    "ETS-IS, all rollouts vote",
)
METHODS = UNGUIDED + GUIDED
"""The names of all methods, in the order of the tables."""

# ------------------------------------------------------------------------------------------------------------- beam


@dataclass(frozen=True)
class Beam:
    """Beam search by likelihood over sampled continuations: a baseline that knows no reward and has no target.

    width: how many drafts are kept. children: how many continuations of each are drawn. block: tokens per step.
    Drafts are compared by log p(y|x), summed. Engines give no ranking of all next tokens, so children are samples and equal
    ones count once; with block 1 and many children this is ordinary beam search. It costs width·children responses.
    """

    width: int
    children: int
    block: int
    weighted: ClassVar[bool] = False

    def needs(self, target: Target) -> frozenset[str]:
        return frozenset({"continue", "logq"})

    def __call__(self, target: Target, prompt: str, key: xt.Key) -> Iterator[xt.Population]:
        beams = [target.engine.start(prompt)]
        step = 0
        while any(draft.finish is None for draft in beams):
            here = key.child("step", step)
            count = self.children if step else self.width * self.children
            copies = [draft for draft in beams for _ in range(count if draft.finish is None else 1)]
            keys = [here.child("extend", number) for number in range(len(copies))]
            grown = dict.fromkeys(target.engine.extend(copies, keys, self.block))
            beams = sorted(grown, key=_log_p, reverse=True)[: self.width]
            step += 1
        yield xt.Population.unweighted(beams[:1], np.zeros(1))


def _log_p(draft: Draft) -> float:
    assert draft.logq is not None  # the sampler's needs
    return math.fsum(draft.logq)


def nothing(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    """The reward of methods that use none."""
    return [0.0] * len(drafts)


def usual_beta(pilots: Sequence[Sequence[float]], acceptance: float) -> float:
    """The median β at which a chain accepts such a share of its moves, over the problems where some β does.

    pilots: the rewards of draws of each problem. Where most have the best reward already, more is accepted at any β.
    """
    found = []
    for rewards in pilots:
        with suppress(ValueError):
            found.append(choose_beta(rewards, acceptance=acceptance))
    return float(np.median(found))


def told(name: str) -> Progress:
    """A line on standard error for each problem that is done."""
    return lambda done, total, outcome: print(f"{name}: {done} of {total}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------- selects


def ets_chain(population: xt.Population, key: xt.Key) -> Draft:
    """What the published ETS hands out, from a run that keeps all rollouts: the candidate picked in the last step."""
    assert isinstance(population.trace, Tree)
    last = population.trace.steps[-1]
    return replace(population.drafts[0], text=last.candidates[last.pick])


def plain_mbr(population: xt.Population, key: xt.Key) -> Draft:
    """Minimum Bayes risk with ROUGE-1, every draft counting the same."""
    return xt.mbr(rouge1)(xt.Population.unweighted(population.drafts, population.rewards), key)


# ------------------------------------------------------------------------------------------------------------ plans


@dataclass(frozen=True)
class Plan:
    """One run. selects: the methods that choose from its populations; None stands for one plain sample."""

    target: Target
    sampler: Sampler
    selects: Mapping[str, Select | None]


def unguided(engine: Engine, task: Task, samples: int, block: int) -> list[Plan]:
    """What needs no reward: plain sampling, majority, MBR and beam search at the tokens of so many samples."""
    target = Target(engine, nothing, beta=1.0)
    width = 2 ** (int(math.log2(samples)) // 2)
    votes: dict[str, Select | None] = {
        "plain sampling": None,
        "majority vote": xt.vote(task.answer, weighted=False),
        "MBR": plain_mbr,
    }
    return [
        Plan(target, xt.Independent(samples), votes),
        Plan(target, Beam(width, samples // width, block), {"beam search": xt.draw}),
    ]


@dataclass(frozen=True)
class Sizes:
    """How much of each method costs about as much as `samples` plain samples; ETS has one rollout per candidate (K = 1)."""

    samples: int
    moves: int  # of QAlign
    particles: int
    candidates: int
    candidates_is: int  # of ETS with a proposal

    @staticmethod
    def reckoned(samples: int, steps: float) -> Sizes:
        """From the samplers' own formulas, where guided responses are as long as plain ones.

        steps: in how many blocks a response comes in the mean (I). M or N is what M(1 + (I-1)K/2) = samples gives; with a
        proposal each token of a rollout counts twice, drawn by one model and scored by the other. A QAlign step redraws half
        a response. Only one of each is left where the samples do not suffice for two.
        """
        rows = max(1, round(samples / (1 + (steps - 1) / 2)))
        return Sizes(samples, max(1, 2 * (samples - 1)), rows, rows, max(1, round(samples / steps)))


def guided(target: Target, task: Task, sizes: Sizes, block: int, proposal: Engine) -> list[Plan]:
    """What follows a reward."""
    vote = xt.vote(task.answer, distinct=False)  # what the results so far were found with
    is_target, ets = replace(target, proposal=proposal), xt.ETS(sizes.candidates, 1, block)
    return [
        Plan(target, xt.Independent(sizes.samples), {"weighted vote": vote, "best-of-n": xt.best}),
        Plan(target, xt.SuffixMCMC(sizes.moves), {"QAlign": vote}),
        Plan(target, xt.SMC(sizes.particles, block), {"SMC": vote}),
        Plan(target, ets, {"ETS, raw chain": ets_chain, "ETS, all rollouts vote": vote}),
        Plan(is_target, replace(ets, candidates=sizes.candidates_is), {"ETS-IS, all rollouts vote": vote}),
    ]


@dataclass(frozen=True)
class TrueReward:
    """1.0 for a right answer, 0.0 for any other: what a perfect verifier would say. by_prompt: the references."""

    by_prompt: Mapping[str, str]
    correct: Callable[[str, str], bool]

    def __call__(self, prompt: str, drafts: Sequence[Draft]) -> list[float]:
        return [float(self.correct(draft.text, self.by_prompt[prompt])) for draft in drafts]


def true_reward(task: Task) -> TrueReward:
    return TrueReward(dict(zip(task.texts, task.references, strict=True)), task.correct)


# ---------------------------------------------------------------------------------------------------------- results


class Results:
    """The scores of finished plans in a JSON file, which is written after each: a stopped script goes on from there.

    groups: for each group of methods that belong together, such as those of one budget, the finished plans by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.groups: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def measure(
        self,
        group: str,
        plan: Plan,
        task: Task,
        seed: int,
        *,
        concurrency: int,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Run a plan, unless it was run before on the same problems with the same settings, and keep its scores.

        They take the place of what the same methods scored with this seed under other settings.
        folder: where each plan has a file that gets every problem as it finishes; None keeps whole plans only.
        """
        name = digest(json.dumps([describe(plan.target), describe(plan.sampler), seed]))
        problems = digest("\0".join(task.texts))
        known = self.groups.setdefault(group, {})
        if name in known and known[name]["problems"] == problems:
            return
        scores, results = evaluate(
            plan.target,
            task.prompts,
            task.references,
            plan.sampler,
            plan.selects,
            task.correct,
            seed=seed,
            concurrency=concurrency,
            progress=progress,
            store=folder and folder / f"{task.name}-{type(plan.sampler).__name__}-{name}.jsonl",
        )
        kept = [asdict(score) | {"right": score.right.tolist()} for score in scores]
        for other in [other for other, before in known.items() if before["seed"] == seed and _methods(before) & {*plan.selects}]:
            del known[other]
        tokens = [mean_cost([result]).tokens for result in results]
        known[name] = {"problems": problems, "seed": seed, "sampler": describe(plan.sampler), "tokens": tokens, "scores": kept}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.groups) + "\n")

    def scores(self, group: str) -> dict[str, Score]:
        """Each method's score, over the problems of all its seeds; costs in the mean, seconds in all."""
        parts: dict[str, list[dict[str, Any]]] = {}
        for plan in self.groups.get(group, {}).values():
            for score in plan["scores"]:
                parts.setdefault(score["name"], []).append(score)
        return {name: _pooled(name, scores) for name, scores in parts.items()}

    def spread(self, group: str) -> dict[str, float]:
        """The standard error of each method's tokens per problem, from how its problems differ; NaN where that was not kept."""
        found: dict[str, float] = {}
        for name, score in self.scores(group).items():
            plans = [plan for plan in self.groups[group].values() if name in _methods(plan)]
            tokens = np.concatenate([plan.get("tokens", [math.nan]) for plan in plans])
            found[name] = float(tokens.std() / math.sqrt(len(tokens)) * score.tokens / tokens.mean())
        return found


def _methods(plan: Mapping[str, Any]) -> set[str]:
    return {score["name"] for score in plan["scores"]}


def _pooled(name: str, parts: Sequence[Mapping[str, Any]]) -> Score:
    cost = Cost()
    for part in parts:
        loads = {model: Load(**part["cost"][model]) for model in ("reference", "proposal")}
        cost = cost.plus(Cost(**{**part["cost"], **loads}), 1 / len(parts))
    return Score(
        name,
        np.concatenate([part["right"] for part in parts]),
        cost.tokens,
        math.fsum(part["seconds"] for part in parts),
        cost,
        tuple(float(np.mean(part["right"])) for part in parts),
    )


# ------------------------------------------------------------------------------------------------------------ tables


def table(
    scores: Mapping[str, Score], parameters: Parameters | None = None, spread: Mapping[str, float] | None = None
) -> list[str]:
    """The lines of a Markdown table.

    parameters: of the models, for a column of MFLOPs of tokens drawn and scored. spread: the standard errors of the tokens.
    """
    base = scores["majority vote"]
    columns = ["method", "accuracy", "95 % interval", "over the majority vote", "tokens", "seconds"]
    columns += ["by seed"] * (len(base.seeds) > 1) + ["MFLOPs"] * (parameters is not None)
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for name, score in scores.items():
        low, high = score.interval
        difference, least, most = paired_difference(score, base)
        assert score.cost is not None  # `evaluate` measures it
        cells = {
            "method": name,
            "accuracy": f"{score.accuracy:.1%}",
            "95 % interval": f"{low:.1%} to {high:.1%}",
            "over the majority vote": ""
            if score is base
            else f"{100 * difference:+.1f} ({100 * least:+.1f} to {100 * most:+.1f})",
            "tokens": f"{score.tokens:,.0f}" + (f" ± {spread[name]:,.0f}" if spread else ""),
            "seconds": f"{score.seconds:,.0f}",
            "by seed": ", ".join(f"{share:.0%}" for share in score.seeds),
            "MFLOPs": "" if parameters is None else f"{_flops(score.cost, parameters) / 1e6:,.0f}",
        }
        lines.append(f"| {' | '.join(cells[column] for column in columns)} |")
    return lines


def _flops(cost: Cost, parameters: Parameters) -> float:
    """Without prompts: an engine keeps their key-values, so that the first method would pay for all."""
    models = {model: replace(getattr(cost, model), prompt=0.0) for model in ("reference", "proposal")}
    return sum(replace(cost, **models).flops(parameters))
