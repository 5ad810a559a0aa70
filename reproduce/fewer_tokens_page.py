"""The page and the figure of `reproduce/fewer_tokens.py`, from its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from exptilt.evaluation.evaluate import Score, paired_difference, wilson

if TYPE_CHECKING:
    from reproduce.fewer_tokens import Found, Results

GROUPS = {
    "true verifier": ("With a verifier that knows the right answer", "best-of-32"),
    "checker": ("With a checker that sees the arithmetic alone", "best-of-32"),
    "vote": ("Votes without any reward", "majority of 32"),
    "checker vote": ("Votes weighted by the checker", "vote of 32"),
    "stopped vote": ("Votes that stop themselves", "majority of 64"),
    "sharing out": ("Tokens shared out among the problems", "equal shares, 8 draws"),
}


def write(results: Results, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "fewer_tokens.md").write_text(page(results))
    draw_figure(results.methods, folder / "fewer_tokens.png")


_ABOUT = """\
# Fewer tokens for the same answer

Written by `reproduce/fewer_tokens.py`: {problems} held-out word problems in 3 seeds that no setting was chosen on, the tiny
model, temperature 1, cap 96 tokens. All methods that choose among independent draws ran on the same {draws} draws of each
problem, so differences are paired by problem, with bootstrap intervals. Tokens are those generated; a draw has {tokens:.1f} on
average. {machine}.

![Accuracy against tokens](fewer_tokens.png)

How to use these rules, and what each owes to exactness, is in [stopping.md](stopping.md).

## What it shows

{findings}
"""


def page(results: Results) -> str:
    about = results.about
    text = _ABOUT.format(
        problems=about["problems"],
        draws=about["draws"],
        tokens=about["tokens of a draw"],
        machine=about["machine"],
        findings="\n".join(fill(f"- {line}", 128, subsequent_indent="  ") for line in findings(results)),
    )
    return text + "".join(f"{line}\n" for group in GROUPS for line in _section(results, group))


_ABOUT_GROUP = {
    "true verifier": """
A first success is the best of the draws that it stops after, so it has the accuracy of best-of-n exactly, problem by problem;
what differs is the cost. Larger batches draw on a little after the success.""",
    "checker": """
The checker (`Arithmetic`) never sees the answer. `rejection` runs `Rejection(1, 128, 1.0, block=2)` at β = 0.01 on the model,
with draws of its own; all else chooses among the kept draws.""",
    "stopped vote": """
All rules are asked after every draw, and draw 64 at the most; `certain` as many as its row says. An error is a stopped vote whose
answer is not that of infinitely many draws. `sure` is the Beta rule on effective draws: on votes without a reward it is the Beta
rule of adaptive self-consistency (Aggarwal et al., 2305.11860) itself. Dirichlet is their other rule, windows are early-stopping
self-consistency (Li et al., 2401.10480); both are in `reproduce/published_rules.py`. What Beta and Dirichlet rules promise holds
on average over problems of their prior, for one look; that all of them keep it here is no guarantee for other problems. `certain`
promises no error: where it stops, the answer is proved from the engine's probabilities.""",
    "sharing out": """
Votes count each response once. Shared out: `allocate="accuracy"` in parts of 4 draws, at the tokens of equal shares.""",
}


def findings(results: Results) -> Iterator[str]:
    """What was promised, and what was measured."""
    methods, about = results.methods, results.about
    for group, name in (("true verifier", "first success of 32"), ("checker", "rejection of 128, early abort")):
        one, other = methods[f"{group}: {name}"], methods[f"{group}: best-of-32"]
        yield (
            f"{group[0].upper()}{group[1:]}: {name} has {percent(one)} for {one.tokens:.0f} tokens, best-of-32 {percent(other)} "
            f"for {other.tokens:,.0f}; difference {difference(one, other)} points."
        )
    for draws, votes in ((4, 4), (8, 8), (8, 32)):
        one, other = methods[f"vote: distinct, {draws} draws"], methods[f"vote: majority of {votes}"]
        yield f"Distinct weights at {draws} draws over the majority of {votes}: {difference(one, other)} points."
    seldom = about["rare"]
    yield (
        f"Against distinct weights: on the {seldom['problems']} problems where none of the first {seldom['draws']} draws had a "
        f"probability of 0.2, they have {seldom['distinct']:.1%} and the majority {seldom['majority']:.1%}. Where responses are "
        "long and none repeats, the weights are those of the draws."
    )
    certain = methods["stopped vote: certain, 64 at most"]
    yield (
        f"`certain` stopped on {certain.stopped} of {len(certain.right)} problems before its 64 draws, {certain.errors} of them "
        "with another answer than the vote's limit. That is a proof each time, where the other rules only estimate."
    )
    yield (
        f"The vote's limit is right on {about['limit right'] / about['problems']:.1%} of the problems, and proved by all draws "
        f"on {about['proved'] / about['problems']:.1%}."
    )
    equal, shared = methods["sharing out: equal shares, 8 draws"], methods["sharing out: shared out, tokens of 8 draws"]
    yield (
        f"Sharing tokens out by accuracy, at the tokens of 8 draws: {shared.errors} answers that are not the vote's limit, and "
        f"{equal.errors} by equal shares; accuracy {difference(shared, equal)} points."
    )
    errors = about["log_z"]["16"]
    yield (
        f"Sharing out by log_z gains nothing here: the error of log Ẑ under the checker (β = 0.25) at the tokens of 16 draws is "
        f"{errors['shared']:.3f} nats, and {errors['equal']:.3f} by equal shares; the problems are too much alike."
    )


