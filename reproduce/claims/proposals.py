"""ETS-IS on word problems: rollouts from graded proposals, how well they overlap with the model, and what the answers cost.

    python reproduce/claims/proposals.py      # a quarter of an hour on one core; what is done is kept under runs/claims

The model is tiny. Its proposals are tiny at other temperatures, tiny-small, a quarter of its size, and tiny-small at other
temperatures. Halfway through responses, rollouts of each proposal give energies that p/q corrects; the truth beside them is the
mean over many rollouts of the model itself. The reward is the checked arithmetic, β = 0.2.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.populations.select import draw  # noqa: E402
from exptilt.rewards import Arithmetic  # noqa: E402
from reproduce.claims.cells import (  # noqa: E402
    Cell,
    Cells,
    Problems,
    columns,
    difference,
    energies,
    percent,
    points,
    rank_correlation,
    sure,
)
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402

CELLS, BETA, REWARD = Cells("proposals"), 0.2, Arithmetic()
PROBLEMS, PREFIXES, ROLLOUTS = Problems(200, seed=47), 40, 64
PROPOSALS = {
    "tiny, T = 1.3": ("tiny", 1.3), "tiny, T = 0.8": ("tiny", 0.8), "tiny-small": ("tiny-small", 1.0),
    "tiny-small, T = 1.5": ("tiny-small", 1.5), "tiny-small, T = 0.6": ("tiny-small", 0.6),
}  # fmt: skip
PARAMETERS = {"tiny": 1_918_656, "tiny-small": 470_880}
TIMED, ROUNDS = Problems(64, seed=53), 5


CHAIN = xt.ETS(8, 2, 12, returns="chain", floor=1e-6)  # the published one


def opened(stack: ExitStack, name: str, temperature: float) -> Any:
    return stack.enter_context(xt.load(name, max_tokens=96, temperature=temperature))


def overlap(name: str) -> Cell:
    """Of prefixes halfway: energies by the model's rollouts and by the proposal's; the largest p/q, its variation, and k̂."""
    found = []
    with ExitStack() as stack:
        p, q = opened(stack, "tiny", 1.0), opened(stack, *PROPOSALS[name])
        for number, prompt in enumerate([*PROBLEMS.answers][:PREFIXES]):
            key = xt.Key(5, number)
            prefix = p.extend([p.start(prompt)], [key], 12)[0]
            if prefix.finish is None:
                own = [key.child("own", place) for place in range(2 * ROLLOUTS)]
                proposed = [key.child(place) for place in range(ROLLOUTS)]
                found.append(energies(p, q, prefix, REWARD, BETA, own, proposed))
    return columns(found)


def answered(name: str | None) -> Cell:
    """ETS by the published chain, its rollouts of a proposal or of the model."""
    with ExitStack() as stack:
        p = opened(stack, "tiny", 1.0)
        q = opened(stack, *PROPOSALS[name]) if name else None
        target = xt.Target(p, REWARD, BETA, proposal=q)
        return PROBLEMS.answered(target, CHAIN, draw)


def timed() -> Cell:
    """Of ETS and of ETS-IS with tiny-small, in turn: seconds of processor time a problem, and what the model evaluated for it."""
    with ExitStack() as stack:
        p, q = opened(stack, "tiny", 1.0), opened(stack, "tiny-small", 1.0)
        cell: Cell = {"ETS": [], "ETS-IS": [], "forwards": {}, "scored": {}}
        for _ in range(1 + ROUNDS):
            for name, target in (("ETS", xt.Target(p, REWARD, BETA)), ("ETS-IS", xt.Target(p, REWARD, BETA, proposal=q))):
                began = time.process_time()
                outcomes = [*xt.run(target, [*TIMED.answers], CHAIN, select=draw, seed=TIMED.seed, progress=False)]
                cell[name].append((time.process_time() - began) / TIMED.count)
                work = [outcome.usage.reference for outcome in outcomes if outcome.usage]
                cell["forwards"][name] = sum(each.forwards for each in work) / TIMED.count
                cell["scored"][name] = sum(each.scored for each in work) / TIMED.count
    return cell | {name: cell[name][1:] for name in ("ETS", "ETS-IS")}  # the first calls pay for much


def guided_speculation() -> Cell:
    """Soft best-of-n from the small proposal, with p/q in the weights (Guided Speculative Inference), at the tokens of ETS-IS."""
    with ExitStack() as stack:
        target = xt.Target(opened(stack, "tiny", 1.0), REWARD, BETA, proposal=opened(stack, "tiny-small", 1.0))
        return PROBLEMS.answered(target, xt.Independent(24), draw)


def correlation(cell: Cell) -> float:
    return float(np.corrcoef(cell["direct"], cell["corrected"])[0, 1])


def main() -> None:
    overlaps = {name: CELLS(f"overlap, {name}", lambda name=name: overlap(name)) for name in PROPOSALS}
    direct = CELLS("ETS", lambda: answered(None))
    answers = {name: CELLS(f"ETS-IS, {name}", lambda name=name: answered(name)) for name in PROPOSALS}
    keep("proposals", [of_energies(overlaps), of_accuracy(direct, answers),
                       of_time(CELLS("time", timed)), of_mismatch(direct, overlaps, answers),
                       of_speculation(answers["tiny-small"], CELLS("GSI", guided_speculation))])  # fmt: skip


def of_energies(overlaps: dict[str, Cell]) -> Finding:
    cells = {name: correlation(cell) for name, cell in overlaps.items()}
    told = "; ".join(
        f"{name}: {r:.2f} (p/q up to {max(overlaps[name]['biggest']):,.0f}, its coefficient of variation "
        f"{np.median(overlaps[name]['variation']):.1f}, k̂ {np.median(overlaps[name]['k']):.2f})"
        for name, r in cells.items()
    )
    whole = all(r > 0.9 for r in cells.values())
    return Finding(
        "Rollouts of a small model, corrected by p/q, give the model's energies", "ETS, Algorithm 2",
        f"tiny, {PREFIXES} responses halfway, {ROLLOUTS} rollouts each against {2 * ROLLOUTS} of tiny's own",
        "corrected and direct energies correlate by more than 0.9", f"correlation by proposal: {told}",
        **judged(whole, "few rollouts carry the mean of p/q where the proposal is far from the model", max(cells.values()) > 0.9),
    )  # fmt: skip


def of_accuracy(direct: Cell, answers: dict[str, Cell]) -> Finding:
    gap = difference(answers["tiny-small"], direct)
    cost = PARAMETERS["tiny-small"] / PARAMETERS["tiny"]
    return Finding(
        "ETS-IS loses little accuracy", "ETS, Table 1 (69.3 to 66.5 %)",
        f"tiny with rollouts of tiny-small ({cost:.0%} of its parameters), {PROBLEMS.count} held-out word problems, M = 8, K = 2",
        "at most four points below ETS", f"{percent(answers['tiny-small'])} against {percent(direct)}: {points(gap)}",
        **judged(gap[0] > -0.04, "the small model's rollouts miss answers that the model finds"),
    )  # fmt: skip


def of_time(seconds: Cell) -> Finding:
    """Whether every round of ETS-IS took less than the round of ETS before it."""
    ratios = np.array(seconds["ETS-IS"]) / np.array(seconds["ETS"])
    median, least, most = np.median(ratios), ratios.min(), ratios.max()
    forwards, scored = seconds["forwards"], seconds["scored"]["ETS-IS"]
    return Finding(
        "ETS-IS saves time", "ETS, Table 1 (7.4 to 5.3 times the base's time)",
        f"tiny with rollouts of tiny-small, {TIMED.count} word problems, M = 8, K = 2; processor time, {ROUNDS} rounds in turn",
        "0.7 times the time of ETS",
        f"{median:.2f} times ({least:.2f} to {most:.2f}) the {1e3 * np.median(seconds['ETS']):.0f} ms of a problem by ETS",
        **judged(
            bool(most < 0.8),
            "rollouts that begin alike are evaluated once where the model draws them, and those of one candidate where it scores "
            f"them: {forwards['ETS']:.0f} forwards of the model a problem by ETS; {forwards['ETS-IS']:.0f} by ETS-IS, "
            f"{scored:.0f} scored tokens, and the proposal's",
            bool(most < 1),
        ),
    )  # fmt: skip


def of_mismatch(direct: Cell, overlaps: dict[str, Cell], answers: dict[str, Cell]) -> Finding:
    order = sorted(overlaps, key=lambda name: np.median(overlaps[name]["k"]))
    gaps = {name: difference(answers[name], direct) for name in order}
    told = "; ".join(f"{name} (k̂ {np.median(overlaps[name]['k']):.2f}) {points(gap)}" for name, gap in gaps.items())
    ks, losses = [float(np.median(overlaps[name]["k"])) for name in order], [-gaps[name][0] for name in order]
    r = rank_correlation(ks, losses)  # of ranks: k̂ may be -inf
    lost = any(sure(gap) < 0 for gap in gaps.values())
    return Finding(
        "Open question 3: accuracy falls as the proposal departs from the model", "ETS, open question 3; failure signature",
        f"tiny, five proposals, {PROBLEMS.count} held-out word problems, M = 8, K = 2", "a loss that grows with k̂ of p/q",
        f"ETS-IS less ETS: {told}; rank correlation of loss and k̂ {r:.2f}",
        **judged(lost and r > 0.5, "no loss that 200 problems would show" if not lost else "k̂ does not order the losses", lost),
    )  # fmt: skip


def of_speculation(ets_is: Cell, speculation: Cell) -> Finding:
    gap = difference(ets_is, speculation)
    return Finding(
        "ETS-IS beside Guided Speculative Inference", "2506.04118",
        f"tiny with tiny-small, {PROBLEMS.count} held-out word problems",
        "level at equal tokens", f"{percent(ets_is)} against soft best-of-24 {percent(speculation)}: {points(gap)}",
        **judged(sure(gap) >= 0, "whole responses are cheaper than steps where a response has 33 tokens", part=False),
    )  # fmt: skip


if __name__ == "__main__":
    main()
