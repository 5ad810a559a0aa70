"""Reward against divergence: where sampling at test time, alignment without RL, GRPO and DPO end up, on a tiny decoder.

    python reproduce/frontier.py            # about half an hour on one core; what is done is kept under runs/frontier
    python reproduce/frontier.py --study even

Every method wants a high reward at a small KL(·‖p), both means over the same held-out problems. No distribution is above the
curve of π ∝ p·exp(r/β) over β, so what counts is how far below it a method ends: its KL less that of π with the same reward.
π's curve comes from draws of p, weighted for each β; that of soft best-of-n from the same draws, by the chance that each is
chosen among n; for a trained model log π_θ - log p of its own draws is averaged. Problems are resampled for the intervals.

Training sees other problems. GRPO and DPO have the settings that aim at the same π: GRPO with `beta` = β, rewards not scaled and
the loss of "Dr. GRPO"; DPO at `beta` = 1 with pairs of p's draws of which one is preferred with probability σ((r₁ - r₂)/β).

The study "arithmetic" has a reward that asks for skill; that of "even" is a matter of taste: it
has `align` alone, with twice the draws, which it reads once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from reproduce.frontier_page import figure, section  # noqa: E402
from reproduce.frontier_study import BETA, TEST, TRAIN, Row, Study, Untrained, studies  # noqa: E402
from reproduce.frontier_trained import aligned, dpo, grpo, in_rounds  # noqa: E402
from reproduce.pages import put_section  # noqa: E402

BETAS = np.geomspace(3.0, 0.06, 40)  # of the curve of π
HEADINGS = {"arithmetic": "Reward against divergence", "even": "Reward against divergence, where no skill is asked"}


def methods(study: Study, untrained: Untrained) -> dict[str, Callable[[], Row]]:
    rows: dict[str, Callable[[], Row]] = {f"π, β = {beta:.3g}": lambda beta=beta: untrained.tilted(beta) for beta in BETAS}
    rows |= {f"soft best-of-{n}": lambda n=n: untrained.soft_best_of(n, 0.05) for n in (2, 4, 8, 16, 32)}
    rows |= {f"align, β = {beta:g}": lambda beta=beta: aligned(study, beta) for beta in (0.5, BETA, 0.1)}
    if study.rivals:
        rows |= {f"QAlign, {steps} steps": lambda steps=steps: untrained.chain(steps) for steps in (8, 64)}
        rows["align, three rounds"] = lambda: in_rounds(study, 3)
        rows["GRPO"] = lambda: grpo(study, "grpo", BETA)
        rows["GRPO without KL"] = lambda: grpo(study, "grpo-free", 0.0)
        rows["DPO"] = lambda: dpo(study, "dpo")
    return rows


def measure(study: Study) -> dict[str, Row]:
    """All rows; those that are in the folder already are read."""
    study.folder.mkdir(parents=True, exist_ok=True)
    untrained, rows = Untrained(study, study.pilot()), {}
    for name, made in methods(study, untrained).items():
        kept, begun = study.folder / f"{name}.json", time.process_time()
        if not kept.exists():
            row = made() | {"processor seconds": time.process_time() - begun}
            kept.write_text(json.dumps(row))
            if not name.startswith("π"):
                print(name, {key: np.mean(row[key]).round(4) for key in ("reward", "right", "kl") if row[key]}, flush=True)
        rows[name] = json.loads(kept.read_text())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=[*HEADINGS], default="arithmetic")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "frontier", help="where rows and models are kept")
    args = parser.parse_args()
    study, name = studies(args.folder)[args.study], "frontier" if args.study == "arithmetic" else f"frontier_{args.study}"
    rows = measure(study)
    (ROOT / "reproduce" / "results" / f"{name}.json").write_text(json.dumps(rows) + "\n")
    figure(rows, ROOT / "docs" / f"{name}.png")
    about = (
        f"`reproduce/frontier.py --study {args.study}` on `{study.model}`, {len(TEST)} held-out problems; {study.says}. No "
        "distribution has a higher mean reward than π at the same mean KL from p, so the excess over π's curve is wasted. "
        f"Trained models saw {len(TRAIN)} other problems, with {study.draws} draws each."
    )
    put_section(ROOT / "docs" / "train.md", HEADINGS[args.study], section(rows, about, f"{name}.png"))


if __name__ == "__main__":
    main()
