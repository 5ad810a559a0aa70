"""Digits by every method at about equal forward passes: reward, what a held-out classifier says, and how different the pictures
are.

    python reproduce/digits.py              # writes reproduce/results/digits.json, docs/digits.png and a section of
    docs/images.md

Three rewards with room above plain samples: ink, symmetry, and, of a 3, the log-probability that a classifier calls it an 8. The
class itself has none: nearly all plain samples are right. The classifiers are two halves of scikit-learn's digits: one is the
reward, the other judges. Diversity is the mean distance of two pictures of one class; intervals are 95 % over pictures, by their
standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.core import Target  # noqa: E402
from exptilt.draft import Draft  # noqa: E402
from exptilt.pictures import pixels, png, sheet  # noqa: E402
from exptilt.rewards import Ink, Symmetry  # noqa: E402
from exptilt.train.image import PictureFit, fit_pictures  # noqa: E402
from reproduce.pages import put_section  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "digits.json"
BETAS = {"ink": 0.02, "symmetry": 0.02, "eight": 1.0}
N = 8  # draws of best-of-n: 8 · 20 evaluations


def classifiers() -> tuple[Any, Any]:
    """Two classifiers of digits, each trained on half of the pictures: one for the reward, one to judge."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    found: Any = load_digits()
    order = np.random.default_rng(1).permutation(len(found.target))
    x, y = found.data[order] / 16.0, found.target[order]
    half = len(x) // 2
    one, other = (LogisticRegression(max_iter=500).fit(x[part], y[part]) for part in (slice(half), slice(half, None)))
    return one, other


def rewards(classifier: Any) -> dict[str, Callable[[Any, list[Draft]], Any]]:
    def eight(prompt: Any, drafts: list[Draft]) -> Any:
        return classifier.predict_log_proba([draft.output.ravel() for draft in drafts])[:, 8]

    return {"ink": Ink(), "symmetry": Symmetry(), "eight": eight}


def valued(reward: Callable[[Any, list[Draft]], Any], none: float) -> Callable[[Any, list[Draft]], list[float]]:
    """The reward of the expected picture; `none` where there is none yet."""
    return lambda prompt, drafts: [none if d.output is None else float(reward(prompt, [d])[0]) for d in drafts]


def answers(target: Target, sampler: Any, select: Any, prompts: Sequence[str], seeds: int) -> tuple[list[Draft], float]:
    """An answer for each prompt and seed, and the evaluations of the network that each took."""
    drafts, forwards = [], 0
    for seed in range(seeds):
        for result in xt.run(target, prompts, sampler, select=select, seed=seed, concurrency=len(prompts)):
            assert isinstance(result, xt.Result)
            drafts.append(result.draft)
            forwards += result.usage.reference.forwards
    return drafts, forwards / len(drafts)


def judged(drafts: list[Draft], reward: Any, judge: Any) -> dict[str, Any]:
    """Mean reward, share that the judge calls the prompt's class, and diversity, each with half an interval."""
    values = np.array([float(reward(draft.prompt, [draft])[0]) for draft in drafts])
    x = np.array([draft.output.ravel() for draft in drafts])
    right = judge.predict(x) == np.array([int(str(draft.prompt)) for draft in drafts])
    spread = []
    for prompt in sorted({str(draft.prompt) for draft in drafts}):
        mine = x[[str(draft.prompt) == prompt for draft in drafts]]
        away = np.sqrt(((mine[:, None] - mine) ** 2).sum(-1))
        spread += (away.sum(1) / max(1, len(mine) - 1)).tolist()
    return {name: [float(np.mean(v)), float(1.96 * np.std(v) / math.sqrt(len(v)))] for name, v in
            {"reward": values, "right": right.astype(float), "diversity": np.array(spread)}.items()}  # fmt: skip


