"""Rows as tables of pandas, pyarrow or Hugging Face's `datasets`, none of which is imported before it is asked for."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from exptilt.errors import UsageError, install

Rows = Sequence[Mapping[str, Any]]
"""Rows of the same names in the same order."""


def to_pandas(rows: Rows) -> Any:
    """A `pandas.DataFrame`. Raises UsageError without pandas."""
    return _package("pandas", "to_pandas").DataFrame([dict(row) for row in rows])


def to_dataset(rows: Rows) -> Any:
    """A `datasets.Dataset`; columns of mixed types as JSON. Raises UsageError without the package datasets."""
    return _package("datasets", "to_dataset").Dataset.from_dict(_columns(rows, "to_dataset"))


def to_arrow(rows: Rows) -> Any:
    """A `pyarrow.Table`; columns of mixed types as JSON. Raises UsageError without pyarrow."""
    return _package("pyarrow", "Parquet").table(_columns(rows, "Parquet"))


def _columns(rows: Rows, purpose: str) -> dict[str, Any]:
    arrow = _package("pyarrow", purpose)
    return {name: _column(arrow, [row[name] for row in rows]) for name in (rows[0] if rows else ())}


def _column(arrow: Any, values: list[Any]) -> Any:
    """The values of a column, all of one type: texts where they are of several."""
    try:
        arrow.array(values)
    except arrow.ArrowException:
        return [value if value is None or isinstance(value, str) else json.dumps(value, default=str) for value in values]
    return values


def _package(name: str, purpose: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"{purpose} takes {name}, not installed here. Install: {install('data')}") from error
