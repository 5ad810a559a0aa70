"""The library's own time for a prompt that costs nothing: `python bench/many_prompts.py [--prompts 5000] [--folder DIR]`.

A table of two symbols answers thousands of prompts into a results file. Printed: seconds and processor milliseconds for each
prompt with the file and without, how often the run waited for the disk and for how long in all, and how much of the results
the file held after a quarter of the time. Give a folder on the disk that results files are to lie on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from bench.record import RESULTS, record


def reward(prompt: str, drafts: Any) -> list[float]:
    return [float(len(draft.tokens)) for draft in drafts]


def measure(prompts: int, concurrency: int, store: Path | None) -> dict[str, float]:
    waits, reported = [], []
    right = os.fsync

    def fsync(number: int) -> None:
        begun = time.perf_counter()
        right(number)
        waits.append(time.perf_counter() - begun)

    target = xt.Target(xt.engines.TableEngine(lambda prefix: np.array([0.3, 0.7]), 4, 1), reward, beta=1.0)
    os.fsync = fsync
    try:
        wall, processor = time.perf_counter(), time.process_time()
        xt.run(
            target, [f"prompt {number}" for number in range(prompts)], xt.Independent(2), store=store, concurrency=concurrency,
            progress=lambda *_: reported.append(time.perf_counter()),
        )  # fmt: skip
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    finally:
        os.fsync = right
    quarter = sum(each <= reported[-1] - 0.75 * wall for each in reported)
    return {
        "ms a prompt": 1000 * wall / prompts,
        "processor ms a prompt": 1000 * processor / prompts,
        "waits for the disk": len(waits),
        "seconds of waiting": sum(waits),
        "reported by a quarter": quarter / prompts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=None, help="where the results file lies, for its disk")
    parser.add_argument("--out", type=Path, default=RESULTS / "many_prompts.json")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name, store in {"with a results file": Path(folder) / "many.jsonl", "without": None}.items():
            found[name] = measure(options.prompts, options.concurrency, store)
            print(name, {key: round(value, 3) for key, value in found[name].items()}, flush=True)
    record(options.out, {"prompts": options.prompts, "concurrency": options.concurrency} | found)


if __name__ == "__main__":
    main()
