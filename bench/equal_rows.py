"""How many positions an engine computes for each token it draws, and how fast it draws: `python bench/equal_rows.py`.

    python bench/equal_rows.py tiny --kinds words --rows 8 32 64
    python bench/equal_rows.py llamacpp:Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf --kinds code words --temperatures 1 0.7

Rows of one prompt that have drawn equal tokens so far are evaluated once. How much that saves depends on how alike the answers
begin: code is more alike than prose, a low temperature more than a high one. `code` completes functions, `words` answers the
word problems. Each prompt's rows are drawn together, one prompt after another. Share: forwards of drawn tokens over tokens drawn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import exptilt as xt
from bench.record import RESULTS, machine, record
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.keys import Key
from exptilt.usage import Work

CODE = (
    'def is_palindrome(text: str) -> bool:\n    """Whether text reads the same backwards, ignoring case and spaces."""\n',
    'def running_maximum(numbers: list[int]) -> list[int]:\n    """The largest number so far, at each place."""\n',
    'def vowels(text: str) -> int:\n    """How many vowels the text has."""\n',
    'def flatten(lists: list[list[int]]) -> list[int]:\n    """All numbers of all lists, in order."""\n',
    'def greatest_common_divisor(a: int, b: int) -> int:\n    """The largest number that divides both."""\n',
    'def rotated(items: list[str], places: int) -> list[str]:\n    """The items, the first `places` moved to the end."""\n',
)


def prompts(kind: str, count: int) -> list[str]:
    return [*CODE[:count]] if kind == "code" else [problem.question for problem in word_problems("test", count, seed=31)]


def drawn(engine: Any, kind: str, count: int, rows: int) -> dict[str, float]:
    """Forwards over tokens, and tokens per second, of `rows` answers to each of some prompts, which are read beforehand."""
    total, seconds = Work(), 0.0
    for number, prompt in enumerate(prompts(kind, count)):
        starts = engine.extend([engine.start(prompt)] * rows, [Key(0, number, row) for row in range(rows)], 1)
        going = [draft for draft in starts if draft.finish is None]
        began = time.perf_counter()
        engine.metered(total).extend(going, [Key(1, number, row) for row in range(len(going))])
        seconds += time.perf_counter() - began
    return {"share": total.forwards / total.generated, "tokens": total.generated, "tokens per second": total.generated / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--kinds", nargs="+", choices=("code", "words"), default=["words"])
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0])
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--cap", type=int, default=64)
    parser.add_argument("--label", default="equal-rows-tiny", help="name of the results file")
    options = parser.parse_args()
    engine: Any = xt.load(options.model, max_tokens=options.cap)
    print(f"{options.model}, {options.prompts} prompts, cap {options.cap}, {machine()}")
    print(f"{'prompts':8} {'T':>4} {'rows':>5} {'share':>7} {'tokens':>7} {'tokens/s':>9}")
    table = []
    for kind in options.kinds:
        for temperature in options.temperatures:
            law = engine.with_sampling(temperature=temperature)
            for rows in options.rows:
                found = drawn(law, kind, options.prompts, rows)
                table.append({"prompts": kind, "temperature": temperature, "rows": rows, **found})
                share, tokens, speed = found.values()
                print(f"{kind:8} {temperature:4g} {rows:5} {share:7.3f} {tokens:7} {speed:9.1f}", flush=True)
    record(RESULTS / f"{options.label}.json", {**vars(options), "model": Path(options.model).name, "table": table})


if __name__ == "__main__":
    main()
