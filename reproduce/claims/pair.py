"""What the runs of the real pair say of the papers' claims: `reproduce/claims/pair_runs.py` made them.

    python reproduce/claims/pair.py

The plain draws of a problem serve every rule that chooses among draws, in runs of n that do not overlap, so that their accuracies
are means over 32/n runs. Tokens are those generated and scored by both models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from exptilt.evaluation.cost import Parameters  # noqa: E402
from exptilt.evaluation.evaluate import Score  # noqa: E402
from reproduce.claims.cells import Cell, difference, percent, points, sure  # noqa: E402
from reproduce.claims.choices import Rule, best, choose, first_draw, likeliest, majority, weighted  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402
from reproduce.claims.pair_runs import (  # noqa: E402
    BETA,
    CELLS,
    FOLDER,
    MOVES,
    PARAMETERS,
    POWER,
    SIZES,
    STATES,
    TEMPERATURE,
    Bench,
    benches,
    drawn,
)
from reproduce.methods import Results  # noqa: E402
from reproduce.pool import Pool  # noqa: E402

PAIR = "Qwen2.5-Coder 1.5B"
SMALL = f"{PAIR} with rollouts of the 0.5B"
UNGUIDED = ("power sampling", "beam search", "ETS(3, 3), one step, verifier")  # what needs no pilot


class Runs:
    """What there is of a task: its plain draws, and the scores of its methods as cells."""

    def __init__(self, bench: Bench, pool: Pool, scores: dict[str, Score]) -> None:
        self.bench, self.pool, self.scores = bench, pool, scores
        self.setting = f"{PAIR}, {bench.title}, {pool.problems} problems, T = {TEMPERATURE}, {bench.told}, β = {BETA}"

    def __contains__(self, name: str) -> bool:
        return name in self.scores

    def __getitem__(self, name: str) -> Cell:
        """A method's cell; what follows the pilot's agreement pays for the pilot."""
        score = self.scores[name]
        pilot = 0 if name.startswith(UNGUIDED) else self.bench.pilot * np.mean(choose(self.pool, first_draw, 1)["tokens"])
        return {"right": score.right.tolist(), "tokens": [score.tokens + pilot] * len(score.right)}

    def votes(self, rule: Rule) -> dict[int, Cell]:
        return {size: choose(self.pool, rule, size) for size in SIZES}

    def as_many_tokens(self, cell: Cell, rule: Rule = majority) -> tuple[int, Cell]:
        """The rule on the least number of draws, of those that divide 32, that has the tokens of a cell, or on all."""
        cells = self.votes(rule)
        size = next((n for n in SIZES if np.mean(cells[n]["tokens"]) >= np.mean(cell["tokens"])), SIZES[-1])
        return size, cells[size]


# ------------------------------------------------------------------------------------------------------ ETS, row 1


def table_one(runs: Runs) -> Finding:
    ets, plain = runs["ETS"], choose(runs.pool, first_draw, 1)
    n, equal = runs.as_many_tokens(ets)
    others = {"one draw": plain, f"a vote of {n}": equal}
    if np.any(runs.pool.checked > 0):
        others[f"the best of {n} by the examples"] = choose(runs.pool, best, n)
    others |= {name: runs[name] for name in ("beam search", "power sampling", "SMC") if name in runs}
    told = ", ".join(f"{name} {percent(cell)}" for name, cell in others.items())
    gaps = {name: difference(ets, cell) for name, cell in others.items()}
    ahead = "; ".join(f"over {name} {points(gap)}" for name, gap in gaps.items())
    above, below = ([name for name, gap in gaps.items() if sure(gap) == sign] for sign in (1, -1))
    return Finding(
        f"ETS is better than {', '.join(others)}: {runs.bench.title}", "ETS, Table 1",
        f"{runs.setting}; ETS M = 8, K = 2, blocks of 16 tokens, the published chain", "more right answers than each",
        f"ETS {percent(ets)}, all its rollouts voting {percent(runs['ETS, all rollouts vote'])}; {told}; {ahead}",
        **judged(len(above) == len(gaps), _level(above, below), bool(above) and not below),
    )  # fmt: skip


def _level(above: list[str], below: list[str]) -> str:
    told = f"it is above {', '.join(above)} by more than the interval" if above else "it is above none by more than the interval"
    return told + (f", and below {', '.join(below)}" if below else "") + "; a method's own reward decides what it can gain"


def first_experiment(runs: Runs) -> Finding:
    plain, agreed, right = choose(runs.pool, first_draw, 1), runs["ETS(3, 3), one step"], runs["ETS(3, 3), one step, verifier"]
    gains = difference(agreed, plain), difference(right, plain)
    return Finding(
        f"ETS with M = 3, K = 3, I = 1 improves on plain decoding: {runs.bench.title}", "ETS, first experiment it recommends",
        runs.setting, "more right answers than plain draws, and still more with a verifier",
        f"one draw {percent(plain)}; {runs.bench.told} {percent(agreed)}, {points(gains[0])}; verifier {percent(right)}, "
        f"{points(gains[1])}",
        **judged(sure(gains[0]) > 0 and sure(gains[1]) > 0,
                 "three candidates under a reward that is often wrong gain less than 60 problems can show"
                 if sure(gains[0]) == 0 else "the reward picks wrong answers", sure(gains[1]) > 0),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- ETS-IS, row 5


def energies(runs: Runs, cell: Cell) -> Finding:
    r = float(np.corrcoef(cell["direct"], cell["corrected"])[0, 1])
    ratios = np.array(cell["corrected"]) / np.array(cell["direct"])
    return Finding(
        f"Rollouts of a small model, corrected by p/q, give the model's energies: {runs.bench.title}", "ETS, Algorithm 2",
        f"{SMALL}; {len(cell['k'])} responses after 16 tokens, 16 rollouts each against 32 of the model, verifier, β = 0.2",
        "corrected and direct energies correlate by more than 0.9",
        f"correlation {r:.2f}; corrected over direct {np.median(ratios):.2f} in the median, {np.mean(ratios):.2f} in the mean; "
        f"p/q up to {max(cell['biggest']):,.0f}, its coefficient of variation {np.median(cell['variation']):.1f}, k̂ "
        f"{np.median(cell['k']):.2f}, above 0.7 for {np.mean(np.array(cell['k']) > 0.7):.0%}",
        **judged(r > 0.9, "few of 16 rollouts carry the mean of p/q, so energies are low by far or high by far", r > 0.5),
    )  # fmt: skip


def loss(runs: Runs) -> Finding:
    gap = difference(runs["ETS-IS"], runs["ETS"])
    return Finding(
        f"ETS-IS loses little accuracy: {runs.bench.title}", "ETS, Table 1 (69.3 to 66.5 %)",
        f"{runs.setting}, rollouts of the 0.5B (32 % of its parameters), M = 8, K = 2", "at most four points below ETS",
        f"{percent(runs['ETS-IS'])} against {percent(runs['ETS'])}: {points(gap)}",
        **judged(gap[0] > -0.04, "the small model's rollouts miss answers that the model finds", gap[0] + gap[1] > -0.04),
    )  # fmt: skip


def saving(runs: Runs) -> Finding:
    cost = {name: _gigaflops(runs.scores[name]) for name in ("ETS", "ETS-IS")}
    ratio = cost["ETS-IS"] / cost["ETS"]
    rows = {name: runs.scores[name].cost for name in cost}
    told = "; ".join(
        f"{name} {each.reference.forwards:,.0f} forwards of the model, {each.reference.scored:,.0f} tokens scored by it, "
        f"{each.proposal.forwards:,.0f} forwards of the proposal" for name, each in rows.items() if each
    )  # fmt: skip
    return Finding(
        f"ETS-IS saves work: {runs.bench.title}", "ETS, Table 1 (7.4 to 5.3 times the base's time)", runs.setting,
        "0.7 times the FLOPs of ETS", f"{ratio:.2f} times the {cost['ETS']:,.0f} GFLOP of ETS; a problem takes: {told}",
        **judged(ratio < 0.8, "the model must score every token of the proposal's rollouts, which are as many as it would have "
                 "drawn; the paper counts time on GPUs, where scoring is cheaper than drawing", ratio < 1),
    )  # fmt: skip


def _gigaflops(score: Score) -> float:
    """Of a problem, without prompts: the models' forwards and the tokens that the model scored."""
    assert score.cost is not None
    parameters = Parameters(PARAMETERS["model"], PARAMETERS["proposal"])
    p, q = score.cost.reference, score.cost.proposal
    return 2e-9 * (parameters.reference * (p.forwards + p.scored) + parameters.proposal * (q.forwards + q.scored))


