"""The page and the figure of `reproduce/chains.py`: what was measured beside what is ideal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.record import machine
from exptilt.evaluation.evaluate import wilson
from exptilt.evaluation.pools import best_at_k

RESULTS = Path(__file__).resolve().parent / "results"
LINE, LAST, BUDGET = 6, 4, 8  # as in chains.py: tokens of a line and of the end, flawless solutions of a budget
Found = Mapping[str, Mapping[str, Any]]


class Ideal(NamedTuple):
    """Steps drawn on chains whose lines are wrong with probability ε each, seen at once, where q = (1-ε)^L is the chance that a
    draw is flawless and a = (1-ε³)^L the accuracy of a filter of three."""

    best_of_n: float
    abort: float
    filter: float
    accuracy: float

    @classmethod
    def of(cls, error: float, steps: float) -> Ideal:
        q, a = (1 - error) ** steps, (1 - error**3) ** steps
        return cls(steps * max(1.0, math.log(1 - a) / math.log(1 - q)), (1 - q) / (error * q), 3 * steps, a)


class Cost(NamedTuple):
    """Steps drawn for a chain, with the standard error over chains, and the accuracy with its 95 % interval."""

    steps: float
    error: float
    accuracy: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, measured: Mapping[str, Any], length: int) -> Cost:
        steps = np.array(measured["tokens"]) * length / (LINE * length + LAST)
        right = float(np.mean(measured["right"]))
        return cls(float(steps.mean()), float(steps.std() / math.sqrt(len(steps))), right, wilson(right, len(steps)))


def lengths(found: Found) -> list[int]:
    return sorted(map(int, found))


def error_rate(found: Found, length: int | None = None) -> float:
    """The share of wrong lines among those that follow right ones, at one length or over all."""
    pools = [methods["pool"] for steps, methods in found.items() if length in (None, int(steps))]
    return sum(pool["wrong"] for pool in pools) / sum(pool["lines"] for pool in pools)


def ideal_of(found: Found, length: int) -> Ideal:
    """The ideal costs at a length, by the rate of errors that was measured there."""
    return Ideal.of(error_rate(found, length), length)


def best_of(pool: Mapping[str, Any], k: int) -> float:
    """The accuracy of the best of k draws, the exact mean over subsets of the pool."""
    return float(np.mean([best_at_k(*rows, k) for rows in zip(pool["right"], pool["flawless"], strict=True)]))


def cost_of_best(found: Found, length: int) -> tuple[float, bool]:
    """Steps until the best of n has the accuracy that all are compared at, and whether the pool was large enough to see it.

    Where it was not, n follows from the share of flawless draws.
    """
    ideal, pool = ideal_of(found, length), found[str(length)]["pool"]
    per_draw = float(np.mean(pool["tokens"])) * length / (LINE * length + LAST)
    for k in range(1, len(pool["right"][0]) + 1):
        if best_of(pool, k) >= ideal.accuracy:
            return k * per_draw, True
    return length * math.log(1 - ideal.accuracy) / math.log(1 - float(np.mean(pool["flawless"]))), False


def at_budget(found: Found, length: int) -> dict[str, tuple[float, int]]:
    """The accuracy of every method at the tokens of `BUDGET` flawless solutions, and over how many chains."""
    methods = found[str(length)]
    pool, tokens = methods["pool"], BUDGET * (LINE * length + LAST)
    chains = len(pool["right"])
    reached = {name: float(np.mean(pool[key])) for name, key in (("majority vote", "majority"), ("distinct vote", "distinct"))}
    reached["best-of-n"] = best_of(pool, BUDGET)
    reached[ABORT] = float(np.mean(np.array(methods[ABORT]["tokens"]) <= tokens))
    for name in BUDGETED:
        reached[name] = float(np.mean(methods[name]["right"]))
    return {name: (share, chains) for name, share in reached.items()}


ABORT = "first success with abort"
FILTERS = ("SMC of 3, checker", "SMC of 4, checker", "ETS of 4, checker")
BUDGETED = ("SuffixMCMC, graded", "SMC, rollouts", "ETS, rollouts", "SMC, checker", "ETS, checker")

# -------------------------------------------------------------------------------------------------------------- page

_ABOUT = """\
# Which sampler when

Written by `reproduce/chains.py`. `tiny-chain` works a running total line by line, 4 to 48 lines, and {least:.1%} to
{most:.1%} of its lines are wrong, depending on the length; a checker sees each wrong line (`ChainCheck`). What decides
between samplers is how often a plain draw succeeds, and whether a mistake can be seen before the end:

| a mistake is seen | a plain draw succeeds | take |
|---|---|---|
| never: no reward is at hand | | `Independent(n)` and a vote; `weights="distinct"` where responses repeat |
| at the end only | | `Independent(n, batch=…)` with `until=xt.until.reward(…)`, or best-of-n: rollouts cost too much |
| on the way | at least once in seven | `Rejection(1, limit, reward_max, block=…)` gives up what is lost |
| on the way | less often | `SMC(4, block="\\n", value=reward, threshold=1, floor=0.01)` |

