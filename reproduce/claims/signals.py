"""Rewards that know no right answers, in one table, and what becomes of agreement where answers are read badly.

    python reproduce/claims/signals.py      # twenty minutes on one core; what is done is kept under runs/claims

The published chain of ETS(8, 2) with blocks of 12 tokens on word problems, with each reward. β is chosen for each so that π
is 0.3 nats from p in the mean over pilots of 64 draws; agreement has the published β = 0.1. Stability of energies is their
correlation by either half of eight rollouts, over the first step's candidates, within problems.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.answers import number  # noqa: E402
from exptilt.populations.select import draw  # noqa: E402
from exptilt.populations.utilities import rouge1  # noqa: E402
from exptilt.rewards import Agreement, LogProb, NegativeEntropy, RunningMajority, SelfCertainty, Sum  # noqa: E402
from reproduce.claims.cells import Cell, Cells, Problems, difference, percent, points, strength, sure  # noqa: E402
from reproduce.claims.finding import Finding, judged, keep  # noqa: E402

CELLS, PROBLEMS, PILOT, NATS = Cells("signals"), Problems(200, seed=53), 30, 0.3
ETS = xt.ETS(8, 2, 12, returns="chain", floor=1e-6)
READ_BADLY = (0.05, 0.1, 0.2)


def verifier() -> Any:
    answers = PROBLEMS.answers

    def right(prompt: Any, drafts: Any) -> list[float]:
        return [float(number(draft.text) == answers[str(prompt)]) for draft in drafts]

    return right


@dataclass(frozen=True)
class SoftAgreement:
    """How much a response has in common with those of a frozen pilot: the mean of a utility. It reads no answers."""

    pilot: int = 16
    fixed = True

    def needs(self) -> frozenset[str]:
        return frozenset()

    def bind(self, engine: Any, prompt: Any, key: xt.Key) -> Callable[[Any, Any], list[float]]:
        keys = [key.child("pilot", place) for place in range(self.pilot)]
        texts = [draft.text for draft in engine.extend([engine.start(prompt)] * self.pilot, keys)]

        def common(prompt: Any, drafts: Any) -> list[float]:
            both = rouge1.matrix([*(draft.text for draft in drafts), *texts])
            return both[: len(drafts), len(drafts) :].mean(1).tolist()

        return common


REWARDS: dict[str, Callable[[], Any]] = {
    "verifier": verifier,
    "agreement, frozen pilot": lambda: Agreement(number, 16),
    "agreement, running majority": lambda: RunningMajority(number),
    "soft agreement (ROUGE-1)": SoftAgreement,
    "log-probability": LogProb,
    "log-probability, reversed": lambda: Sum([(-1.0, LogProb())]),
    "negative entropy": NegativeEntropy,
    "entropy": lambda: Sum([(-1.0, NegativeEntropy())]),
    "self-certainty": SelfCertainty,
    "self-certainty, reversed": lambda: Sum([(-1.0, SelfCertainty())]),
}


def bound(reward: Any, engine: Any, prompt: str, key: xt.Key) -> Callable[[str, list[xt.Draft]], Any]:
    """A reward as a function of this prompt's drafts."""
    return reward.bind(engine, prompt, key) if hasattr(reward, "bind") else reward


def temperature_of(name: str) -> float:
    """β at which π is NATS from p in the mean over the pilot's problems."""
    if name.startswith("agreement"):
        return 0.1
    pilots = []
    with xt.load("tiny", max_tokens=96) as engine:
        for place, prompt in enumerate([*PROBLEMS.answers][:PILOT]):
            key = xt.Key(7, place)
            drafts = engine.extend([engine.start(prompt)] * 64, [key.child(row) for row in range(64)])
            pilots.append(np.array(bound(REWARDS[name](), engine, prompt, key)(prompt, drafts), float))
    return strength(pilots, NATS)


def stability(names: list[str], betas: dict[str, float]) -> Cell:
    """Of each reward: the correlation of energies by halves, over the same candidates and rollouts."""
    found: dict[str, list[float]] = {name: [] for name in names}
    with xt.load("tiny", max_tokens=96) as engine:
        for place, prompt in enumerate([*PROBLEMS.answers][:PILOT]):
            key = xt.Key(9, place)
            candidates = engine.extend([engine.start(prompt)] * 8, [key.child("c", row) for row in range(8)], 12)
            drafts = engine.extend([one for one in candidates for _ in range(8)], [key.child("u", row) for row in range(64)])
            for name in names:
                values = np.array(bound(REWARDS[name](), engine, prompt, key)(prompt, drafts), float).reshape(8, 8) / betas[name]
                energies = np.exp(values - values.max())
                halves = energies[:, ::2].mean(1), energies[:, 1::2].mean(1)
                if min(half.std() for half in halves) > 1e-12:
                    found[name].append(float(np.corrcoef(*halves)[0, 1]))
    return {name: [float(np.mean(each)) if each else None, len(each)] for name, each in found.items()}


