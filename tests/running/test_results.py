"""What a run returns as a whole: a list with tables, a header, and texts that are short in a notebook."""

from __future__ import annotations

import builtins
import json
import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.cli import main
from exptilt.engines import TableEngine
from exptilt.errors import StoreError, TargetError, UsageError
from exptilt.running.flat import FIELDS, flat_rows
from exptilt.testing.toys import autoregressive

ROWS: list[dict[str, Any]] = [
    {"prompt": "which?", "answer": "0", "id": 7, "tokens": "mine"},
    {"prompt": [{"role": "user", "content": "which?"}], "answer": "1", "made": complex(1, 2)},
    {"prompt": "fails", "answer": "2"},
    {"prompt": "which?", "answer": "1"},
]


def exact(prompt: Any, drafts: Sequence[xt.Draft], answer: str) -> list[float]:
    return [float(draft.text == answer) / (prompt != "fails") for draft in drafts]


ENGINE = TableEngine(lambda prefix: [0.4, 0.3, 0.3], 4, 2, symbols="01#")
TARGET = xt.Target(ENGINE, exact, 0.1)


def first(text: str) -> str | None:
    return text[:1] or None


def answer(store: Path | None = None, **more: Any) -> xt.Results:
    return xt.run(TARGET, ROWS, xt.Independent(30), select=xt.vote(first), store=store, **more)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    answer(tmp_path / "a.jsonl")
    return tmp_path / "a.jsonl"


# ------------------------------------------------------------------------------------------------------------ a list


def test_results_are_a_list_in_the_order_of_the_input() -> None:
    results = answer()
    assert isinstance(results, list)
    assert [outcome.index for outcome in results] == [0, 1, 2, 3]
    assert results[1:] == list(results)[1:]
    assert (len(results.answered), len(results.failed)) == (3, 1)
    assert results.usage.tokens == sum(outcome.usage.tokens for outcome in results if outcome.usage is not None)
    again = pickle.loads(pickle.dumps(xt.Results(results.failed, results.header)))
    assert (type(again), [*again], again.header) == (xt.Results, results.failed, results.header)


def test_a_file_read_is_the_run_that_wrote_it(store: Path) -> None:
    ran, read = answer(store), xt.read_results(store)
    assert ran.header == read.header
    by_name = {row["line"]: row for row in read.rows()}
    for row, mine in zip(ran.rows(), [by_name[row["line"]] for row in ran.rows()], strict=True):
        assert {**mine, "made": None} == {**row, "made": None}  # a complex number is not a JSON value
    mine = {row["line"]: outcome for row, outcome in zip(read.rows(), read, strict=True)}
    for row, outcome in zip(ran.rows(), ran, strict=True):
        twin = mine[row["line"]]
        assert (twin.prompt, type(twin)) == (outcome.prompt, type(outcome))
        if isinstance(outcome, xt.Result) and isinstance(twin, xt.Result):
            assert (twin.text, twin.log_z, twin.posterior) == (outcome.text, outcome.log_z, outcome.posterior)
            assert twin.population.drafts == outcome.population.drafts
    assert "Independent n 30, read from a results file" in repr(read.answered[0].sampler)
    with pytest.raises(TargetError, match="can only be shown"):
        xt.sample(TARGET, "x", read.answered[0].sampler)


def test_a_file_without_populations_is_read(tmp_path: Path) -> None:
    answer(tmp_path / "a.jsonl", store_population=False)
    read = xt.read_results(tmp_path / "a.jsonl")
    assert {row["drafts"] for row in read.rows()} == {30, None}
    assert {len(result.population) for result in read.answered} == {1}
    with pytest.raises(StoreError, match="cannot be read"):
        xt.read_results(tmp_path / "none.jsonl")


# ------------------------------------------------------------------------------------------------------------ tables