The seventh needs no measurement. With q the chance of success and ε the chance that a line goes wrong, drawing until a success
and giving up at each mistake costs (1 - q)/(εq) lines, and a filter of three particles 3·log(1/q)/ε. They are equal at q = 0.15,
whatever ε is: after {crossing:.0f} lines here.

![Accuracy against the number of steps at equal tokens, and the cost of a wanted accuracy](chains.png)

{chains} held-out chains of each length ({more} for the filters of 3 and 4), seed 7, temperature 1, β = 0.1. {machine}.

## What this does and does not show

The model's slips are taught (one result in twelve of its training solutions is wrong), so their rate is known and about the
same at every length. The checker knows the question, sees a mistake at once and is never wrong: it stands for unit tests, a
proof checker, or a calculator. A learned value that errs guides less. On chains of 2 to 4 steps, such as the word problems of
[methods.md](methods.md), a filter costs more than it saves.

Two things against the filters. Errors are not equally likely on every line: at 48 steps the first line fails more often (last
table), on a few chains nearly always, and a filter cannot repair what all its particles get wrong; so three particles fall
short of the ideal there and four are needed. ETS keeps one chain, so its floor δ, here 0.01, lets it take a wrong line with
probability δε at each step, 4 % over 48 steps: SMC is the better choice for long chains.

## What a wanted accuracy costs

Steps drawn for a chain, in the tokens of a step, until (1 - ε³)^L of the chains are right: the accuracy of an ideal filter of
three. Ideal costs are for the ε of each length; simulated with ε = 0.1, best-of-n, abort and a filter take 163, 25 and 36 steps
at a length of 12, 1,071, 113 and 71 at 24, 23,237, 1,491 and 141 at 48. A cost in italics was not measured but follows from the
share of flawless draws: no pool is that large. Costs and accuracies with 95 % intervals. The last column compares with SMC of
3, or of 4 where 3 are not accurate enough.

