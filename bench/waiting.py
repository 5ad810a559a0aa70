"""How torch's threads wait for each other, and what that is worth: `python bench/waiting.py MODEL [--busy 2]`.

    python bench/waiting.py gguf:SmolLM2-135M-Instruct.Q4_1.gguf
    python bench/waiting.py gguf:SmolLM2-135M-Instruct.Q4_1.gguf --busy 2      # beside two programs that never rest

Between two operations that are done in parallel a thread of libgomp spins for a while and then sleeps. Spinning makes a step
short where nothing else wants the processor, and much longer where something does. Once the program's threads have more helpers
than there are cores, libgomp spins for 100 rounds at most, 1,000 with OMP_WAIT_POLICY=active; a model that is loaded by a thread
which then ends leaves no helpers behind. Milliseconds for each of 31 steps, each case in a process of its own, in turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.against import drawing
from bench.record import RESULTS, machine, record

LONG = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "5000"}
CASES: dict[str, tuple[Mapping[str, str], str]] = {  # what the environment says, and how the model is loaded
    "as exptilt sets it (1,000 rounds)": ({}, "plainly"),
    "torch imported before": ({}, "late"),
    "asleep at once": ({"OMP_WAIT_POLICY": "passive"}, "plainly"),
    "300 rounds": ({"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "300"}, "plainly"),
    "5,000 rounds, too many helpers": (LONG, "plainly"),
    "5,000 rounds": (LONG, "apart"),
}
TOKENS, STEPS = 32, 31


def steps(model: str, rows: int, how: str) -> float:
    """Milliseconds a step, the median of five times 31."""
    if how == "late":
        import torch  # noqa: F401 - before exptilt can say how its threads wait
    made = []
    load = threading.Thread(target=lambda: made.append(drawing(model, "float32", rows, "words", tokens=TOKENS)))
    if how == "apart":
        load.start()
        load.join()
    else:
        load.run()
    [work] = made
    return float(1e3 * np.median([work(seed) for seed in range(6)][1:]) / STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 24])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--busy", type=int, default=0, help="programs beside that never rest")
    parser.add_argument("--label", default="waiting-tiny", help="name of the results file")
    parser.add_argument("--how", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.how:
        print(steps(options.model, options.rows[0], options.how))
        return
    print(f"{options.model}, {options.busy} busy programs beside, {machine()}; milliseconds a step")
    print(f"{'rows':>5}  {'how threads wait':36}{'ms':>8}{'from':>8}{'to':>8}")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    table = []
    try:
        for rows in options.rows:
            found: dict[str, list[float]] = {name: [] for name in CASES}
            for _ in range(options.rounds):
                for name, (environment, how) in CASES.items():
                    command = [sys.executable, __file__, options.model, "--rows", str(rows), "--how", how]
                    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_", "KMP_"))}
                    said = subprocess.run(command, env=clean | dict(environment), capture_output=True, text=True, check=True)
                    found[name].append(float(said.stdout))
            for name, each in found.items():
                table.append({"rows": rows, "case": name, "milliseconds": each})
                print(f"{rows:5}  {name:36}{np.median(each):8.2f}{min(each):8.2f}{max(each):8.2f}", flush=True)
    finally:
        for program in busy:
            program.kill()
            program.wait()
    record(RESULTS / f"{options.label}.json", {**vars(options), "model": Path(options.model).name, "table": table})


if __name__ == "__main__":
    main()
