"""All outcomes of a run together: a list of them, which can be shown, counted, and turned into tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from exptilt import frames
from exptilt.draft import Prompt, prompt_digest
from exptilt.populations.rows import ROW
from exptilt.running.described import StoredSampler
from exptilt.running.flat import aligned, as_csv, check_rows, column_fields, flat_row
from exptilt.running.lines import from_line, to_line
from exptilt.running.overview import results_html
from exptilt.running.result import Failure, Outcome, Result
from exptilt.running.store import read_file
from exptilt.usage import Usage

_OF_DRAFTS = ("line", "id", "index", *ROW)


@final
class Results(list[Outcome]):
    """One Result or Failure for each prompt, in the order of the input: a list like any other.

    header: the first line of its results file, or what it would be: "settings", and "made" (versions, device and date). Also a
        function that makes it.
    """

    def __init__(
        self,
        outcomes: Iterable[Outcome] = (),
        header: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        list.__init__(self, outcomes)
        self._header = header or {}
        self._names = names

    @property
    def header(self) -> Mapping[str, Any]:
        """The first line of its results file, or what it would be: made when somebody asks, where there is no file."""
        if callable(self._header):
            self._header = self._header()
        return self._header

    def __repr__(self) -> str:
        count = f"{len(self)} prompt{'s' * (len(self) != 1)}"
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Results({count}: {len(self.answered)} answered{failed}; {self.usage.tokens:,} tokens)"

    def _repr_html_(self) -> str:
        """The run in a notebook: a table with one row for each prompt."""
        return results_html(self, self.header)

    @property
    def answered(self) -> list[Result]:
        """The results, without the failures."""
        return [outcome for outcome in self if isinstance(outcome, Result)]

    @property
    def failed(self) -> list[Failure]:
        """The failures."""
        return [outcome for outcome in self if isinstance(outcome, Failure)]

    @property
    def usage(self) -> Usage:
        """What all prompts cost together, as far as that is known; its seconds are those of the prompts, one after the other."""
        return Usage.total([outcome.usage for outcome in self if outcome.usage is not None])

    def rows(self, *, drafts: bool = False) -> list[dict[str, Any]]:
        """The results as rows of the same names.

        One row for each prompt, with its answer, reward, log Ẑ and cost, or its error, and the columns of its problem
        (`exptilt.running.flat.FIELDS`). With drafts=True one row for each draft instead: the fields of `Population.rows`, whose
        weights sum to one within each prompt, after `line`, `id`, `index` and the columns.
        """
        if drafts:
            return aligned(list(self._draft_rows()), _OF_DRAFTS)
        named = zip(self._line_names(), self, strict=True)
        lines = [(flat_row(name, to_line(name, each, population=False)), each.columns) for name, each in named]
        return aligned([row | column_fields(columns) for row, columns in lines])

    def to_pandas(self, *, drafts: bool = False) -> Any:
        """A `pandas.DataFrame` of `rows`. Raises UsageError without pandas."""
        return frames.to_pandas(self.rows(drafts=drafts))

    def to_dataset(self, *, drafts: bool = False) -> Any:
        """A `datasets.Dataset` of `rows`; columns of mixed types as JSON. Raises UsageError without the package datasets."""
        return frames.to_dataset(self.rows(drafts=drafts))

    def to_csv(self, path: str | Path) -> None:
        """Write `rows` as CSV with a header; lists and mappings as JSON."""
        rows = self.rows()
        check_rows(rows, "this run")
        Path(path).write_text(as_csv(rows), encoding="utf-8", newline="")

    def _draft_rows(self) -> Iterator[dict[str, Any]]:
        for name, outcome in zip(self._line_names(), self, strict=True):
            if isinstance(outcome, Result):
                first = {"line": name, "id": outcome.id, "index": outcome.index}
                yield from (first | row | column_fields(outcome.columns, _OF_DRAFTS) for row in outcome.population.rows())

    def _line_names(self) -> Sequence[str]:
        """The names of the lines in a results file: those of the file that was read, else as a run names them."""
        if self._names is not None and len(self._names) == len(self):
            return self._names
        seen: Counter[Prompt] = Counter()
        names = []
        for outcome in self:
            names.append(f"{prompt_digest(outcome.prompt)}-{seen[outcome.prompt]}")
            seen[outcome.prompt] += 1
        return names


def read_results(path: str | Path) -> Results:
    """The outcomes in a results file, in the order in which they finished, without writing to it; a run may be adding some.

    They are as the run returned them, but for functions and objects, which a file does not hold: columns that are JSON values,
    and samplers that can only be shown. Raises StoreError for a file that cannot be used.
    """
    header, lines = read_file(path)
    settings = header["settings"]
    sampler = StoredSampler(settings["sampler"])
    outcomes = [
        from_line(line, sampler, settings["seed"], described=settings["sampler"], index=index)
        for index, line in enumerate(lines.values())
    ]
    return Results(outcomes, header, tuple(lines))
