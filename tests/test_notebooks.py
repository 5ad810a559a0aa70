"""The notebook of the examples, run from top to bottom in a kernel of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from tests.pages import run_page

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def source(cell: Any) -> str:
    return "".join(cell["source"])


def test_the_notebook_is_kept_without_outputs() -> None:
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    codes = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in codes] == [[] for _ in codes]
    assert {cell["execution_count"] for cell in codes} == {None}
    assert len({cell["id"] for cell in kept["cells"]}) == len(kept["cells"])


def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "pandas", "datasets", "ipykernel"):
        pytest.importorskip(package)
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {source(cell): cell["outputs"] for cell in book.cells if cell["cell_type"] == "code"}
    by_start = {start: next(shown for text, shown in outputs.items() if start in text) for start in SHOWN}
    for start, wanted in SHOWN.items():
        data = by_start[start][-1]["data"]
        html = "".join(data["text/html"])
        assert all(word in html for word in wanted), start
        assert "<script" not in html
        assert len("".join(data["text/plain"])) < 800 or "pandas" in start
    bars = [part["data"]["text/plain"] for part in by_start["xt.run("] if part["output_type"] == "display_data"]
    assert len(bars) == 1, "the bar is one output, which changes"
    assert "━" * 28 + " 4/4 · " in "".join(bars[0])
    assert "num_rows: 32" in "".join(outputs["results.to_dataset(drafts=True)"][-1]["data"]["text/plain"])
    made = "".join(outputs['results.header["made"]'][-1]["data"]["text/plain"])
    assert xt.__version__ in made
    printed = [part for shown in outputs.values() for part in shown if part.get("name") == "stdout"]
    assert not printed, f"nothing is printed: {printed}"


SHOWN = {
    "xt.ask(": ["xt-answer", "xt-advice", "16 drafts"],
    "xt.ETS(": ["Tree", "Step 1", "xt-path", "ETS candidates 8"],
    ".at(0.5)": ["β <b>0.5</b>", "<table"],
    "xt.SMC(": ["Generations", "Generation 2"],
    "xt.SuffixMCMC(": ["Chain", "xt-curve"],
    "xt.run(": ["How many apples", "prompts", "exptilt"],
    "to_pandas()": ["<table", "Clara"],
}


def test_the_page_on_notebooks_is_true() -> None:
    for package in ("pandas", "datasets"):
        pytest.importorskip(package)
    space = run_page("notebooks.md")
    assert space["asked"].answer == "54"
    assert len(space["drafts"]) == 8
