"""How long a report of 500 prompts takes to open in headless Chromium.

    python bench/open_report.py            # a table as the model: half a minute, no weights needed

Twenty prompts are really run by ETS with 8 candidates and 3 rollouts, texts of about 100 words; their lines then stand
for 25 prompts each. The page is opened five times; times are from the start of the navigation to the end of its load
event, as the browser itself measures them, with everything drawn.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.engines import TableEngine
from exptilt.report import write_report
from exptilt.running.store import Store, read_store

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.report.browser import Browser

WORDS = ["the", "sum", "of", "all", "parts", "is", "what", "was", "left", "after", "each", "step", "there", "and", "here", "so"]
COPIES = 25


def next_probs(prefix: tuple[int, ...]) -> np.ndarray:
    """Words without memory; after 80 of them a response may end."""
    weights = np.append(np.ones(len(WORDS)), len(prefix) > 80)
    return weights / weights.sum()


def reward(prompt: str, drafts: list[Draft]) -> list[float]:
    return [draft.text.count("step") / 4 for draft in drafts]


def many(folder: Path) -> Path:
    """A results file of 500 prompts."""
    engine = TableEngine(next_probs, 128, len(WORDS), symbols=(*(f"{word} " for word in WORDS), ""))
    few = [f"question {number}: what comes next, and why?" for number in range(20)]
    sampler, select = xt.ETS(candidates=8, rollouts=3, block=32), xt.vote(xt.answers.exact)
    xt.run(Target(engine, reward, beta=0.5), few, sampler, select=select, store=folder / "few.jsonl")
    settings, lines = read_store(folder / "few.jsonl")
    with Store(folder / "many.jsonl", settings) as store:
        for copy in range(COPIES):
            for name, line in lines.items():
                store.append({**line, "id": f"{name}-{copy}", "prompt": f"{line['prompt']} ({copy})"})
    return folder / "many.jsonl"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, began = many(folder), time.monotonic()
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