def speculation(runs: Runs) -> Finding:
    gap = difference(runs["ETS-IS"], runs["GSI"])
    return Finding(
        f"ETS-IS beside Guided Speculative Inference: {runs.bench.title}", "2506.04118",
        f"{runs.setting}, soft best-of-16 of the 0.5B", "level",
        f"{percent(runs['ETS-IS'])} against {percent(runs['GSI'])}: {points(gap)}; GFLOP a problem "
        f"{_gigaflops(runs.scores['ETS-IS']):,.0f} and {_gigaflops(runs.scores['GSI']):,.0f}",
        **judged(sure(gap) >= 0, "whole drafts of the proposal are cheaper than steps", part=False),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- QAlign, row 9


def curve(cells: dict[int, Cell]) -> str:
    return ", ".join(f"{np.mean(cell['right']):.0%} at {np.mean(cell['tokens']):,.0f}" for cell in cells.values())


def chain(runs: Runs, name: str) -> dict[int, Cell]:
    """The votes of a chain's first states. The tokens of a part of it are reckoned: its first draft is whole, moves are alike."""
    whole = np.mean(runs[f"{name}, {STATES[-1]} states"]["tokens"])
    first = np.mean(choose(runs.pool, first_draw, 1)["tokens"]) * (1 if name in UNGUIDED else 1 + runs.bench.pilot)
    spent = {n: first + (whole - first) * (n - 1) / (STATES[-1] - 1) for n in STATES}
    return {n: runs[f"{name}, {n} states"] | {"tokens": [float(spent[n])]} for n in STATES}


def over_optimised(runs: Runs) -> Finding:
    rule, told = (best, "the examples") if np.any(runs.pool.checked > 0) else (likeliest, "log p")
    cells = runs.votes(rule)
    fall = max(difference(cells[SIZES[-1]], cells[n])[0] for n in SIZES[2:-1])
    worst = min((difference(cells[SIZES[-1]], cells[n]) for n in SIZES[:-1]), key=lambda gap: gap[0])
    return Finding(
        f"Best-of-n over-optimises an imperfect reward: {runs.bench.title}", "QAlign, figures 1 and 2",
        f"{runs.setting}; best-of-n by {told}", "accuracy falls as n grows",
        f"best-of-n by {told}: {curve(cells)} tokens; of {SIZES[-1]} draws less the best of fewer {points(worst)}; majority: "
        f"{curve(runs.votes(majority))}",
        **judged(sure(worst) < 0, "no fall in 32 draws that these problems would show", part=fall < 0.01),
    )  # fmt: skip


def monotone(runs: Runs) -> Finding:
    cells, votes = chain(runs, "QAlign"), runs.votes(weighted if np.any(runs.pool.checked > 0) else majority)
    end, start = cells[STATES[-1]], cells[STATES[0]]
    n, equal = runs.as_many_tokens(end)
    fall, gap = difference(end, start), difference(end, equal)
    return Finding(
        f"QAlign improves with compute and passes the majority: {runs.bench.title}", "QAlign, figures 1 and 2", runs.setting,
        "no fall, and above the majority of as many tokens",
        f"QAlign: {curve(cells)} tokens; majority of {n} {percent(equal)}, {points(gap)}; weighted vote: {curve(votes)}",
        **judged(sure(fall) >= 0 and sure(gap) > 0, "it does not fall, and what it has over the majority is within the interval",
                 sure(fall) >= 0 and sure(gap) >= 0),
    )  # fmt: skip


def half_the_tokens(runs: Runs) -> Finding:
    total = np.mean(runs[f"QAlign, {STATES[-1]} states"]["tokens"])
    draft, pilot = np.mean(choose(runs.pool, first_draw, 1)["tokens"]), runs.bench.pilot
    ratio = (total - pilot * draft) / (STATES[-1] * draft)
    return Finding(
        f"QAlign takes half the tokens of as many draws: {runs.bench.title}", "QAlign, appendix D", runs.setting,
        "a ratio of one half",
        f"{total:,.0f} tokens for {STATES[-1]} states{f' and a pilot of {pilot}' if pilot else ''}: {ratio:.2f}",
        **judged(0.4 < ratio < 0.6, "states of the chain are longer or shorter than draws"),
    )  # fmt: skip


def power(runs: Runs) -> Finding:
    cells, plain = chain(runs, "power sampling"), choose(runs.pool, first_draw, 1)
    gap = difference(runs["power sampling"], plain)
    return Finding(
        f"Power sampling improves on plain draws: {runs.bench.title}", "ETS, Table 1 (its baseline)",
        f"{runs.setting.rsplit(', ', 2)[0]}, α = {POWER:g}, one chain of {MOVES} moves", "a draw of its states above a draw of p",
        f"{percent(runs['power sampling'])} against {percent(plain)}: {points(gap)}; votes of its states: {curve(cells)} tokens",
        **judged(sure(gap) > 0, "what is more probable is not more often right here" if gap[0] <= 0 else
                 "the gain is within the interval of 60 problems", gap[0] > 0),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ main

ROWS: dict[Callable[[Runs], Finding], tuple[str, ...]] = {
    table_one: ("ETS",),
    first_experiment: ("ETS(3, 3), one step", "ETS(3, 3), one step, verifier"),
    power: ("power sampling",),
    loss: ("ETS", "ETS-IS"),
    saving: ("ETS", "ETS-IS"),
    speculation: ("ETS-IS", "GSI"),
    over_optimised: (),
    monotone: (f"QAlign, {STATES[-1]} states",),
    half_the_tokens: (f"QAlign, {STATES[-1]} states",),
}
"""Each row with the methods that it is about."""


def main() -> None:
    results, findings = Results(FOLDER / "methods.json"), []
    for bench in benches():
        pool = drawn(bench)
        if pool is None:
            continue
        runs = Runs(bench, pool, results.scores(bench.name))
        findings += [row(runs) for row, names in ROWS.items() if all(name in runs for name in names)]
        if (cell := CELLS.known(f"energies, {bench.name}")) is not None:
            findings.append(energies(runs, cell))
    keep("pair", findings)


if __name__ == "__main__":
    main()
