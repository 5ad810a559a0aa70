"""Results files as tables."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.cli import main
from exptilt.engines import TableEngine
from exptilt.running.flat import FIELDS, flat_rows

ROWS: list[dict[str, Any]] = [
    {"id": 7, "prompt": 'which, "one"?\nTell', "answer": "0", "tags": ["a", "b"], "text": "mine"},
    {"id": "b", "prompt": "which?", "answer": "1", "weight": 0.5},
    {"prompt": "fails", "answer": "2"},
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    def exact(prompt: str, drafts: list[xt.Draft], answer: str) -> list[float]:
        return [float(draft.text == answer) / (prompt != "fails") for draft in drafts]

    engine = TableEngine(lambda prefix: [0.4, 0.3, 0.3], 4, 2, symbols="01#")
    xt.run(xt.Target(engine, exact, 0.1), ROWS, xt.Independent(40), select=xt.best, store=tmp_path / "a.jsonl", concurrency=1)
    return tmp_path / "a.jsonl"


def test_rows_hold_results_failures_and_columns(store: Path) -> None:
    first, second, failure = sorted(flat_rows(store), key=lambda row: row["answer"])
    assert list(first) == [*FIELDS, *dict.fromkeys(name for name in first if name not in FIELDS)]
    assert list(first) == list(second) == list(failure)
    assert (first["id"], first["text"], first["reward"], first["drafts"], first["stopped"]) == (7, "0", 1.0, 40, "done")
    assert first["tags"] == ["a", "b"]
    assert first["column.text"] == "mine"
    assert second["column.text"] is None
    assert (failure["error"], failure["text"]) == ("RewardError", None)
    assert "division by zero" in failure["message"]
    assert min(first["tokens"], first["seconds"]) > 0


def test_csv_on_standard_output_and_in_a_file(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(store)]) == 0
    written = capsys.readouterr().out
    rows = {row["answer"]: row for row in csv.DictReader(io.StringIO(written, newline=""))}
    assert rows["0"]["prompt"] == ROWS[0]["prompt"]
    assert rows["0"]["tags"] == '["a", "b"]'
    assert rows["2"]["text"] == ""
    before = store.read_bytes()
    assert main(["export", str(store), "--csv", str(store.with_suffix(".csv"))]) == 0
    assert capsys.readouterr().out == ""
    assert store.with_suffix(".csv").read_bytes().decode() == written
    assert main(["export", str(store), "--csv", str(store)]) == 2
    assert store.read_bytes() == before


def test_parquet_reads_back(store: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = store.with_suffix(".parquet")
    assert main(["export", str(store), "--parquet", str(path)]) == 0
    rows = {row["answer"]: row for row in parquet.read_table(path).to_pylist()}
    assert (rows["0"]["reward"], rows["0"]["tags"], rows["1"]["weight"], rows["2"]["reward"]) == (1.0, ["a", "b"], 0.5, None)
    assert [rows[answer]["id"] for answer in "012"] == ["7", "b", None]  # ids of two types become texts
    assert len(xt.examples(path)) == 3, "a table is a file of problems again"


def test_a_file_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = TableEngine(lambda prefix: [0.4, 0.3, 0.3], 4, 2)
    xt.run(xt.Target(engine, xt.rewards.Zero(), 1.0), [], xt.Independent(2), store=tmp_path / "a.jsonl")
    assert main(["export", str(tmp_path / "a.jsonl")]) == 2
    assert "holds no results yet" in " ".join(capsys.readouterr().err.split())
    assert main(["export", str(tmp_path / "none.jsonl")]) == 2
