"""Key-value memory of the transformers engine against its caps: `python bench/memory.py [--model tiny]`.

ETS runs with ever less memory for the rows in flight and for known prefixes. Printed for each pair of caps: the most that
the rows' key-values took, trunks and padding included, the most that the tree of prefixes took, the most rows at once, the
most that the process grew by, and how long it took. Rows are reckoned at their full length and without what they share,
so the first figure may stay far below the cap; padding can carry it above, by what is printed.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import exptilt as xt
from bench.record import RESULTS, record
from exptilt.evaluation.tasks.word_problems import word_problems

CAPS = ((2**32, 2**30), (2**26, 2**26), (2**24, 2**24), (2**22, 2**22), (2**22, 0))  # rows, prefixes; bytes


def held(decoder: Any) -> int:
    """Bytes of the rows' key-values as they lie in memory."""
    trunks = decoder.slots.trunks
    return sum(bank.states.nbytes for bank in decoder.slots.banks) + sum(bank.nbytes for bank in (trunks.banks if trunks else ()))


def measure(model: str, rows_memory: int, memory: int, questions: list[str]) -> dict[str, Any]:
    engine: Any = xt.load(model, max_tokens=64, rows_memory=rows_memory, memory=memory)
    decoder, most = engine.backend.decoder, {"rows": 0, "rows_bytes": 0, "prefixes_bytes": 0}
    step = decoder.step

    def watched() -> Any:
        found = {"rows": len(decoder.rows), "rows_bytes": held(decoder), "prefixes_bytes": engine.backend.network.prefixes.used}
        for name, value in found.items():
            most[name] = max(most[name], value)
        return step()

    decoder.step = watched
    target = xt.Target(engine, xt.rewards.Arithmetic(), 0.1)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    list(xt.run(target, questions, xt.ETS(8, 3, 16), seed=0, concurrency=8))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    seconds = time.monotonic() - began
    return {"rows_cap": rows_memory, "prefixes_cap": memory, **most, "process_growth": grown, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--questions", type=int, default=16)
    options = parser.parse_args()
    questions = [problem.question for problem in word_problems("test", options.questions, seed=0)]
    rows = []
    for rows_cap, prefixes_cap in reversed(CAPS):  # small ones first: what a process grew by is never given back
        rows.append(measure(options.model, rows_cap, prefixes_cap, questions))
        print(
            "caps {rows_cap:>13,} + {prefixes_cap:>13,}: rows {rows:>3}, {rows_bytes:>13,} bytes; "
            "prefixes {prefixes_bytes:>13,}; process + {process_growth:>13,}; {seconds:.1f} s".format(**rows[-1]),
            flush=True,
        )
    record(RESULTS / "memory.json", {"model": options.model, "runs": rows})


if __name__ == "__main__":
    main()
