"""How long a report of many prompts takes to open in headless Chromium.

    python bench/open_report.py                               # 500 prompts, a table as the model: half a minute
    python bench/open_report.py --model tiny --prompts 5000   # word problems by the bundled model

Some prompts are really run by ETS: twenty with 8 candidates and 3 rollouts, texts of about 100 random words, or 250 word problems
with 8 candidates and 1 rollout; their lines then stand for all the others. The page is opened five times; times are from the
start of the navigation to the end of its load event, as the browser itself measures them, with everything drawn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.report import write_report
from exptilt.running.store import Store, read_store

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.report.browser import Browser

WORDS = ["the", "sum", "of", "all", "parts", "is", "what", "was", "left", "after", "each", "step", "there", "and", "here", "so"]


def next_probs(prefix: tuple[int, ...]) -> np.ndarray:
    """Words without memory; after 80 of them a response may end."""
    weights = np.append(np.ones(len(WORDS)), len(prefix) > 80)
    return weights / weights.sum()


def reward(prompt: str, drafts: list[Draft]) -> list[float]:
    return [draft.text.count("step") / 4 for draft in drafts]


def few(model: str, store: Path) -> None:
    """What is really run."""
    if model == "table":
        engine = TableEngine(next_probs, 128, len(WORDS), symbols=(*(f"{word} " for word in WORDS), ""))
        prompts = [f"question {number}: what comes next, and why?" for number in range(20)]
        sampler, select = xt.ETS(candidates=8, rollouts=3, block=32), xt.vote(xt.answers.exact)
        xt.run(Target(engine, reward, beta=0.5), prompts, sampler, select=select, store=store)
        return
    with xt.load(model, max_tokens=96) as loaded:
        prompts = [problem.question for problem in word_problems("test", 250, seed=61)]
        target = Target(loaded, xt.rewards.Arithmetic(), beta=0.2)
        xt.run(target, prompts, xt.ETS(candidates=8, block=16), select=xt.vote(xt.answers.number), store=store)


def many(model: str, prompts: int, folder: Path) -> Path:
    """A results file of so many prompts."""
    few(model, folder / "few.jsonl")
    settings, lines = read_store(folder / "few.jsonl")
    with Store(folder / "many.jsonl", settings) as store:
        for number, (name, line) in enumerate(islice(cycle(lines.items()), prompts)):
            store.append({**line, "id": f"{name}-{number}", "prompt": f"{line['prompt']} ({number})"})
    return folder / "many.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="table", help='"table", or one that answers word problems')
    parser.add_argument("--prompts", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, began = many(options.model, options.prompts, folder), time.monotonic()
        page = write_report([store], folder / "report.html")
        written = time.monotonic() - began
        with Browser(folder / "profile") as browser:
            times = []
            for _ in range(5):
                browser.open(page)
                times.append(browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
        print(
            f"results {store.stat().st_size / 1e6:.1f} MB · page {page.stat().st_size / 1e6:.1f} MB, written in {written:.1f} s"
        )
        print(f"opens in {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f} of 5)")


if __name__ == "__main__":
    main()
