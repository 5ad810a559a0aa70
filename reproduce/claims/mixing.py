"""How QAlign's chains mix: the acceptance rate that β is chosen by, a burn-in, and whether R̂ tells how far a chain has come.

    python reproduce/claims/mixing.py      # five minutes on one core; what is done is kept under runs/claims

Four chains of 33 states on word problems, with checked arithmetic as the reward, at the β at which a move is accepted with
probability 0.3, 0.5 and 0.8 by a pilot (the median over problems). An error is the total variation between the answers of states
and those of 1,024 weighted draws. As many independent weighted draws as there are states stand beside them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.core import Engine, Sampler  # noqa: E402
from exptilt.rewards import Arithmetic  # noqa: E402
from exptilt.testing.enumeration import total_variation  # noqa: E402
from reproduce.claims.cells import Cell, Cells, Problems, interval, rank_correlation, sure  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402
from reproduce.methods import usual_beta  # noqa: E402

CELLS, PROBLEMS = Cells("mixing"), Problems(100, seed=61)
DRAWS, CHAINS, STEPS, RATES = 1024, 4, 32, (0.3, 0.5, 0.8)
LENGTHS, LIMIT = (3, 5, 9, 17, 33), 1.05  # states of each chain; of R̂


def drawn() -> Cell:
    """Of each problem the answers and rewards of plain draws, and the tokens of one."""
    cell: Cell = {"answers": [], "rewards": [], "tokens": []}
    with xt.load("tiny", max_tokens=96) as engine:
        for result in run(engine, 1.0, xt.Independent(DRAWS)):
            cell["answers"].append([number(draft.text) or "" for draft in result.population.drafts])
            cell["rewards"].append(result.population.rewards.tolist())
            cell["tokens"].append(result.usage.tokens / DRAWS)
    return cell


def chained(beta: float) -> Cell:
    """Of each problem the answers of all states, chain by chain; acceptance, R̂ and tokens."""
    cell: Cell = {"states": [], "acceptance": [], "r_hat": [], "tokens": []}
    with xt.load("tiny", max_tokens=96) as engine:
        for result in run(engine, beta, xt.SuffixMCMC(STEPS, chains=CHAINS)):
            read = [number(draft.text) or "" for draft in result.population.drafts]
            cell["states"].append([read[chain::CHAINS] for chain in range(CHAINS)])
            cell["acceptance"].append(result.population.stats["acceptance"])
            cell["r_hat"].append(result.population.stats["r_hat"])
            cell["tokens"].append(result.usage.tokens)
    return cell


def run(engine: Engine, beta: float, sampler: Sampler) -> list[xt.Result]:
    target = xt.Target(engine, Arithmetic(), beta)
    return xt.run(target, [*PROBLEMS.answers], sampler, seed=PROBLEMS.seed, progress=False).answered


def shares(answers: Sequence[str], weights: np.ndarray | None = None) -> dict[str, float]:
    """The weight that each answer has; as many as it stands there without weights."""
    found: dict[str, float] = {}
    for answer, weight in zip(answers, [1.0] * len(answers) if weights is None else weights.tolist(), strict=True):
        found[answer] = found.get(answer, 0.0) + weight
    return found


class Errors:
    """Errors of chains and of draws at one β, over the problems whose draws differ in their reward."""

    def __init__(self, pool: Cell, cell: Cell, beta: float) -> None:
        self.rows = [row for row, rewards in enumerate(pool["rewards"]) if np.ptp(rewards) > 0]
        self.cell, self.pool, self.beta = cell, pool, beta
        self.weights = {row: self._weights(row) for row in self.rows}
        self.truths = {row: shares(pool["answers"][row], self.weights[row]) for row in self.rows}

    @property
    def r_hats(self) -> list[float]:
        """R̂ of each problem; infinite where the chains' rewards do not vary within chains."""
        return [math.inf if (value := self.cell["r_hat"][row]) is None else value for row in self.rows]

    def _weights(self, row: int) -> np.ndarray:
        rewards = np.array(self.pool["rewards"][row]) / self.beta
        return np.exp(rewards - rewards.max())

    def of_chains(self, states: int, left_out: int = 0) -> np.ndarray:
        """Of the first states of each chain, without those that are left out at their start."""
        kept = ([answer for chain in self.cell["states"][row] for answer in chain[left_out:states]] for row in self.rows)
        return np.array(
            [total_variation(shares(answers), self.truths[row]) for row, answers in zip(self.rows, kept, strict=True)]
        )

    def of_draws(self, count: int) -> np.ndarray:
        """Of so many weighted draws, in the mean over groups that do not overlap, each against the others."""
        return np.array(
            [np.mean([self._group(row, first, count) for first in range(0, DRAWS - count, count)][:7]) for row in self.rows]
        )

    def _group(self, row: int, first: int, count: int) -> float:
        some = slice(first, first + count)
        rest = [*range(first), *range(first + count, DRAWS)]
        answers, weights = self.pool["answers"][row], self.weights[row]
        return total_variation(shares(answers[some], weights[some]), shares([answers[place] for place in rest], weights[rest]))


