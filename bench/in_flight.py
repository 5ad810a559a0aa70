"""Steps of one token, and many prompts in flight: `python bench/in_flight.py`.

    python bench/in_flight.py                    # tiny, two minutes on 2 cores
    python bench/in_flight.py --only "SMC"

A particle filter that resamples after every token leaves the batch and comes back for each; independent draws of many prompts at
once wait for room in it. Seconds are of whole runs, the median of `--rounds` after one that is not counted; tokens are those
drawn, forwards the evaluations that these took. The script runs on older trees as well: PYTHONPATH=TREE.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import exptilt as xt
from bench.record import RESULTS, machine, record
from exptilt.evaluation.tasks.word_problems import word_problems

VALUE = xt.rewards.Arithmetic()
CASES: dict[str, tuple[Any, int, int]] = {  # the sampler, prompts, and how many of these are in flight
    "SMC(8, block 1), alone": (xt.SMC(8, 1, value=VALUE), 6, 1),
    "SMC(32, block 1), alone": (xt.SMC(32, 1, value=VALUE), 6, 1),
    "SMC(32, block 1), 8 in flight": (xt.SMC(32, 1, value=VALUE), 16, 8),
    "ETS(8, 3, 16), alone": (xt.ETS(8, 3, 16), 6, 1),
    "ETS(8, 3, 16), 8 in flight": (xt.ETS(8, 3, 16), 32, 8),
    "Independent(32), alone": (xt.Independent(32), 12, 1),
    "Independent(32), 8 in flight": (xt.Independent(32), 96, 8),
    "Independent(32), 64 in flight": (xt.Independent(32), 96, 64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--label", default="in-flight-tiny", help="name of the results file")
    options = parser.parse_args()
    prompts = [problem.question for problem in word_problems("test", 96, seed=5)]
    print(f"{options.model}, {machine()}\n{'case':32} {'seconds':>8} {'ms a token':>11} {'forwards a token':>17}")
    table = []
    with xt.load(options.model, max_tokens=96) as engine:
        target = xt.Target(engine, VALUE, 0.2)
        for name, (sampler, count, flight) in CASES.items():
            if options.only not in name:
                continue
            seconds, tokens, forwards = [], 0, 0
            for seed in range(1 + options.rounds):
                began = time.perf_counter()
                found = list(xt.run(target, prompts[:count], sampler, seed=seed, concurrency=flight))
                seconds.append(time.perf_counter() - began)
                spent = [each.usage.reference for each in found if each.usage]
                tokens = sum(each.generated for each in spent)
                forwards = sum(each.forwards for each in spent)
            taken = float(np.median(seconds[1:]))
            table.append({"case": name, "seconds": seconds[1:], "ms a token": 1e3 * taken / tokens, "share": forwards / tokens})
            print(f"{name:32} {taken:8.2f} {1e3 * taken / tokens:11.3f} {forwards / tokens:17.3f}", flush=True)
    record(RESULTS / f"{options.label}.json", {**vars(options), "table": table})


if __name__ == "__main__":
    main()
