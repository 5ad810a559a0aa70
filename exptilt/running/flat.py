"""A results file as a table, one row for each prompt, for spreadsheets, pandas and `datasets`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exptilt.draft import as_prompt, prompt_text
from exptilt.errors import StoreError
from exptilt.frames import to_arrow
from exptilt.running.lines import encode, stored_usage
from exptilt.running.store import read_store

FIELDS = (
    "line", "id", "prompt", "text", "reward", "log_z", "ess", "drafts", "stopped", "limit", "warnings", "tokens", "seconds",
    "error", "message",
)  # fmt: skip


def flat_rows(store: str | Path) -> list[dict[str, Any]]:
    """One row for each prompt of a results file, in the order of its lines: the fields `FIELDS`, and the columns of its problem.

    A column that is called like a field is named column.NAME. Fields that a failure, or a result, does not have are None.
    Raises StoreError for a file that cannot be used.
    """
    _, lines = read_store(store)
    return aligned([flat_row(name, line) for name, line in lines.items()])


def aligned(rows: Sequence[Mapping[str, Any]], fields: Sequence[str] = FIELDS) -> list[dict[str, Any]]:
    """The same rows with the same names: the fields, then all columns that a row has."""
    columns = dict.fromkeys(name for row in rows for name in row if name not in fields)
    return [{name: row.get(name) for name in (*fields, *columns)} for row in rows]


def flat_row(name: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one line of a results file and its columns, as far as it has them."""
    example = line.get("example", {"id": None, "columns": {}})
    own = column_fields(example["columns"])
    row = {"line": name, "id": example["id"], "prompt": prompt_text(as_prompt(line["prompt"])), **own}
    usage = None if line.get("usage") is None else stored_usage(line)
    if usage is not None:
        row |= {"tokens": usage.tokens, "seconds": usage.seconds}
    if "error" in line:
        return row | {"error": line["error"], "message": line["message"]}
    last = line["trace"][-1]  # the population may not have been kept
    told = {key: line[key] for key in ("text", "reward", "log_z", "stopped", "limit")}
    return row | told | {"ess": last["ess"], "drafts": last["n"], "warnings": " ".join(line["warnings"])}


def column_fields(columns: Mapping[str, Any], fields: Sequence[str] = FIELDS) -> dict[str, Any]:
    """Columns by the names that they have in a table, where fields come before them."""
    return {f"column.{name}" if name in fields else name: value for name, value in columns.items()}


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a header; lists and mappings as JSON, and nothing for None."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(rows[0])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return encode(value) if isinstance(value, dict | list) else "" if value is None else value


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The rows as a Parquet file; values of mixed types as JSON. Raises UsageError without pyarrow."""
    table = to_arrow(rows)
    from pyarrow.parquet import write_table

    write_table(table, path)


def check_rows(rows: Sequence[Mapping[str, Any]], store: str | Path) -> None:
    """Refuse a file without results."""
    if not rows:
        raise StoreError(f"{store} holds no results yet: there is nothing to export")