def test_one_row_for_each_prompt_as_export_writes_them(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = answer(store)
    rows = results.rows()
    assert [row["answer"] for row in rows] == ["0", "1", "2", "1"]
    assert [row["column.tokens"] for row in rows] == ["mine", None, None, None]
    exported = {row["line"]: row for row in flat_rows(store)}
    assert [{**exported[row["line"]], "made": None} for row in rows] == [{**row, "made": None} for row in rows]
    results.to_csv(tmp_path / "mine.csv")
    assert main(["export", str(store), "--csv", str(tmp_path / "theirs.csv")]) == 0
    assert len((tmp_path / "mine.csv").read_text().splitlines()) == len((tmp_path / "theirs.csv").read_text().splitlines()) == 5


def test_a_table_of_pandas(store: Path) -> None:
    pytest.importorskip("pandas")
    frame = xt.read_results(store).to_pandas()
    assert [*FIELDS, "answer"] == [*frame.columns][: len(FIELDS) + 1]
    assert frame.set_index("line").loc[:, "reward"].dropna().size == 3
    drafts = answer().to_pandas(drafts=True)
    assert len(drafts) == 90
    assert drafts.groupby("line").weight.sum().tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert [*drafts.columns][:3] == ["line", "id", "index"]
    assert set(drafts["column.tokens"].dropna()) == {"mine"}, "the tokens of a draft keep their name"


def test_a_data_set_with_weights(store: Path) -> None:
    pytest.importorskip("datasets")
    data = xt.read_results(store).to_dataset(drafts=True)
    assert data.column_names[:5] == ["line", "id", "index", "prompt", "completion"]
    assert json.loads(next(prompt for prompt in data["prompt"] if prompt.startswith("["))) == ROWS[1]["prompt"]
    population = xt.sample(autoregressive(5).target, "x", xt.Independent(12)).population
    one = population.to_dataset()
    assert one["completion"] == [draft.text for draft in population.drafts]
    assert one["weight"] == pytest.approx(population.weights.tolist())
    assert one["logq"] == pytest.approx([math.fsum(draft.logq or ()) for draft in population.drafts])
    assert one["tokens"][0] == [*population.drafts[0].tokens]
    assert population.to_pandas().weight.sum() == pytest.approx(1.0)


def test_empty_results_are_empty_tables() -> None:
    assert xt.run(TARGET, [], xt.Independent(2)).rows(drafts=True) == []
    assert len(xt.Results().to_dataset()) == len(xt.Results().to_pandas()) == 0


@pytest.mark.parametrize(("method", "package"), [("to_pandas", "pandas"), ("to_dataset", "datasets")])
def test_a_package_that_is_missing_is_a_plain_error(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr("importlib.import_module", refuse)
    results = answer()
    for each in (results, results.answered[0].population):
        with pytest.raises(UsageError, match=rf"{method} takes {package}, not installed here. Install: pip install"):
            getattr(each, method)()


# ------------------------------------------------------------------------------------------------------------ header


def test_the_header_says_where_and_when(store: Path) -> None:
    import numpy

    made = json.loads(store.read_text().splitlines()[0])["made"]
    assert made["versions"]["exptilt"] == xt.__version__
    assert made["versions"]["numpy"] == numpy.__version__
    assert made["device"] is None, "a table is on no device"
    assert made["date"][:2] == "20"
    assert answer().header["settings"] == xt.read_results(store).header["settings"]


def test_the_header_says_which_device() -> None:
    pytest.importorskip("torch")
    made = xt.run(xt.Target(xt.load("tiny", max_tokens=1), xt.rewards.Zero(), 1.0), ["1"], xt.Independent(1)).header["made"]
    assert made["device"] == "cpu" or made["device"].startswith("cuda:0 (")
    assert {"torch", "transformers"} <= set(made["versions"])


def test_versions_and_dates_need_not_agree(store: Path) -> None:
    """They are no settings: a file goes on on another day, with other versions, and keeps its first line."""
    head, *lines = store.read_text().splitlines()
    for made in ({"date": "2020-01-01T00:00:00+00:00", "versions": {"exptilt": "0.0.1"}, "device": "cuda:0"}, None):
        old = json.loads(head) | {"made": made}
        if made is None:
            del old["made"]  # as files from before
        store.write_text("\n".join([json.dumps(old), *lines[:2], ""]))
        assert len(answer(store).answered) == 3
        assert json.loads(store.read_text().splitlines()[0]) == old
        assert xt.read_results(store).header.get("made") == made


def test_a_record_that_was_spoiled_is_refused(store: Path) -> None:
    head, *lines = store.read_text().splitlines()
    store.write_text("\n".join([json.dumps(json.loads(head) | {"made": {"date": 3}}), *lines, ""]))
    with pytest.raises(StoreError, match=r"made\.date is 3, not a text"):
        xt.read_results(store)


# ------------------------------------------------------------------------------------------------------------- texts


def test_texts_are_short() -> None:
    """A result printed its prompt, every draft with its tokens and log-probabilities, and its trace: pages in a notebook."""
    toy = autoregressive(5, cap=40, concentration=0.3)
    for sampler in (xt.Independent(200), xt.ETS(8, 2, 4), xt.SMC(16, 4, 1), xt.SuffixMCMC(100)):
        results = xt.run(toy.target, ["x" * 5000], sampler)
        (result,) = results.answered
        for shown in (results, result, result.population, result.population.trace, result.draft, TARGET.engine):
            assert len(repr(shown)) < 400
            assert "\n" not in repr(shown)
    assert "reward=" in repr(result)
    assert "no log_z" in repr(result)
    assert repr(results).startswith("Results(1 prompt: 1 answered; ")
    failure = answer().failed[0]
    assert repr(failure).startswith("Failure(RewardError: ")
    assert len(repr(failure)) < 250


def test_a_long_text_keeps_its_ends() -> None:
    draft = xt.Draft("x", tuple(range(500)), None, "Let us see.\n" + "word " * 200 + "The answer is 42.", "stop")
    assert repr(draft) == (
        "Draft('Let us see.\\nword word word word w … d word word word The answer is 42.', 500 tokens, no logq, finish='stop')"
    )


def test_a_partial_result_is_shown_without_selecting(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(population: Any, key: Any) -> Any:
        raise AssertionError("a text must not cost a select")

    with xt.stream(TARGET, xt.Example("which?", columns={"answer": "0"}), xt.Independent(4, batch=2), select=never) as stream:
        assert repr(next(iter(stream))).startswith("Partial(Population(2 drafts")
