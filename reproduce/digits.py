"""Digits by every method: reward, what a held-out classifier says, and how different the pictures are, at equal forward passes.

    python reproduce/digits.py     # writes reproduce/results/digits.json, docs/digits.png and a section of docs/images.md

Three rewards with room above plain samples: ink, symmetry, and, of a 3, the log-probability that a classifier calls it an 8. The
class itself has none: nearly all plain samples are right. The classifiers learned one half each of scikit-learn's digits: one is
the reward, the other judges. Diversity is the mean distance of two pictures of one class.

A forward pass is one evaluation of the network for one picture; guidance evaluates it twice in every step. Engines keep what they
have evaluated, so a sampler that draws by the seed of another finds its passes made: every row has seeds of its own, and counts
all passes that it needs. Each answer may take 160. Plain draws and guidance have no other use for them than smaller steps.

Rows are kept under runs/digits as they are measured, and a second start goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import exptilt as xt  # noqa: E402
from exptilt.core import Target  # noqa: E402
from exptilt.draft import Draft  # noqa: E402
from exptilt.keys import Floats  # noqa: E402
from exptilt.pictures import pixels, sheet  # noqa: E402
from exptilt.rewards import Ink, Symmetry  # noqa: E402
from exptilt.train.image import PictureFit, fit_pictures  # noqa: E402
from reproduce.pages import put_section  # noqa: E402

RESULTS = ROOT / "reproduce" / "results" / "digits.json"
STEPS, PASSES, N = 20, 160, 8  # N plain pictures of STEPS steps take PASSES
FITS = {"trained by (38)": ("weighted", 156, 128), "trained by (34)": ("rl", 30, 32)}  # about as many passes: form, steps, batch
SHOWN = 10  # pictures of each row in the figure

Reward = Callable[[Any, list[Draft]], Any]


@dataclass(frozen=True)
class Question:
    """What is asked for. floor: the value of a picture of which nothing is known yet."""

    title: str
    reward: Reward
    beta: float
    floor: float
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Method:
    target: Target
    sampler: Any
    select: Any = xt.draw


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


def questions(classifier: Any) -> dict[str, Question]:
    def eight(prompt: Any, drafts: list[Draft]) -> Any:
        return classifier.predict_log_proba([draft.output.ravel() for draft in drafts])[:, 8]

    digits = tuple(map(str, range(10)))
    return {
        "ink": Question("ink, all ten digits", Ink(), 0.02, 0.0, digits),
        "symmetry": Question("symmetry, all ten digits", Symmetry(), 0.02, -0.5, digits),
        "eight": Question("a 3 that a classifier finds 8-like", eight, 1.0, -5.0, ("3",)),
    }


def methods(engine: Any, asked: Question, folder: Path) -> dict[str, Callable[[], Method]]:
    """The rows of a table, each made when it is measured: training takes a while."""

    def target(**sampling: Any) -> Target:
        return Target(engine.with_sampling(**sampling), asked.reward, asked.beta)

    def looks(prompt: Any, drafts: list[Draft]) -> list[float]:
        """The reward of the expected picture."""
        return [asked.floor if d.output is None else float(asked.reward(prompt, [d])[0]) for d in drafts]

    one, many, fine = xt.Independent(1), xt.Independent(N), PASSES // 2
    found: dict[str, Callable[[], Method]] = {
        f"plain, {STEPS} steps": lambda: Method(target(), one),
        f"plain, {PASSES} steps": lambda: Method(target(steps=PASSES), one),
    }
    for w in (1, 2, 4):
        found[f"guidance w = {w}, {fine} steps"] = lambda w=w: Method(target(guidance=1.0 + w, steps=fine), one)
    found |= {
        f"best-of-{N}": lambda: Method(target(), many, xt.best),
        f"soft best-of-{N}": lambda: Method(target(), many),
        "ETS(4, block=7)": lambda: Method(target(), xt.ETS(candidates=4, block=7)),
        "SMC(4, block=7)": lambda: Method(target(), xt.SMC(particles=4, block=7)),
        f"SMC({N}, block=4), value": lambda: Method(target(), xt.SMC(particles=N, block=4, value=looks)),
    }
    for title in FITS:
        found[title] = lambda title=title: Method(Target(trained(engine, asked, folder, title)[0], asked.reward, asked.beta), one)
    return found


def trained(engine: Any, asked: Question, folder: Path, title: str) -> tuple[Any, int]:
    """The engine fitted to a reward, and the passes that this took; from its folder where it is there already."""
    form, steps, batch = FITS[title]
    made, note = folder / form, folder / f"{form}.json"
    if not note.exists():
        beta = asked.beta if form == "weighted" else asked.beta / 100  # (34) weighs β against an error summed over 64 pixels
        fit = PictureFit(form=form, draws=32, steps=steps, batch=batch, learning_rate=3e-4)  # pyright: ignore[reportArgumentType]
        done = fit_pictures(Target(engine, asked.reward, beta), asked.prompts, made, fit)
        note.write_text(json.dumps(done.forwards))
    return xt.load(f"image:{made}", steps=STEPS, null=10), json.loads(note.read_text())


def answers(method: Method, asked: Question, count: int, first: int) -> tuple[list[Draft], list[int]]:
    """An answer for each of `count` seeds from `first` on, the prompts in turn, and the passes that each took."""

    def answer(number: int) -> xt.Result:
        prompt = asked.prompts[number % len(asked.prompts)]
        return xt.sample(method.target, prompt, method.sampler, select=method.select, seed=first + number)

    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(answer, range(count)))
    return [result.draft for result in results], [result.usage.reference.forwards for result in results]


def diversity(x: Floats, classes: Sequence[str]) -> tuple[float, float]:
    """The mean distance of two pictures of one class, the mean over classes; its standard error by leaving out one each."""
    means, variances = [], []
    for each in sorted(set(classes)):
        mine = x[[other == each for other in classes]]
        n, away = len(mine), np.sqrt(((mine[:, None] - mine) ** 2).sum(-1))
        without = (away.sum() - 2 * away.sum(1)) / ((n - 1) * (n - 2))
        means.append(away.sum() / (n * (n - 1)))
        variances.append((n - 1) / n * np.sum((without - without.mean()) ** 2))
    return float(np.mean(means)), math.sqrt(sum(variances)) / len(means)


def wilson(right: int, count: int) -> list[float]:
    """A share with its 95 % interval."""
    share, z = right / count, 1.96
    middle, half = (share + z * z / (2 * count)), z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return [share, (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)]


def judged(drafts: list[Draft], asked: Question, judge: Any) -> dict[str, Any]:
    """Mean reward and diversity with half of their 95 % intervals; the share that the judge calls the prompt's class, and its."""
    values = np.array([float(asked.reward(draft.prompt, [draft])[0]) for draft in drafts])
    x, classes = np.array([draft.output.ravel() for draft in drafts]), [str(draft.prompt) for draft in drafts]
    mean, error = diversity(x, classes)
    return {
        "reward": [float(values.mean()), float(1.96 * values.std(ddof=1) / math.sqrt(len(values)))],
        "right": wilson(int((judge.predict(x) == np.array(classes, int)).sum()), len(drafts)),
        "diversity": [mean, 1.96 * error],
    }


