"""The outcomes of a run as they come: those that its results file has, and new ones, each written as soon as it is there."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from exptilt.core import Sampler
from exptilt.draft import prompt_text
from exptilt.errors import StoreError, error_named
from exptilt.running.lines import changed_columns, from_line, to_line
from exptilt.running.places import Finished, Place
from exptilt.running.request import Job
from exptilt.running.result import Failure, Outcome, Result
from exptilt.running.store import Store

ALIKE = 10  # if as many first prompts of a run fail with the same one of these errors, the set-up is at fault, not the prompts
_OF_THE_SET_UP = ("AnswerError", "RewardError", "SelectError")


def known_lines(file: Store, jobs: Sequence[Job], retry: bool) -> dict[str, Mapping[str, Any]]:
    """The lines that the file has of these jobs, but for failures that are to be tried again."""
    names = {job.name for job in jobs}
    return {name: line for name, line in file.lines.items() if name in names and not (retry and "error" in line)}


def read_back(line: Mapping[str, Any], job: Job, sampler: Sampler, seed: int) -> Outcome:
    """The outcome in a line, with the id, columns and index of its problem. Raises StoreError where its columns were others."""
    if changed := changed_columns(line, job.columns):
        raise StoreError(
            f"the results file holds a result for {prompt_text(job.prompt)[:40]!r} with other columns ({changed}): the problems "
            "have changed. Restore them (equal prompts in their order), or choose another path."
        )
    return replace(from_line(line, sampler, seed), id=job.id, columns=job.columns, index=job.index)


@dataclass
class Outcomes:
    """The outcomes of a run by the names of their jobs: those of its results file, if it has one, and new ones as they come."""

    known: dict[str, Outcome]
    file: Store | None
    population: bool

    def add(self, finished: Finished) -> None:
        """Write the lines of jobs that finished together, with one wait for the disk."""
        self.known.update((job.name, outcome) for job, outcome in finished)
        if self.file is not None:
            self.file.append(*(to_line(job.name, outcome, population=self.population) for job, outcome in finished))


def finish(jobs: Sequence[Job], place: Place, ledger: Outcomes, *, stop: bool) -> Generator[tuple[int, Outcome]]:
    """Do the jobs whose outcome is not known yet; the outcomes, each with how many are known by then, once they are written.

    stop: raise the error of a failure, one that is known already or the first that comes.
    """
    missing = [job for job in jobs if job.name not in ledger.known]
    if stop:
        raise_failure(ledger)
    beginning = _Beginning(over=any(isinstance(outcome, Result) for outcome in ledger.known.values()))
    count = len(jobs) - len(missing)
    with closing(place.finish(missing, stop=stop)) as batches:
        for finished in batches:
            while finished:
                some = len(finished) if beginning.over else 1  # until it is over, each may be the last
                written, finished = finished[:some], finished[some:]
                ledger.add(written)
                for _, outcome in written:
                    count += 1
                    yield count, outcome
                    beginning.check(outcome)
    if stop:
        raise_failure(ledger)


def raise_failure(ledger: Outcomes) -> None:
    """Raise the error of the first failure among the outcomes, if there is one."""
    file = ledger.file
    where = "" if file is None else f" This is recorded in {file.path}: retry=True (--retry) runs the prompt again."
    for outcome in ledger.known.values():
        if isinstance(outcome, Failure):
            raise error_named(
                outcome.error, f"the run stopped at the prompt {prompt_text(outcome.prompt)[:60]!r}: {outcome.message}{where}"
            )


@dataclass
class _Beginning:
    """The first prompts of a run, which tell whether its set-up works. over: one prompt has shown that it does."""

    over: bool = False
    failures: int = 0
    error: str = ""

    def check(self, outcome: Outcome) -> None:
        """Raise the error of the first prompts if ALIKE or more of them, and all so far, failed with the same one."""
        if self.over or not isinstance(outcome, Failure) or self.error not in ("", outcome.error):
            self.over = True
            return
        self.failures, self.error = self.failures + 1, outcome.error
        if outcome.error in _OF_THE_SET_UP and self.failures == ALIKE:
            raise error_named(
                outcome.error,
                f"the first {ALIKE} prompts all failed, so the run was ended before the others do. The last one: "
                f"{outcome.message} Once that is fixed, retry=True (--retry) runs failed prompts of a results file again.",
            )
