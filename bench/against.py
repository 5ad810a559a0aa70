"""This tree beside another one, in turn: `python bench/against.py ../before`.

    git worktree add ../before v0.2.0
    python bench/against.py ../before --only tiny
    python bench/against.py ../before --small gguf:SmolLM2-135M-Instruct.Q4_1.gguf --only small
    python bench/against.py ../before --code gguf:Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf --only code

Each tree has a process of its own that loads a model once and then works when it is told to, so that the two work in turn and
neither has the machine in a better hour. Seconds are those of a piece of work, as `perf_counter` has them; times as fast is the
other tree's seconds over this one's, pair by pair, after a pair that is not counted. The worker uses only names that both have.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WORDS = "Explain in a few sentences why the sky is blue, why sunsets are red, and what a rainbow has to do with either of them."
Work = Callable[[int], float]
"""Works with a seed, and returns the seconds that it took."""


def timed(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def drawing(model: str, dtype: str, rows: int, texts: str, temperature: float = 1.0, tokens: int = 32) -> Work:
    """`rows` answers to each of some prompts, one prompt after the other, without the prompts themselves."""
    import exptilt as xt
    from bench.equal_rows import CODE

    engine: Any = xt.load(model, max_tokens=tokens, dtype=dtype, temperature=temperature)

    def work(seed: int) -> float:
        seconds = 0.0
        for number, prompt in enumerate(CODE[:3] if texts == "code" else [WORDS]):
            begun = engine.extend([engine.start(prompt)] * rows, [xt.Key(seed, number, row) for row in range(rows)], 1)
            going = [draft for draft in begun if draft.finish is None]
            keys = [xt.Key(seed, number, row).child("on") for row in range(len(going))]
            seconds += timed(lambda: engine.extend(going, keys))  # noqa: B023 - called at once
        return seconds

    return work


def running(model: str, method: str, prompts: int, flight: int, cap: int) -> Work:
    """A run on word problems. method: a sampler, as Python; the value of a prefix is that of what it works out."""
    import exptilt as xt
    from exptilt.evaluation.tasks.word_problems import word_problems

    engine: Any = xt.load(model, max_tokens=cap)
    value = xt.rewards.Arithmetic()
    sampler, asked = eval(method, {"xt": xt, "value": value}), [each.question for each in word_problems("test", prompts, seed=5)]
    target = xt.Target(engine, value, 0.1)
    return lambda seed: timed(lambda: list(xt.run(target, asked, sampler, seed=seed, concurrency=flight)))


def cheap(stored: bool) -> Work:
    """5,000 prompts of a table of two symbols."""
    import exptilt as xt
    from bench.many_prompts import reward

    target = xt.Target(xt.engines.TableEngine(lambda prefix: np.array([0.3, 0.7]), 4, 1), reward, beta=1.0)
    asked = [f"prompt {number}" for number in range(5000)]

    def work(seed: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "many.jsonl" if stored else None
            return timed(lambda: xt.run(target, asked, xt.Independent(2), seed=seed, store=store, concurrency=32))

    return work


def cases(small: str, code: str) -> dict[str, Callable[[], Work]]:
    """Every case by its name; those of a model that is not given are left out."""
    found: dict[str, Callable[[], Work]] = {}
    for name, method, prompts, flight in (
        ("SMC(32, block 1), alone", "xt.SMC(32, 1, value=value)", 6, 1),
        ("SMC(32, block 1), 8 in flight", "xt.SMC(32, 1, value=value)", 16, 8),
        ("ETS(8, 3, 16), alone", "xt.ETS(8, 3, 16)", 6, 1),
        ("ETS(8, 3, 16), 8 in flight", "xt.ETS(8, 3, 16)", 32, 8),
        ("Independent(32), alone", "xt.Independent(32)", 12, 1),
        ("Independent(32), 8 in flight", "xt.Independent(32)", 96, 8),
    ):
        found[f"tiny, {name}"] = lambda m=method, p=prompts, f=flight: running("tiny", m, p, f, 96)
    for stored in (False, True):
        found[f"cheap prompts, {'with' if stored else 'without'} a file"] = lambda s=stored: cheap(s)
    if small:
        for dtype in ("float32", "bfloat16"):
            for rows in (1, 8, 24, 64):
                found[f"small, {dtype}, {rows} rows"] = lambda d=dtype, r=rows: drawing(small, d, r, "words")
        found["small, ETS(8, 3, 16), alone"] = lambda: running(small, "xt.ETS(8, 3, 16)", 2, 1, 64)
    if code:
        for temperature in (0.7, 1.0):
            for rows in (8, 32):
                name = f"code, T = {temperature:g}, {rows} rows"
                found[name] = lambda t=temperature, r=rows: drawing(code, "float32", r, "code", t)
    return found


@contextmanager
def worker(tree: Path, name: str, options: argparse.Namespace) -> Iterator[Work]:
    """A process that works on a case with the package of a tree."""
    command = [sys.executable, __file__, str(tree), "--worker", name, "--small", options.small, "--code", options.code]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": f"{tree}:{ROOT}"}
    )
    assert process.stdin
    assert process.stdout
    given, told = process.stdin, process.stdout

    def work(seed: int) -> float:
        given.write(f"{seed}\n")
        given.flush()
        return float(told.readline() or "nan")

    try:
        yield work
    finally:
        given.close()
        if process.wait():
            raise SystemExit(f"{name}: the process of {tree} ended with status {process.returncode}")


def obey(tree: Path, make: Callable[[], Work]) -> None:
    """Be a worker: a line with a seed for each piece of work."""
    import exptilt

    if not Path(exptilt.__file__).is_relative_to(tree.resolve()):
        raise SystemExit(f"exptilt comes from {exptilt.__file__}, not from {tree}")
    work = make()
    for line in sys.stdin:
        print(work(int(line)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of another commit")
    parser.add_argument("--small", default="", help="a small model that writes words, such as SmolLM2")
    parser.add_argument("--code", default="", help="a model that writes programs")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--label", default="against", help="name of the results file")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = cases(options.small, options.code)
    if options.worker:
        obey(options.before, known[options.worker])
        return
    from bench.record import RESULTS, machine, record

    before = options.before.resolve()
    commit = subprocess.run(["git", "-C", before, "log", "-1", "--format=%h %s"], capture_output=True, text=True, check=True)
    print(
        f"{commit.stdout.strip()}, {machine()}\n{'case':36}{'before s':>10}{'now s':>9}{'times as fast':>15}{'from':>7}{'to':>7}"
    )
    table = []
    for name in known:
        if options.only not in name:
            continue
        with worker(before, name, options) as old, worker(ROOT, name, options) as new:
            pairs = np.array([(old(seed), new(seed)) for seed in range(1 + options.pairs)])[1:]
        ratios = pairs[:, 0] / pairs[:, 1]
        table.append(
            {"case": name, "before": pairs[:, 0].tolist(), "now": pairs[:, 1].tolist(), "ratio": float(np.median(ratios))}
        )
        one, other = np.median(pairs, 0)
        print(f"{name:36}{one:10.3f}{other:9.3f}{np.median(ratios):15.2f}{ratios.min():7.2f}{ratios.max():7.2f}", flush=True)
    models = {each: Path(getattr(options, each)).name for each in ("small", "code")}
    record(RESULTS / f"{options.label}.json", {"before": commit.stdout.strip(), "pairs": options.pairs, **models, "table": table})


if __name__ == "__main__":
    main()