"""


def page(found: Found) -> str:
    error = error_rate(found)
    pools, filters = ([methods[name] for methods in found.values()] for name in ("pool", FILTERS[0]))
    rates = [error_rate(found, length) for length in lengths(found)]
    text = _ABOUT.format(
        least=min(rates),
        most=max(rates),
        crossing=math.log(0.15) / math.log(1 - error),
        chains=min(len(pool["right"]) for pool in pools),
        more=min(len(each["right"]) for each in filters),
        machine=machine(),
    )
    return text + "\n".join([*_costs(found), "", *_budgets(found), "", *_errors(found), ""])


def cheapest(found: Found, length: int) -> Cost:
    """The SMC of 3 particles, or that of 4 where 3 are not as accurate as an ideal filter of three."""
    three, four = (Cost.of(found[str(length)][name], length) for name in FILTERS[:2])
    return three if three.accuracy >= ideal_of(found, length).accuracy else four


def _costs(found: Found) -> list[str]:
    heads = ["steps", "wanted", "best-of-n, ideal", "measured", "first success with abort, ideal", "measured"]
    heads += ["filter of 3, ideal", *(name.removesuffix(", checker") for name in FILTERS), "best-of-n ÷ SMC"]
    lines = [f"| {' | '.join(heads)} |", "|---:|" + "---:|" * (len(heads) - 1)]
    for length in lengths(found):
        methods, ideal = found[str(length)], ideal_of(found, length)
        best, seen = cost_of_best(found, length)
        abort, filters = Cost.of(methods[ABORT], length), [Cost.of(methods[name], length) for name in FILTERS]
        cells = [f"{length}", f"{ideal.accuracy:.1%}", f"{ideal.best_of_n:,.0f}", f"{best:,.0f}" if seen else f"*{best:,.0f}*"]
        cells += [f"{ideal.abort:,.0f}", f"{abort.steps:,.0f} ± {1.96 * abort.error:,.0f}", f"{ideal.filter:.0f}"]
        for cost in filters:
            cells.append(
                f"{cost.steps:,.0f} at {cost.accuracy:.1%} ({100 * cost.interval[0]:.1f} to {100 * cost.interval[1]:.1f})"
            )
        cells.append(f"{best / cheapest(found, length).steps:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _budgets(found: Found) -> list[str]:
    columns = {length: at_budget(found, length) for length in lengths(found)}
    lines = ["## Accuracy at equal tokens", "", "At most the tokens of eight flawless solutions.", ""]
    lines.append("| method | " + " | ".join(f"{length} steps" for length in columns) + " |")
    lines.append("|---|" + "---:|" * len(columns))
    for name in next(iter(columns.values())):
        lines.append(f"| {name} | " + " | ".join(f"{column[name][0]:.0%}" for column in columns.values()) + " |")
    share, chains = 0.5, min(chains for column in columns.values() for _, chains in column.values())
    low, high = wilson(share, chains)
    return [*lines, "", f"95 % intervals reach {50 * (high - low):.0f} points to either side at most."]


def _errors(found: Found) -> list[str]:
    lines = [
        "## The model's errors",
        "",
        "| steps | errors a line | 95 % interval | of the first line | flawless draws | (1 - ε)^L |",
        "|---:|" + "---:|" * 5,
    ]
    trained = json.loads((RESULTS / "train_chain.json").read_text())["by_length"]
    for length in lengths(found):
        pool, error, first = found[str(length)]["pool"], error_rate(found, length), trained[str(length)]["first_line_error"]
        rate, (low, high) = pool["wrong"] / pool["lines"], wilson(pool["wrong"] / pool["lines"], pool["lines"])
        shares = f"{first:.0%} | {np.mean(pool['flawless']):.1%} | {(1 - error) ** length:.1%}"
        lines.append(f"| {length} | {rate:.1%} | {low:.1%} to {high:.1%} | {shares} |")
    return lines


# ------------------------------------------------------------------------------------------------------------ figure

_BUDGET_STYLES = {
    "SMC, checker": ("#7c3aed", "s", "-"),
    "ETS, checker": ("#2563eb", "o", "-"),
    ABORT: ("#059669", "D", "-"),
    "SuffixMCMC, graded": ("#0d9488", "v", "-"),
    "best-of-n": ("#b45309", "o", "-"),
    "SMC, rollouts": ("#7c3aed", "s", ":"),
    "ETS, rollouts": ("#2563eb", "o", ":"),
    "distinct vote": ("#374151", "^", "--"),
    "majority vote": ("#6b7280", "o", "--"),
}


def draw_figure(found: Found, path: Path) -> None:
    """Accuracy against length at equal tokens, and the cost of a wanted accuracy beside the ideal lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.8), layout="constrained")
    _draw_budgets(left, found)
    _draw_costs(right, found)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xticks(lengths(found), [str(length) for length in lengths(found)])
        axis.minorticks_off()
        axis.set_xlabel("steps of the chain")
        axis.grid(axis="y", color="#e5e7eb", lw=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def _draw_budgets(axis: Any, found: Found) -> None:
    columns = {length: at_budget(found, length) for length in lengths(found)}
    for name, (colour, marker, dash) in _BUDGET_STYLES.items():
        shares = [column[name][0] for column in columns.values()]
        axis.plot(list(columns), shares, label=name, color=colour, marker=marker, ls=dash, ms=4.5, lw=1.6)
    axis.set(title="Accuracy at the tokens of eight solutions", ylim=(-0.02, 1.03))
    axis.set_yticks(np.arange(0, 1.01, 0.2), [f"{level:.0%}" for level in np.arange(0, 1.01, 0.2)])
    axis.legend(frameon=False, fontsize=8, loc="lower left")


def _draw_costs(axis: Any, found: Found) -> None:
    steps, ideals = lengths(found), [ideal_of(found, length) for length in lengths(found)]
    best = [cost_of_best(found, length) for length in steps]
    aborts = [Cost.of(found[str(length)][ABORT], length) for length in steps]
    filters = [cheapest(found, length) for length in steps]
    _draw_series(axis, "best-of-n", ("#b45309", "o"), steps, [each.best_of_n for each in ideals], [cost for cost, _ in best])
    _draw_series(axis, ABORT, ("#059669", "D"), steps, [each.abort for each in ideals], [each.steps for each in aborts])
    _draw_series(
        axis,
        "SMC of 3 or 4, checker",
        ("#7c3aed", "s"),
        steps,
        [each.filter for each in ideals],
        [each.steps for each in filters],
    )
    spread = [1.96 * each.error for each in aborts]
    axis.errorbar(steps, [each.steps for each in aborts], yerr=spread, fmt="none", ecolor="#059669", elinewidth=1)
    axis.plot([], [], color="#374151", ls="--", lw=1.2, label="ideal")
    hollow = [(length, cost) for length, (cost, seen) in zip(steps, best, strict=True) if not seen]
    if hollow:
        x, y = zip(*hollow, strict=True)
        axis.scatter(
            x, y, s=34, color="white", edgecolors="#b45309", zorder=4, label="not measured: from the share of flawless draws"
        )
    axis.set_yscale("log")
    axis.set_title("Steps drawn for the accuracy of an ideal filter of three")
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_series(
    axis: Any, name: str, style: tuple[str, str], steps: list[int], ideal: list[float], measured: list[float]
) -> None:
    """One method: its ideal cost as a broken line, what was measured as marks."""
    colour, marker = style
    axis.plot(steps, ideal, color=colour, ls="--", lw=1.2)
    axis.scatter(steps, measured, s=34, marker=marker, color=colour, zorder=3, label=name)