def _kept(folder: Path, title: str, count: int) -> Path:
    """The file of a row."""
    return folder / f"{title}, {count} answers.json"


def measure(count: int, folder: Path) -> dict[str, Any]:
    """All rows, those that the folder lacks measured now."""
    teacher, judge = classifiers()
    found: dict[str, Any] = {"answers": count}
    with xt.load("digits") as engine:
        for name, asked in questions(teacher).items():
            rows, mine = {}, folder / name
            mine.mkdir(parents=True, exist_ok=True)
            for title, made in methods(engine, asked, mine).items():
                kept, begun = _kept(mine, title, count), time.process_time()
                if not kept.exists():
                    drafts, passes = answers(made(), asked, count, crc32(f"{name} {title}".encode()))
                    row = judged(drafts, asked, judge) | {"passes": float(np.mean(passes))}
                    images = [np.round(draft.output * 255).astype(int).tolist() for draft in drafts[:SHOWN]]
                    kept.write_text(json.dumps({"row": row, "images": images}))
                    print(f"{name:9} {title:30} {row} {time.process_time() - begun:.0f} s of a processor", flush=True)
                rows[title] = json.loads(kept.read_text())["row"]
            training = {title: trained(engine, asked, mine, title)[1] for title in FITS}
            found[name] = {"rows": rows, "training passes": training}
    return found


def figure(found: Mapping[str, Any], folder: Path) -> None:
    """The first pictures of each row, the rewards side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(questions(None))
    _, panels = plt.subplots(1, len(names), figsize=(12, 4.6), layout="constrained")
    for name, panel in zip(names, panels, strict=True):
        images: list[Any] = []
        for title in found[name]["rows"]:
            shown = json.loads(_kept(folder / name, title, found["answers"]).read_text())["images"]
            images += [pixels(np.array(each) / 255.0) for each in shown]
        panel.imshow(sheet([image.repeat(6, 0).repeat(6, 1) for image in images], SHOWN), cmap="gray")
        panel.set_title(questions(None)[name].title, fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([49 * row + 24 for row in range(len(found[name]["rows"]))], list(found[name]["rows"]), fontsize=7)
    for panel in panels[1:]:
        panel.set_yticks([])
    plt.savefig(ROOT / "docs" / "digits.png", dpi=130)


def section(found: Mapping[str, Any]) -> str:
    text = [
        f"`reproduce/digits.py`: {found['answers']} answers for each row, ± half of a 95 % interval. A pass is one evaluation of "
        "the network for one picture.",
        "",
        "![the first ten answers of every row](digits.png)",
        "",
    ]
    for name, asked in questions(None).items():
        text += [f"**{asked.title}**, β = {asked.beta:g}", "", "| method | passes | reward | still its class | diversity |"]
        text.append("|---|---|---|---|---|")
        for method, row in found[name]["rows"].items():
            reward, apart = (f"{row[key][0]:.3f} ± {row[key][1]:.3f}" for key in ("reward", "diversity"))
            share, low, high = (f"{100 * value:.0f}" for value in row["right"])
            text.append(f"| {method} | {row['passes']:.0f} | {reward} | {share} % ({low}-{high}) | {apart} |")
        paid = " and ".join(f"{passes:,} passes {title[8:]}" for title, passes in found[name]["training passes"].items())
        text += ["", f"Training took {paid}, once.", ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=60, help="of each row: 30 at the least")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "digits", help="where rows are kept as they are measured")
    args = parser.parse_args()
    if args.answers < 30:
        parser.error(f"--answers {args.answers}: give 30 or more, three of every digit")
    found = measure(args.answers, args.folder)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    figure(found, args.folder)
    put_section(ROOT / "docs" / "images.md", "Digits by every method", section(found))


if __name__ == "__main__":
    main()