def level(values: np.ndarray) -> str:
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}"


def of_rates(errors: dict[float, Errors]) -> Finding:
    told, last, few = [], {}, LENGTHS[::2]
    for rate, each in errors.items():
        last[rate] = each.of_chains(STEPS + 1)
        near = np.mean([value < LIMIT for value in each.r_hats])
        accepted, tokens = (float(np.mean([each.cell[key][row] for row in each.rows])) for key in ("acceptance", "tokens"))
        equal = round(tokens / float(np.mean([each.pool["tokens"][row] for row in each.rows])))
        told.append(
            f"β = {each.beta:.2g}: {accepted:.0%} accepted, R̂ below {LIMIT} on {near:.0%}, errors of "
            f"{', '.join(str(CHAINS * states) for states in few)} states ({tokens:,.0f} tokens for the last) "
            f"{', '.join(level(each.of_chains(states)) for states in few)}, of as many weighted draws "
            f"{', '.join(level(each.of_draws(CHAINS * states)) for states in few)}, of {equal} draws, which take as many tokens "
            f"as the last, {level(each.of_draws(equal))}"
        )
    falls = interval(last[RATES[0]] - last[RATES[-1]])
    return Finding(
        "A high acceptance rate ensures that chains mix", "QAlign, section 4.1 (β by acceptance)", setting(errors),
        "smaller errors of as many states where more is accepted", "; ".join(told),
        **judged(sure(falls) > 0, f"of the difference {falls[0]:+.3f} ± {falls[1]:.3f} is left at last", not sure(falls)),
    )  # fmt: skip


def of_burn_in(errors: Errors, rate: float) -> Finding:
    told, better = [], []
    for states in LENGTHS[1:]:
        whole = errors.of_chains(states)
        gaps = {left: interval(errors.of_chains(states, left) - whole) for left in (1, states // 4, states // 2) if left}
        better.append(any(sure(gap) < 0 for gap in gaps.values()))
        told.append(
            f"{states} states {level(whole)}, without the first "
            + ", ".join(f"{left} {gap:+.3f} ± {half:.3f}" for left, (gap, half) in gaps.items())
        )
    return Finding(
        "Chains need no burn-in: all states count", "QAlign, algorithm 1 (all states vote)", setting({rate: errors}),
        "leaving out the start lowers no error", "; ".join(told),
        **judged(not any(better), "short chains still show where they began", part=not all(better)),
    )  # fmt: skip


def of_r_hat(errors: dict[float, Errors]) -> Finding:
    told, found = [], []
    for each in errors.values():
        values, off = np.array(each.r_hats), each.of_chains(STEPS + 1)
        r = rank_correlation(values, off)
        found.append(r - 1.96 / math.sqrt(len(values) - 3) > 0)
        sides = {f"below {LIMIT}": off[values < LIMIT], "above": off[values >= LIMIT]}
        parts = [f"{level(side)} {name} ({len(side)} problems)" for name, side in sides.items() if len(side) > 1]
        told.append(f"β = {each.beta:.2g}: ranks correlate by {r:.2f}; errors {', '.join(parts)}")
    return Finding(
        "R̂ tells how far chains have come", "ours; Vehtari and others (2021)", setting(errors),
        "R̂ and the error of the answers have correlated ranks", "; ".join(told),
        **judged(all(found), "R̂ sees the rewards, and answers differ where rewards do not", any(found)),
    )  # fmt: skip


def setting(errors: dict[float, Errors]) -> str:
    count = len(next(iter(errors.values())).rows)
    return f"tiny, {count} held-out word problems whose draws differ in their reward, checked arithmetic, {CHAINS} chains"


def main() -> None:
    pool = CELLS("draws", drawn)
    errors = {}
    for rate in RATES:
        beta = usual_beta(pool["rewards"], rate)
        errors[rate] = Errors(pool, CELLS(f"chains, {rate}", lambda beta=beta: chained(beta)), beta)
    keep("mixing", [of_rates(errors), of_burn_in(errors[RATES[1]], RATES[1]), of_r_hat(errors)])


if __name__ == "__main__":
    main()
