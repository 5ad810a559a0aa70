"""Accidents of results files: nothing that was finished is lost, and what cannot be read or written is told in words."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.errors import StoreError
from exptilt.running.request import Job, Request
from exptilt.running.result import Outcome
from exptilt.running.store import Store, read_store
from exptilt.testing.toys import random_table
from tests.running.long_run import same


def reward(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 4 for draft in drafts]


TARGET = Target(xt.engines.TableEngine(random_table(3, 4), 5, 3), reward, beta=0.5)
SAMPLER = xt.ETS(3, 2, 2)
PROMPTS = [f"prompt {number}" for number in range(8)]


def run(store: Path, accident: Callable[[], object] | None = None, **more: Any) -> list[Outcome]:
    """A run, with an accident after its third prompt and before the others are done."""
    happened, right = Event(), Request.outcome

    def outcome(self: Request, job: Job, cancel: Event) -> Outcome:
        assert accident is None or job.index < 3 or happened.wait(60)
        return right(self, job, cancel)

    def progress(done: int, total: int, outcome: Outcome) -> None:
        if done == 3 and accident is not None:
            accident()
            happened.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Request, "outcome", outcome)
        return xt.run(TARGET, PROMPTS, SAMPLER, store=store, concurrency=2, progress=progress, **more)


def stored(store: Path) -> set[str]:
    return {line["prompt"] for line in read_store(store)[1].values()}


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_file_that_is_removed_is_written_anew(tmp_path: Path, whole_folder: bool) -> None:
    """The run went on writing to a file without a name, and all of it was gone at the end, without a word."""
    store = tmp_path / "folder" / "a.jsonl"
    results = run(store, lambda: shutil.rmtree(store.parent) if whole_folder else store.unlink())
    assert stored(store) == set(PROMPTS)
    before = store.read_bytes()
    assert all(map(same, results, run(store)))
    assert store.read_bytes() == before, "nothing was run again"


def test_a_file_that_is_removed_at_the_very_end_is_written_anew(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    xt.run(TARGET, PROMPTS[:3], SAMPLER, store=store, progress=lambda done, *_: store.unlink() if done == 3 else None)
    assert stored(store) == set(PROMPTS[:3])


def test_the_new_file_has_one_writer_too(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    with Store(store, {"seed": 1}) as kept:
        store.unlink()
        kept.append({"id": "a-0", "prompt": "a", "error": "PromptError", "message": ""})
        with pytest.raises(StoreError, match="another run is writing"):
            Store(store, {"seed": 1})


def test_a_file_that_is_replaced_ends_the_run_and_both_are_kept(tmp_path: Path) -> None:
    store, other = tmp_path / "a.jsonl", tmp_path / "edited"

    def edit() -> None:
        other.write_text("edited by hand")
        other.replace(store)

    with pytest.raises(StoreError, match=r"was replaced by another file .* put it back") as caught:
        run(store, edit)
    assert store.read_text() == "edited by hand"
    [rescued] = [path for path in tmp_path.iterdir() if path != store]
    assert str(rescued) in str(caught.value)
    assert len(stored(rescued)) >= 4
    rescued.replace(store)
    assert all(isinstance(each, xt.Result) for each in run(store))


def test_a_full_disk_ends_the_run_in_words_and_loses_nothing(tmp_path: Path) -> None:
    """The system's own error came through, with neither the path nor what to do."""
    store, limits = tmp_path / "a.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StoreError, match=r"a\.jsonl cannot be written: File too large.* free space or fix"):
            run(store, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (store.stat().st_size + 200, limits[1])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    content = store.read_bytes()
    assert content.endswith(b"}\n")
    assert stored(store) == set(PROMPTS[:3])
    results = run(store)
    assert store.read_bytes().startswith(content)
    assert all(map(same, results, xt.run(TARGET, PROMPTS, SAMPLER)))


@pytest.mark.parametrize(
    "edit",
    [
        {"draft": None},
        {"draft": {"tokens": 5}},
        {"trace": 3},
        {"usage": {"seconds": 1}},
        {"usage": None},
        {"posterior": 3},
        {"population": {"drafts": []}},
        {"rows": [999]},
        {"rows": [-1]},
        {"log_w": [0.0]},
    ],
    ids=str,
)
def test_lines_of_another_form_are_refused(tmp_path: Path, edit: dict[str, Any]) -> None:
    """A line that was JSON but not a result came back as a TypeError or an IndexError."""
    store = tmp_path / "a.jsonl"
    run(store)
    rows = store.read_text().splitlines()
    row = json.loads(rows[4])
    (row["population"] if set(edit) & {"rows", "log_w"} else row).update(edit)
    rows[4] = json.dumps(row)
    store.write_text("\n".join(rows) + "\n")
    before = store.read_bytes()
    with pytest.raises(StoreError, match=r"line 5 of .*a\.jsonl does not have the form of a result: .* delete that line"):
        run(store)
    assert store.read_bytes() == before


@pytest.mark.parametrize("line", ['{"id": 3, "prompt": "a", "error": "", "message": ""}', '{"float": null}', "[" * 10**5])
def test_lines_that_cannot_be_read_are_refused(tmp_path: Path, line: str) -> None:
    store = tmp_path / "a.jsonl"
    run(store)
    rows = store.read_text().splitlines()
    store.write_text("\n".join([*rows[:2], line, *rows[2:]]) + "\n")
    with pytest.raises(StoreError, match=r"line 3 of .*a\.jsonl is corrupt"):
        run(store)


@pytest.mark.parametrize("answer", [lambda text: (len(text), ("x", None)), lambda text: Fraction(len(text), 3)])
def test_answers_of_any_kind_are_kept(tmp_path: Path, answer: Callable[[str], Any]) -> None:
    """Tuples came back as lists, which no dict takes; fractions ended the run when they were written."""
    store = tmp_path / "a.jsonl"
    first, again = (xt.run(TARGET, PROMPTS[:2], SAMPLER, select=xt.vote(answer), store=store) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert isinstance(one, xt.Result)
        assert isinstance(other, xt.Result)
        assert one.posterior is not None
        assert other.posterior is not None
        kept = {key if isinstance(key, tuple) else repr(key): share for key, share in one.posterior.items()}
        assert dict(other.posterior) == kept


def test_of_an_id_that_occurs_twice_the_last_answer_counts(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    run(store)
    header, first, *rest = store.read_text().splitlines()
    row = json.loads(first)
    failure = {"id": row["id"], "prompt": row["prompt"], "error": "RewardError", "message": "late"}
    later = row | {"stopped": "budget"}
    store.write_text("\n".join([header, first, *rest, json.dumps(later), json.dumps(failure)]) + "\n")
    assert read_store(store)[1][row["id"]]["stopped"] == "budget"
    store.write_text("\n".join([header, json.dumps(failure), json.dumps(failure | {"message": "later"}), *rest]) + "\n")
    assert read_store(store)[1][row["id"]]["message"] == "later"


def test_files_that_an_editor_has_saved_are_read(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    results = run(store)
    whole = store.read_bytes()
    for content in (b"\xef\xbb\xbf" + whole, whole.replace(b"\n", b"\r\n"), whole + b"\n \r\n", whole + b"\0" * 64):
        store.write_bytes(content)
        assert all(map(same, results, run(store)))
        assert stored(store) == set(PROMPTS)
    store.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n")[:-300])
    assert all(map(same, results, run(store)))
    assert stored(store) == set(PROMPTS)
