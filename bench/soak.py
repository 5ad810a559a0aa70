"""Half an hour of everything at once: `python bench/soak.py --minutes 30 --flight 64`.

Prompts are answered by the tiny model without a pause, `--flight` at a time, by ETS, ETS-IS, SuffixMCMC, Independent and
SMC in turns, while things go wrong on purpose:

    a step raises           every caller with rows in the batch must hear of it, and nobody else
    a row refuses to join   its caller alone must hear of it, whoever's rows join with it
    scoring raises          its caller alone must hear of it
    a caller gives up       an alarm interrupts its waiting; the others must not notice

Then some prompts that nothing happened to are answered again, without failures, one after the other: the texts must agree.
Memory is sampled every second, that in use (what glibc's malloc has handed out) and that resident (with the gaps malloc
keeps between); slopes are fitted to the means of equal spans after the warm-up. The end is a summary and
bench/results/soak.json; the exit status says whether every check held. Runs on Linux with glibc, in the main thread.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from bench.chaos import MOST_HELD, Abandoned, Chaos, Log, Rates
from bench.record import RESULTS, record
from exptilt.evaluation.tasks.word_problems import word_problems

CAP = 48  # tokens of a response
MEMORY = 2**25  # bytes of prefixes that are kept: little, so that the store is full, and flat, after the warm-up
WARM_UP = 0.2  # of the run: buffers grow and the store of prefixes fills
SPANS = 20  # of samples after the warm-up, whose means the slope is fitted to


# ------------------------------------------------------------------------------------------------------------ the jobs


@dataclass(frozen=True)
class Work:
    """Jobs 0, 1, 2...: a target, a sampler and a question each."""

    targets: Sequence[tuple[xt.Target, Any]]
    questions: Sequence[str]

    @staticmethod
    def on(engine: Any, proposal: Any) -> Work:
        target = xt.Target(engine, xt.rewards.Arithmetic(), beta=0.1)
        proposed = xt.Target(engine, xt.rewards.Arithmetic(), beta=0.1, proposal=proposal)
        return Work(
            (
                (target, xt.ETS(candidates=3, rollouts=1, block=16)),
                (proposed, xt.ETS(candidates=2, rollouts=2, block=16)),
                (target, xt.SuffixMCMC(steps=6)),
                (target, xt.Independent(6)),
                (target, xt.SMC(particles=4, block=16)),
            ),
            [problem.question for problem in word_problems("test", 501, seed=11)],
        )

    def answer(self, job: int) -> str:
        target, sampler = self.targets[job % len(self.targets)]
        return xt.sample(target, self.questions[job % len(self.questions)], sampler, seed=job).text


def attend(job: int, work: Work, chaos: Chaos, log: Log) -> None:
    """One job, to whatever end."""
    chaos.job.number = job
    try:
        text = work.answer(job)
    except BaseException as error:  # noqa: BLE001 - what came is checked by the log
        log.end(job, error=error)
    else:
        log.end(job, text=text)


@contextmanager
def impatience(seconds: float) -> Iterator[None]:
    """Raise Abandoned in the main thread after so long, at a moment when it waits for its rows or its scoring."""

    def alarm(_: int, frame: Any) -> None:
        while frame is not None:
            if frame.f_code is threading.Event.wait.__code__:
                raise Abandoned
            frame = frame.f_back
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def give_up_again_and_again(jobs: Iterable[int], work: Work, chaos: Chaos, log: Log) -> None:
    """Jobs of the main thread, which loses its patience with many of them."""
    random = np.random.default_rng(1)
    for job in jobs:
        with impatience(0.01 + float(random.exponential(chaos.rates.patience))):
            attend(job, work, chaos, log)


# ---------------------------------------------------------------------------------------------------------- the report


def resident() -> float:
    """Resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class MallInfo(ctypes.Structure):
    """The record of glibc's mallinfo2(3); uordblks are bytes handed out, hblkhd bytes in mappings of their own."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def in_use() -> float:
    """Memory that malloc has handed out, in MiB: without what Python maps for small objects of its own."""
    read = ctypes.CDLL(None).mallinfo2
    read.restype = MallInfo
    told = read()
    return (told.uordblks + told.hblkhd) / 2**20


def slope(seconds: np.ndarray, mebibytes: np.ndarray) -> dict[str, float]:
    """MiB per minute with its standard error, from the means of SPANS spans of the samples."""
    minutes = np.array([span.mean() / 60 for span in np.array_split(seconds, SPANS)])
    memory = np.array([span.mean() for span in np.array_split(mebibytes, SPANS)])
    away = minutes - minutes.mean()
    rise = float(away @ memory / (away @ away))
    rest = memory - memory.mean() - rise * away
    error = float((rest @ rest / (SPANS - 2) / (away @ away)) ** 0.5)
    told = {"first": memory[0], "last": memory[-1], "per minute": rise, "error": error}
    return {name: round(float(value), 3) for name, value in told.items()}


@dataclass
class Jobs:
    """Numbers of jobs, each given out once, until time is up."""

    end: float
    taken: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __iter__(self) -> Iterator[int]:
        while time.monotonic() < self.end:
            with self.lock:
                self.taken += 1
                job = self.taken - 1
            yield job


@dataclass
class Watch:
    """Samples of (seconds, MiB in use, resident MiB, threads), taken beside everything else."""

    every: float
    samples: list[tuple[float, float, float, int]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        began = time.monotonic()
        while not self.over.wait(self.every):
            self.samples.append((time.monotonic() - began, in_use(), resident(), threading.active_count()))


def soak(seconds: float, flight: int, again: int, rates: Rates) -> dict[str, Any]:
    """Run for so long, then answer `again` jobs once more; the figures, among them `checks`: whether each held."""
    log = Log()
    engine: Any = xt.load("tiny", max_tokens=CAP, memory=MEMORY)
    plain = engine.backend.scheduler
    chaos = engine.backend.scheduler = Chaos(plain.batch, max_rows=128, log=log, rates=rates)
    work = Work.on(engine, xt.load("tiny-small", max_tokens=CAP, memory=MEMORY))
    jobs, watch = Jobs(time.monotonic() + seconds), Watch(1.0 if seconds > 60 else 0.02)
    threads = [threading.Thread(target=lambda: [attend(job, work, chaos, log) for job in jobs]) for _ in range(flight - 1)]
    observer = threading.Thread(target=watch.run)
    for thread in (observer, *threads):
        thread.start()
    give_up_again_and_again(jobs, work, chaos, log)
    for thread in threads:
        thread.join()
    watch.over.set()
    observer.join()
    chaos.close()  # waits for rows that were given up to leave
    engine.backend.scheduler = plain
    some = sorted(log.texts)[:: max(1, len(log.texts) // again)][:again]
    differ = [job for job in some if work.answer(job) != log.texts[job]]
    left = len(chaos.rows) + len(chaos.owner)
    return figures(jobs, log, watch, len(some), differ, left, seconds) | {"in flight": flight}


def figures(
    jobs: Jobs, log: Log, watch: Watch, repeated: int, differ: Sequence[int], left: int, seconds: float
) -> dict[str, Any]:
    """The figures of a run. repeated: how many jobs were done again, `differ` those with another text; left: rows that stayed."""
    warm = np.array([sample for sample in watch.samples if WARM_UP * seconds <= sample[0] < seconds])
    missed = {n: log.concerned[n] - log.heard[n] - log.abandoned for n in log.concerned}
    wrongly = {n: log.heard[n] - log.concerned[n] for n in log.concerned}
    failed = set[int]().union(*log.heard.values())
    threads = warm[:, 3].astype(int).tolist()
    checks = {
        "every job came back once": bool(np.all(log.endings[: jobs.taken] == 1)) and not log.endings[jobs.taken :].any(),
        "every failure reached all it concerned": not any(missed.values()),
        "no failure reached anyone else": not any(wrongly.values()),
        "nothing else went wrong": not log.strange,
        "no row was left behind": not left,
        "at most one text in twenty differs without failures": len(differ) <= repeated / 20,
        "the cap on memory held": log.most_held <= MOST_HELD,
        # Workers of idle engines go home and come again, of which there are two.
        "threads did not grow in number": max(threads[len(threads) // 2 :]) <= max(threads[: len(threads) // 2]) + 2,
    }
    return {
        "seconds": seconds,
        "jobs": jobs.taken,
        "answered": int(log.answered),
        "failed": len(failed),
        "abandoned": len(log.abandoned),
        "failures": dict(log.kinds),
        "jobs concerned": sum(map(len, log.concerned.values())),
        "repeated": repeated,
        "texts that differ": len(differ),
        "most tokens held": log.most_held,
        "MiB in use": slope(warm[:, 0], warm[:, 1]),
        "MiB resident": slope(warm[:, 0], warm[:, 2]),
        "threads": [min(threads), max(threads)],
        "strange": log.strange[:10],
        "checks": checks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--flight", type=int, default=64, help="prompts at a time")
    parser.add_argument("--again", type=int, default=60, help="prompts that are answered once more")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    options = parser.parse_args()
    found = soak(60 * options.minutes, options.flight, options.again, Rates())
    for name, value in found.items():
        print(f"{name:28} {value}")
    record(options.out, found)
    sys.exit(not all(found["checks"].values()))


if __name__ == "__main__":
    main()
