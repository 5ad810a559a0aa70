"""What sampler, session and scheduler cost on top of the engine: `python bench/overhead.py`.

Each sampler answers the same prompts twice. First on the tiny model: every response is recorded, and the seconds that the
engine's batch takes are summed. Then on an engine that costs nothing: the same calls, the same rows, joining and leaving a
batch at the same ages, but a step does nothing and the responses are those recorded, so the sampler takes the same turns.
What is left of the time is the overhead. Seconds are of the processor, so other work on the machine changes little: all
threads' together for the overhead, the worker's for the engine, which computes on that one alone. What an engine does in its
callers' threads, such as decoding text, counts on neither side. The replay has fewer rows at once than the engine, because
none wait for a step, so the scheduler's part is rather too large. The figure of each sampler is the median over `--rounds`.
The results go to bench/results/overhead.json.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from bench.record import RESULTS, record
from exptilt.blocks import BlockSize
from exptilt.draft import Draft, Prompt
from exptilt.engines.scheduler import Scheduler
from exptilt.evaluation.tasks.word_problems import word_problems
from exptilt.keys import Floats, Key
from exptilt.usage import Work

CAP = 64
SAMPLERS: dict[str, Any] = {
    "Independent": xt.Independent(24),
    "ETS": xt.ETS(candidates=8, rollouts=3, block=16),
    "SMC": xt.SMC(particles=8, block=16),
    "SuffixMCMC": xt.SuffixMCMC(steps=8, chains=4),
}
Asked = tuple[Prompt, tuple[int, ...], Key]


def digits(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    """A reward that costs next to nothing."""
    return [len(draft.text) / CAP for draft in drafts]


class Timed:
    """A batch whose steps are counted and whose seconds are summed."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self.seconds = 0.0
        self.now = 0

    def _time(self, function: Callable[[], Any]) -> Any:
        began = time.thread_time()
        try:
            return function()
        finally:
            self.seconds += time.thread_time() - began

    def join(self, rows: Sequence[Any]) -> None:
        self._time(lambda: self.batch.join(rows))

    def step(self) -> Sequence[Any]:
        self.now += 1
        return self._time(self.batch.step)

    def leave(self, rows: Sequence[Any]) -> None:
        self._time(lambda: self.batch.leave(rows))


@dataclass(eq=False)
class Row:
    """A row that is done after so many steps."""

    steps: int


class Free:
    """A batch that does nothing but tell when rows are done. `seconds` is the processor time of the thread that drives it."""

    def __init__(self) -> None:
        self.now = 0
        self.due: defaultdict[int, list[Row]] = defaultdict(list)
        self.seconds = 0.0

    def join(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.due[self.now + row.steps].append(row)

    def step(self) -> Sequence[Row]:
        self.now += 1
        self.seconds = time.thread_time()
        return self.due.pop(self.now, [])

    def leave(self, rows: Sequence[Row]) -> None:
        raise AssertionError("nobody gives up here")


@dataclass(frozen=True)
class Engine:
    """The tiny model, recorded; or, with a scheduler, the record replayed at no cost but the scheduler's."""

    inner: Any
    record: dict[Asked, Draft]
    scheduler: Scheduler[Row] | None = None
    work: Work = field(default_factory=Work, compare=False)

    @property
    def name(self) -> str:
        return "recorded"

    @property
    def can(self) -> frozenset[str]:
        return self.inner.can

    @property
    def max_tokens(self) -> int:
        return CAP

    @property
    def alphabet(self) -> str:
        return self.inner.alphabet

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.inner.settings

    def with_sampling(self, **changes: Any) -> Engine:
        return replace(self, inner=self.inner.with_sampling(**changes))

    def metered(self, work: Work) -> Engine:
        return replace(self, work=work)

    def prompt_tokens(self, prompt: Any) -> tuple[int, ...]:
        return self.inner.prompt_tokens(prompt)

    def start(self, prompt: Any) -> Draft:
        return Draft(prompt)

    def score(self, drafts: Sequence[Draft], starts: Sequence[int] | None = None) -> list[Floats]:
        return self.inner.score(drafts, starts)

    def extend(self, drafts: Sequence[Draft], keys: Sequence[Key], tokens: BlockSize | None = None) -> list[Draft]:
        asked = [(draft.prompt, draft.tokens, key) for draft, key in zip(drafts, keys, strict=True)]
        if self.scheduler is None:
            found = self.inner.extend(drafts, keys, tokens)
            self.record.update(zip(asked, found, strict=True))
            return found
        found = [self.record[name] for name in asked]
        grown = [len(after.tokens) - len(before.tokens) for before, after in zip(drafts, found, strict=True)]
        self.scheduler.run([Row(steps) for steps in grown if steps])
        self.work.add(generated=sum(grown))
        return found


def measure(engine: Any, sampler: Any, questions: Sequence[str], flight: int, seed: int) -> dict[str, float]:
    """Seconds of the engine, the overhead, and the scheduler's part of it, per 1,000 rows; rows in a step of each batch."""
    timed = engine.backend.scheduler.batch = Timed(engine.backend.decoder)
    recording = Engine(engine, {})
    xt.run(xt.Target(recording, digits, beta=0.3), questions, sampler, seed=seed, concurrency=flight)
    engine.backend.scheduler.batch = engine.backend.decoder
    free = Free()
    replay = replace(recording, scheduler=Scheduler(free, max_rows=engine.backend.scheduler.admission.max_rows, name="free"))
    began = time.process_time()
    xt.run(xt.Target(replay, digits, beta=0.3), questions, sampler, seed=seed, concurrency=flight)
    overhead = time.process_time() - began
    grown = [len(draft.tokens) - len(before) for (_, before, _), draft in recording.record.items()]
    rows = sum(map(bool, grown))
    figures = {"engine": timed.seconds, "overhead": overhead, "scheduler": free.seconds}
    at_once = {"rows at once": sum(grown) / timed.now, "replayed at once": sum(grown) / free.now}
    return {name: 1000 * seconds / rows for name, seconds in figures.items()} | at_once | {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--flight", type=int, default=16, help="prompts at a time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "overhead.json")
    options = parser.parse_args()
    engine = xt.load("tiny", max_tokens=CAP)
    import torch  # after load, which asks OpenMP for short spinning while torch is not yet there

    torch.set_num_threads(1)
    questions = [problem.question for problem in word_problems("test", options.problems, seed=31)]
    measure(engine, xt.Independent(8), questions, options.flight, seed=99)  # the first calls pay for much
    table = {}
    print(f"{'processor seconds per 1,000 rows':34} engine   overhead  scheduler   share   (from, to)   rows")
    for name, sampler in SAMPLERS.items():
        rounds = [measure(engine, sampler, questions, options.flight, seed) for seed in range(options.rounds)]
        shares = [one["overhead"] / one["engine"] for one in rounds]
        row = {key: float(np.median([one[key] for one in rounds])) for key in rounds[0]}
        row |= {"share": float(np.median(shares)), "from": min(shares), "to": max(shares)}
        table[name] = {key: round(value, 4) for key, value in row.items()}
        print(
            f"{name:34} {row['engine']:6.3f}   {row['overhead']:8.4f}   {row['scheduler']:8.4f}   {row['share']:5.1%}   "
            f"({row['from']:.1%}, {row['to']:.1%})   {row['rows']:.0f}"
        )
    settings = {"problems": options.problems, "flight": options.flight, "rounds": options.rounds}
    record(options.out, {**settings, "per 1,000 rows": table})


if __name__ == "__main__":
    main()