def methods(engine: Any, reward: Any, beta: float, floor: float) -> dict[str, tuple[Target, Any, Any]]:
    target = Target(engine, reward, beta)
    looks = valued(reward, floor)
    found: dict[str, tuple[Target, Any, Any]] = {"plain": (target, xt.Independent(1), xt.draw)}
    for w in (1, 2, 4):
        found[f"guidance w = {w}"] = (Target(engine.with_sampling(guidance=1.0 + w), reward, beta), xt.Independent(1), xt.draw)
    found[f"best-of-{N}"] = (target, xt.Independent(N), xt.best)
    found[f"soft best-of-{N}"] = (target, xt.Independent(N), xt.draw)
    found["ETS(4, block=10)"] = (target, xt.ETS(candidates=4, block=10), xt.draw)
    found[f"SMC({N}, block=4), expected picture as value"] = (target, xt.SMC(particles=N, block=4, value=looks), xt.draw)
    return found


def measure(seeds: int, fit_steps: int) -> dict[str, Any]:
    engine = xt.load("digits")
    teacher, judge = classifiers()
    found: dict[str, Any] = {"seeds": seeds, "fit_steps": fit_steps}
    sheets: dict[str, list[Any]] = {}
    for name, reward in rewards(teacher).items():
        rows: dict[str, Any] = {}
        prompts, count = (["3"], 10 * seeds) if name == "eight" else ([str(digit) for digit in range(10)], seeds)
        every = methods(engine, reward, BETAS[name], -1.0 if name != "eight" else -5.0)
        folder, training = tempfile.mkdtemp(), {}
        for form, beta in (("weighted", BETAS[name]), ("rl", BETAS[name] / 100)):
            fit = PictureFit(form=form, draws=64, steps=fit_steps, batch=128, learning_rate=3e-4)  # type: ignore[arg-type]
            done = fit_pictures(Target(engine, reward, beta), prompts, Path(folder) / form, fit)
            training[form] = done.forwards
            trained = xt.load(done.model, steps=20, null=10)
            title = "trained by (38)" if form == "weighted" else "trained by (34)"
            every[title] = (Target(trained, reward, BETAS[name]), xt.Independent(1), xt.draw)
        for title, (target, sampler, select) in every.items():
            begun = time.perf_counter()
            drafts, forwards = answers(target, sampler, select, prompts, count)
            rows[title] = judged(drafts, reward, judge) | {"forwards": forwards}
            images = [pixels(draft.output) for draft in drafts[:10]]
            sheets.setdefault(name, []).extend(image for image in images if image is not None)
            print(f"{name:9} {title:45} {rows[title]} {time.perf_counter() - begun:.0f} s", flush=True)
        found[name] = {"rows": rows, "training forwards": training}
    for name, images in sheets.items():
        large = [image.repeat(4, axis=0).repeat(4, axis=1) for image in images]
        (ROOT / "docs" / f"digits_{name}.png").write_bytes(png(sheet(large, across=10)))
    return found


def section(found: dict[str, Any]) -> str:
    names = {"ink": "ink, all ten digits", "symmetry": "symmetry, all ten digits", "eight": "a 3 that a classifier finds 8-like"}
    text = [f"{found['seeds'] * 10} answers for each row; ± is half of a 95 % interval.", ""]
    for name, title in names.items():
        text += [f"**{title}**, β = {BETAS[name]:g}", ""]
        text += ["| method | forwards | reward | right class | diversity |", "|---|---|---|---|---|"]
        for method, row in found[name]["rows"].items():
            cells = [f"{row[key][0]:.3f} ± {row[key][1]:.3f}" for key in ("reward", "right", "diversity")]
            text.append(f"| {method} | {row['forwards']:.0f} | {' | '.join(cells)} |")
        paid = found[name]["training forwards"]
        text += ["", f"Training took {paid['weighted']:,} evaluations for (38) and {paid['rl']:,} for (34), once."]
        text += ["", f"![rows of the table, ten pictures each](digits_{name}.png)", ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--fit-steps", type=int, default=300)
    args = parser.parse_args()
    found = measure(args.seeds, args.fit_steps)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    put_section(ROOT / "docs" / "images.md", "digits", section(found))


if __name__ == "__main__":
    main()
