"""ETS on word problems: candidates before rollouts, steps, temperature and cap; votes and power sampling beside it.

    python reproduce/claims/budget.py      # about half an hour on one core; what is done is kept under runs/claims

The reward is the agreement with a pilot of 16 draws, which knows no right answers; β = 0.1, as published. The answer of ETS is
the response of the published chain, unless all its rollouts are said to vote. Tokens include the pilot's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.populations.select import draw  # noqa: E402
from reproduce.claims.cells import Cell, Cells, Problems, difference, percent, points, sure  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402

CELLS = Cells("budget")
PROBLEMS, MODEL, BLOCK = Problems(200, seed=41), "tiny", 12
SETTING = f"{MODEL}, {PROBLEMS.count} held-out word problems, agreement with 16 pilot draws, β = 0.1"
Made = Callable[[], Cell]


def answered(sampler: Any, *, temperature: float = 1.0, cap: int = 96, reward: Any = None, select: Any = None) -> Made:
    def made() -> Cell:
        with xt.load(MODEL, max_tokens=cap, temperature=temperature) as engine:
            target = xt.Target(engine, reward or xt.rewards.Agreement(number, 16), beta=0.1)
            return PROBLEMS.answered(target, sampler, select)

    return made


def majority(n: int, **options: Any) -> Made:
    """The plain vote of n draws."""
    return answered(
        xt.Independent(n, weights="draws"), reward=xt.rewards.Zero(), select=xt.vote(number, weighted=False), **options
    )


def chain(m: int, k: int, block: int | None) -> Any:
    """The published algorithm."""
    return xt.ETS(m, k, block, returns="chain", floor=1e-6)


def first_experiment() -> Finding:
    base = CELLS("plain", answered(xt.Independent(1), reward=xt.rewards.Zero()))
    ets = CELLS("M = 3, K = 3, I = 1", answered(chain(3, 3, None), select=draw))
    vote = CELLS("majority of 19", majority(19))
    gain, over = difference(ets, base), difference(ets, vote)
    return Finding(
        "ETS with M = 3, K = 3, I = 1 improves on plain decoding", "ETS, first experiment it recommends", SETTING,
        "more right answers than plain draws",
        f"{percent(ets)} against {percent(base)}: {points(gain)}; a vote of as many tokens has {percent(vote)}",
        **judged(sure(gain) > 0 and sure(over) >= 0, f"it gains on one draw; a vote of its tokens gains more ({points(over)})",
                 sure(gain) > 0),
    )  # fmt: skip


def candidates_first() -> Finding:
    sizes = [(3, 10), (5, 6), (10, 3), (15, 2)]
    cells = [CELLS(f"M = {m}, K = {k}", answered(chain(m, k, BLOCK), select=draw)) for m, k in sizes]
    gap = difference(cells[-1], cells[0])
    told = "; ".join(f"({m}, {k}) {percent(cell)}" for (m, k), cell in zip(sizes, cells, strict=True))
    return Finding(
        "Candidates before rollouts: at M·K = 30 a larger M is better", "ETS, ablation of M and K; second experiment",
        f"{SETTING}, blocks of {BLOCK} tokens, the published chain", "(15, 2) above (3, 10)",
        f"{told}; (15, 2) less (3, 10): {points(gap)}",
        **judged(sure(gap) > 0, "the interval includes no difference: three candidates with good energies do as well"
                 if sure(gap) == 0 else "fewer candidates with better energies are ahead", sure(gap) == 0),
    )  # fmt: skip


def steps() -> Finding:
    blocks = {1: None, 2: 48, 4: 24, 8: 12}
    cells = {i: CELLS(f"I = {i}", answered(chain(8, 3, block), select=draw)) for i, block in blocks.items()}
    gap = difference(cells[8], cells[1])
    told = "; ".join(f"I = {i}: {percent(cell)}" for i, cell in cells.items())
    return Finding(
        "Four to eight steps of guidance are best", "ETS, ablation of I", f"{SETTING}, M = 8, K = 3, steps up to the cap of 96",
        "I = 4 or 8 above I = 1", f"{told}; I = 8 less I = 1: {points(gap)}",
        **judged(sure(gap) > 0, "one step is soft best-of-M here, and costs a fraction of the tokens", sure(gap) == 0),
    )  # fmt: skip


def above_the_vote() -> Finding:
    ets = CELLS("I = 4", answered(chain(8, 3, 24), select=draw))
    own = CELLS("ETS(8, 3), all rollouts vote", answered(xt.ETS(8, 3, 24)))
    fewer, tokens = CELLS("majority of 20", majority(20)), float(np.mean(ets["tokens"]))
    n = round(20 * tokens / np.mean(fewer["tokens"]))
    equal = CELLS(f"majority of {n}", majority(n))
    power = CELLS(
        "power sampling", answered(xt.SuffixMCMC(steps=n, power=4.0, burn_in=n // 2), reward=xt.rewards.Zero(), select=draw)
    )
    gaps = {"a vote of 20": difference(ets, fewer), f"a vote of its tokens ({n})": difference(ets, equal),
            "power sampling (α = 4)": difference(ets, power)}  # fmt: skip
    told = "; ".join(f"over {name} {points(gap)}" for name, gap in gaps.items())
    return Finding(
        "ETS is better than the vote and than power sampling", "ETS, Table 1", f"{SETTING}, M = 8, K = 3, I = 4",
        "more right answers than either",
        f"ETS {percent(ets)}, all its rollouts voting {percent(own)}, vote of 20 {percent(fewer)}, of {n} {percent(equal)}, "
        f"power sampling {percent(power)}: {told}",
        figure="methods.md",
        **judged(all(sure(gap) > 0 for gap in gaps.values()),
                 "at equal tokens it is not above the vote: a pilot's majority is all that its energies know",
                 any(sure(gap) > 0 for gap in gaps.values())),
    )  # fmt: skip


def temperatures() -> Finding:
    gaps = {}
    for t in (0.5, 1.0, 1.5):
        ets = CELLS(f"ETS at T = {t}", answered(chain(8, 3, 24), temperature=t, select=draw))
        vote = CELLS(f"majority of 64 at T = {t}", majority(64, temperature=t))
        gaps[t] = (difference(ets, vote), percent(ets), percent(vote))
    told = "; ".join(f"T = {t}: {ets} against {vote}, {points(gap)}" for t, (gap, ets, vote) in gaps.items())
    ahead = [t for t, (gap, _, _) in gaps.items() if sure(gap) > 0]
    return Finding(
        "Temperature decides what ETS gains", "ETS, Table 1 (T from 0.25 to 1.5 by task)", f"{SETTING}, M = 8, K = 3, I = 4",
        "a temperature at which it is above the vote", told,
        **judged(bool(ahead), "the vote gains from the same temperature", part=False),
    )  # fmt: skip


def caps() -> Finding:
    gaps = {}
    for cap in (24, 32, 96):
        ets = CELLS(f"ETS at a cap of {cap}", answered(chain(8, 3, -(-cap // 4)), cap=cap, select=draw))
        vote = CELLS(f"majority of 64 at a cap of {cap}", majority(64, cap=cap))
        gaps[cap] = (difference(ets, vote), percent(ets), percent(vote))
    told = "; ".join(f"{cap}: {ets} against {vote}, {points(gap)}" for cap, (gap, ets, vote) in gaps.items())
    first, last = gaps[24][0], gaps[96][0]
    falls = first[0] - last[0] > (first[1] ** 2 + last[1] ** 2) ** 0.5
    return Finding(
        "The gain over the vote is that of a short cap", "ETS, Table 1 beside its 1,024-token run (76.8 against 76.2 on MATH500)",
        f"{SETTING}, M = 8, K = 3, I = 4; a response has 33 tokens in the mean",
        "a gain at a short cap that goes as the cap grows", told,
        **judged(falls, "ETS gains nothing on a vote of 64 at the short cap either"),
    )  # fmt: skip


def main() -> None:
    keep("budget", [first_experiment(), candidates_first(), steps(), above_the_vote(), temperatures(), caps()])


if __name__ == "__main__":
    main()