def answered(name: str, beta: float) -> Cell:
    with xt.load("tiny", max_tokens=96) as engine:
        return PROBLEMS.answered(xt.Target(engine, REWARDS[name](), beta), ETS, draw)


def plain(n: int, read: Callable[[str], str | None] = number) -> Cell:
    """The vote of n draws, whose answers are read by `read`."""
    with xt.load("tiny", max_tokens=96) as engine:
        target = xt.Target(engine, xt.rewards.Zero(), 1.0)
        return PROBLEMS.answered(target, xt.Independent(n, weights="draws"), xt.vote(read, weighted=False))


def of_rewards() -> list[Finding]:
    betas = {name: CELLS(f"beta of {name}", lambda name=name: {"beta": temperature_of(name)})["beta"] for name in REWARDS}
    cells = {name: CELLS(f"ETS, {name}", lambda name=name: answered(name, betas[name])) for name in REWARDS}
    fixed = [name for name in REWARDS if "running" not in name]
    steady = CELLS("stability", lambda: stability(fixed, betas))
    base = CELLS("plain", lambda: plain(1))
    gaps = {name: difference(cell, base) for name, cell in cells.items()}
    rows = []
    for name, cell in cells.items():
        r, over = steady.get(name, (None, 0))
        halves = f", halves {r:.2f} on {over}" if r is not None else ""
        rows.append(f"{name} {percent(cell)}, {points(gaps[name])}{halves}")
    setting = f"tiny, {PROBLEMS.count} held-out word problems, ETS(8, 2); a plain draw is right for {percent(base)}"
    known = {name: gap for name, gap in gaps.items() if name != "verifier" and "reversed" not in name and name != "entropy"}
    best = max((name for name in known if "agreement" not in name), key=lambda name: known[name][0])
    ahead = difference(cells["agreement, frozen pilot"], cells[best])
    soft = difference(cells["soft agreement (ROUGE-1)"], base)
    behind = difference(cells["soft agreement (ROUGE-1)"], cells["agreement, frozen pilot"])
    frozen = difference(cells["agreement, frozen pilot"], cells["agreement, running majority"])
    return [
        Finding(
            "Agreement is the best reward that knows no answers", "ETS, ablation of rewards", setting,
            "above log-probability, entropy and self-certainty", "; ".join(rows),
            **judged(sure(ahead) > 0, f"{best} is level or ahead ({points(ahead)} for agreement)", sure(ahead) == 0),
        ),
        Finding(
            "Open question 2: agreement without answers", "ETS, open question 2", setting,
            "the utility to a frozen pilot, which reads no answers, gains on plain draws; right answers are the judge",
            f"{points(soft)}; less agreement of answers: {points(behind)}",
            **judged(sure(soft) > 0, "responses that share words with the pilot are not right more often", part=False),
        ),
        Finding(
            "A running majority does as well as a frozen pilot", "ETS, its reward", setting, "no difference",
            f"frozen less running: {points(frozen)}",
            **judged(sure(frozen) == 0, "the running majority, which has no target, is " + ("worse", "better")[sure(frozen) < 0]),
        ),
    ]  # fmt: skip


def misread(share: float) -> Callable[[str], str | None]:
    """Reads the first number of a text instead of its answer, for this share of the texts; the same ones always."""

    def read(text: str) -> str | None:
        unlucky = zlib.crc32(text.encode()) / 2**32 < share
        first = re.search(r"\d+", text)
        return (first.group() if first else None) if unlucky else number(text)

    return read


def of_reading() -> Finding:
    def ets(share: float) -> Cell:
        with xt.load("tiny", max_tokens=96) as engine:
            return PROBLEMS.answered(xt.Target(engine, Agreement(misread(share), 16), 0.1), ETS, draw)

    shares = (0.0, *READ_BADLY)
    guided = {share: CELLS(f"misread {share}", lambda share=share: ets(share)) for share in shares}
    votes = {share: CELLS(f"vote, misread {share}", lambda share=share: plain(32, misread(share))) for share in shares}
    told = "; ".join(f"{share:.0%}: {percent(guided[share])}, vote of 32 {percent(votes[share])}" for share in shares)
    lost = difference(guided[READ_BADLY[-1]], guided[0.0])
    return Finding(
        "Agreement suffers where answers are read badly", "ETS, failure signature",
        f"tiny, {PROBLEMS.count} held-out word problems; the first number is read in place of the answer",
        "accuracy falls with the share of answers that are misread", told,
        **judged(sure(lost) < 0, f"a majority of sixteen outvotes one misread answer in five ({points(lost)})", part=False),
    )  # fmt: skip


def main() -> None:
    keep("signals", [*of_rewards(), of_reading()])


if __name__ == "__main__":
    main()