def percent(method: Found) -> str:
    return f"{method.shares.mean():.1%}"


def difference(one: Found, other: Found) -> str:
    mean, low, high = (100 * value for value in paired_difference(_score(one), _score(other)))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _score(method: Found) -> Score:
    return Score(method.group, method.shares, method.tokens, 0.0)


def _section(results: Results, group: str) -> list[str]:
    title, base = GROUPS[group]
    methods = {name.partition(": ")[2]: method for name, method in results.methods.items() if name.partition(": ")[0] == group}
    every = results.methods
    against = every.get(f"{group}: {base}") or every[f"vote: {base}"]
    ruled, shared = group == "stopped vote", group == "sharing out"
    more = " stopped | promised | measured errors |" if ruled else " not the vote's limit |" if shared else ""
    lines = ["", f"## {title}", "", f"| method | accuracy | 95 % interval | over {base} | tokens |{more}"]
    lines += ["|---|---:|---:|---:|---:|" + "---:|" * (3 * ruled + shared)]
    for name, method in methods.items():
        low, high = _score(method).interval
        cells = [name, percent(method), f"{low:.1%} to {high:.1%}", "" if method is against else difference(method, against)]
        cells += [f"{method.tokens:,.0f} ± {1.96 * method.tokens_error:,.0f}"]
        cells += [f"{method.stopped / len(method.right):.0%}", _promised(name), _measured(method)] if ruled else []
        cells += [_measured(method)] if shared else []
        lines.append("| " + " | ".join(cells) + " |")
    return lines + _ABOUT_GROUP.get(group, "").splitlines()


def _promised(name: str) -> str:
    """The error rate that a rule promises, where it does."""
    if name.startswith("certain"):
        return "0"
    return "" if name.startswith("window") else f"{1 - float(name.partition(',')[0].split()[-1]):.0%}"


def _measured(method: Found) -> str:
    """The share of stopped votes that ended with another answer than the vote's limit has, with its 95 % interval."""
    if not method.stopped:
        return ""
    low, high = wilson(method.errors / method.stopped, method.stopped)
    return f"{method.errors / method.stopped:.1%} ({low:.1%} to {high:.1%})"


# ----------------------------------------------------------------------------------------------------------- figure

LINES: dict[str, list[tuple[str, str, str, str, str]]] = {  # label, start of the names, colour, marker, line
    "true verifier": [
        ("best-of-n", "true verifier: best-of-", "#6b7280", "o", "--"),
        ("first success", "true verifier: first success of ", "#b45309", "D", "-"),
    ],
    "checker": [
        ("best-of-n", "checker: best-of-", "#6b7280", "o", "--"),
        ("first success", "checker: first success of ", "#d97706", "D", "-"),
        ("the same with early abort", "checker: rejection of 128, early abort", "#dc2626", "*", ""),
    ],
    "vote": [
        ("majority", "vote: majority of ", "#6b7280", "o", "--"),
        ("each response once", "vote: distinct, ", "#2563eb", "o", "-"),
        ("until certain (proved)", "stopped vote: certain, ", "#7c3aed", "s", "-"),
        ("until sure (Beta rule)", "stopped vote: sure ", "#059669", "^", "-"),
    ],
}
TITLES = {
    "true verifier": "a verifier knows the answer",
    "checker": "a checker sees the arithmetic",
    "vote": "no reward: votes",
}


def draw_figure(methods: Mapping[str, Found], path: Path) -> None:
    """Accuracy against tokens generated, a panel for each kind of reward."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 4.0), sharey=True, layout="constrained")
    for axis, (group, lines) in zip(axes, LINES.items(), strict=True):
        for label, start, colour, marker, style in lines:
            points = [method for name, method in methods.items() if name.startswith(start) and _plain(name)]
            _line(axis, points, label=label, color=colour, marker=marker, ls=style, ms=11 if marker == "*" else 5)
        axis.set(xscale="log", title=TITLES[group], xlabel="tokens generated per problem")
        ticks = [32, 128, 512, 2048]
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(color="#e5e7eb", lw=0.8)
        axis.set_axisbelow(True)
        axis.legend(loc="lower right", frameon=False, fontsize=9)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    levels = np.arange(0.5, 1.01, 0.1)
    axes[0].set_yticks(levels, [f"{level:.0%}" for level in levels])
    axes[0].set_ylabel("accuracy, with 95 % interval")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _plain(name: str) -> bool:
    """Whether a method belongs to its line: not a variant of it."""
    return not name.endswith("distinct weights") and "batches" not in name


def _line(axis: Any, points: list[Found], **style: Any) -> None:
    accuracy = np.array([method.shares.mean() for method in points])
    errors = np.abs(np.array([_score(method).interval for method in points]).T - accuracy)
    axis.errorbar([method.tokens for method in points], accuracy, yerr=errors, lw=1.6, elinewidth=0.8, **style)
