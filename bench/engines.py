"""Tokens per second of the engines that run a GGUF file, by the number of rows that decode at once.

    python bench/engines.py SmolLM2-135M-Instruct.Q4_1.gguf
    python bench/engines.py FILE --rows 1 8 32 64 --tokens 64 --repeats 3 --engines gguf llamacpp llamacpp-float16

Every row draws the same number of tokens from one prompt, whose evaluation is not timed; a row that ends early is drawn
again. `gguf` is transformers on the weights turned to float32, `llamacpp` llama.cpp on the quantised weights with
attention in float32, `llamacpp-float16` the same with flash attention. Prints the median and the range over the repeats.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.record import RESULTS, machine, record
from exptilt.core import Engine
from exptilt.engines.loading import load
from exptilt.keys import Key

PROMPT = "Explain in a few sentences why the sky is blue and why sunsets are red."
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gguf": ("gguf", {}),
    "llamacpp": ("llamacpp", {}),
    "llamacpp-float16": ("llamacpp", {"dtype": "float16"}),
}


def speed(engine: Engine, rows: int, tokens: int, repeat: int) -> float:
    """Tokens per second of `rows` rows that draw `tokens` tokens each, or fewer where they end."""
    drafts = engine.extend([engine.start(PROMPT)] * rows, [Key(repeat, 0, i) for i in range(rows)], tokens=1)
    began = time.perf_counter()
    done = engine.extend(drafts, [Key(repeat, 1, i) for i in range(rows)], tokens=tokens)
    drawn = sum(after.decided - before.decided for before, after in zip(drafts, done, strict=True))
    return drawn / (time.perf_counter() - began)


def measure(engine: Engine, rows: int, tokens: int, repeats: int) -> Sequence[float]:
    speed(engine, rows, 2, -1)  # memory is taken and threads are started
    return [speed(engine, rows, tokens, repeat) for repeat in range(repeats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a GGUF file")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--tokens", type=int, default=48, help="tokens per row; default 48")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    print(f"{machine()}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}")
    print(f"{'engine':18}{'rows':>6}{'tokens/s':>10}   range over {given.repeats}")
    speeds = []
    for kind in given.engines:
        prefix, options = KINDS[kind]
        engine = load(f"{prefix}:{given.file}", max_tokens=given.tokens + 1, max_rows=max(given.rows), **options)
        for rows in given.rows:
            found = measure(engine, rows, given.tokens, given.repeats)
            print(f"{kind:18}{rows:6}{statistics.median(found):10.1f}   {min(found):.1f}-{max(found):.1f}", flush=True)
            speeds.append({"engine": kind, "rows": rows, "tokens per second": list(found)})
    record(RESULTS / "engines.json", {"model": Path(given.file).name, "speeds": speeds})


if __name__ == "__main__":
    main()
