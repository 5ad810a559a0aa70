"""Results files: resume after kill -9, torn ends repaired, anything else that is wrong refused with the file untouched."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest

import exptilt as xt
from exptilt.core import Target
from exptilt.draft import Draft
from exptilt.errors import StoreError
from exptilt.keys import digest
from exptilt.running.lines import decode, encode
from exptilt.running.result import Failure
from exptilt.running.store import Store, read_store
from exptilt.testing.toys import random_fill, random_table
from tests.running.long_run import PROMPTS, SAMPLER, same, target

ROOT = Path(__file__).resolve().parents[2]


def reward(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 4 for draft in drafts]


TARGET = Target(xt.engines.TableEngine(random_table(3, 4), 5, 3), reward, beta=0.5)
FEW = [f"prompt {number}" for number in range(4)]


def lines(path: Path) -> list[dict]:
    return [decode(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------- kill -9


def start(store: Path, pause: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.running.long_run", str(store), str(pause)], cwd=ROOT, stderr=subprocess.PIPE
    )


def kill_after(process: subprocess.Popen[bytes], store: Path, growth: int, delay: float) -> None:
    """Kill -9 a while after the file has grown by some bytes."""
    begin = store.stat().st_size if store.exists() else 0
    while process.poll() is None and (store.stat().st_size if store.exists() else 0) < begin + growth:
        time.sleep(0.001)
    time.sleep(delay)
    assert process.poll() is None, process.communicate()[1].decode()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_kill_nine_ten_times(tmp_path: Path) -> None:
    """Ten kills at random moments of one run: then every prompt is there exactly once, as if nothing had happened."""
    store, moments = tmp_path / "run.jsonl", random.Random(11)
    for _ in range(10):
        kill_after(start(store, 0.1), store, moments.randrange(1, 15_000), moments.uniform(0, 0.03))
    before = store.read_bytes().count(b"\n") - 1
    assert 10 <= before < 100
    last = start(store, 0.0)
    _, said = last.communicate()
    assert last.returncode == 0, said.decode()
    assert store.read_bytes().endswith(b"\n")
    names = [line["id"] for line in lines(store)[1:]]
    assert len(names) == len(set(names)) == 100
    whole = xt.run(target(), PROMPTS, SAMPLER, seed=7)
    heard: list[object] = []
    resumed = xt.run(target(), PROMPTS, SAMPLER, seed=7, store=store, progress=lambda *news: heard.append(news))
    assert all(map(same, whole, resumed))
    assert not heard


def test_torn_ends_are_repaired(tmp_path: Path) -> None:
    """Wherever in its last line a file breaks off, that line alone is run again."""
    store = tmp_path / "run.jsonl"
    whole = xt.run(TARGET, FEW, xt.Independent(3), store=store, concurrency=1)
    content = store.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for cut in (last + 1, last + 20, (last + len(content)) // 2, len(content) - 2, len(content) - 1):
        store.write_bytes(content[:cut])
        heard: list[object] = []
        resumed = xt.run(TARGET, FEW, xt.Independent(3), store=store, progress=lambda *news, heard=heard: heard.append(news))
        assert all(map(same, whole, resumed))
        assert len(heard) == 1
        assert len(lines(store)) == 5


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    """All but its date, which the test compared too: it failed where a second ended in it."""
    store = tmp_path / "run.jsonl"
    xt.run(TARGET, FEW, xt.Independent(3), store=store)
    whole, header = store.read_bytes().split(b"\n")[0], lines(store)[0]
    for cut in (0, 1, 9, 40, len(whole)):
        store.write_bytes(whole[:cut])
        assert len(xt.run(TARGET, FEW, xt.Independent(3), store=store)) == 4
        again = lines(store)[0]
        assert again | {"made": again["made"] | {"date": header["made"]["date"]}} == header


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("sampler", [xt.ETS(3, 2, 2), xt.SuffixMCMC(6, chains=2), xt.Metropolised(xt.ETS(2, 1, 2), 3)], ids=str)
def test_results_read_back_equal(sampler: xt.ETS, tmp_path: Path) -> None:
    select = xt.vote(xt.answers.number)
    new = xt.run(TARGET, FEW, sampler, store=tmp_path / "a.jsonl", select=select)
    assert all(map(same, new, xt.run(TARGET, FEW, sampler, store=tmp_path / "a.jsonl", select=select)))


def test_excluded_drafts_and_orders_read_back_equal(tmp_path: Path) -> None:
    def strict(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        return [-math.inf if draft.tokens[0] == 0 else 1.0 for draft in drafts]

    masked = Target(xt.engines.MaskedTableEngine(random_fill(3, 3), 4), strict, beta=0.5)
    new = xt.run(masked, FEW, xt.ETS(4, 2, 2), store=tmp_path / "a.jsonl")
    assert all(map(same, new, xt.run(masked, FEW, xt.ETS(4, 2, 2), store=tmp_path / "a.jsonl")))
    assert '{"float": "-inf"}' in (tmp_path / "a.jsonl").read_text()


def test_every_line_is_plain_json(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    results = xt.run(TARGET, [*FEW, "β, \u2028 and \ud800"], xt.ETS(3, 2, 2), store=store)

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in store.read_text(encoding="ascii").splitlines()]
    assert list(rows[0]) == ["exptilt", "settings", "hash", "code", "made"]
    by_prompt = {row["prompt"]: row for row in rows[1:]}
    for result in results:
        assert isinstance(result, xt.Result)
        row = by_prompt[result.prompt]
        assert (row["text"], row["log_z"], row["stopped"]) == (result.text, result.log_z, "done")
        assert row["usage"]["reference"]["generated"] == result.usage.reference.generated


def test_the_list_of_prompts_may_grow(tmp_path: Path) -> None:
    store, heard = tmp_path / "a.jsonl", []
    xt.run(TARGET, FEW[:2], xt.Independent(3), store=store)
    grown = [*FEW, FEW[0]]
    results = xt.run(TARGET, grown, xt.Independent(3), store=store, progress=lambda *news: heard.append(news))
    assert len(heard) == 3
    assert all(map(same, results, xt.run(TARGET, grown, xt.Independent(3))))


def test_failures_are_kept_until_a_retry(tmp_path: Path) -> None:
    store, broken = tmp_path / "a.jsonl", {"prompt 1"}

    def moody(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        return [math.nan if prompt in broken else 1.0 for _ in drafts]

    def outcomes(retry: bool = False) -> list[bool]:
        mood = replace(TARGET, reward=xt.rewards.Sum([(1.0, moody)]))
        return [isinstance(outcome, Failure) for outcome in xt.run(mood, FEW, xt.Independent(3), store=store, retry=retry)]

    assert outcomes() == [False, True, False, False]
    assert outcomes() == [False, True, False, False]
    assert outcomes(retry=True) == [False, True, False, False]
    assert lines(store)[-1]["error"] == "RewardError"


def test_a_retry_that_succeeds_is_what_a_resumed_run_finds(tmp_path: Path) -> None:
    """Fail, retry, resume: of two lines of one id the later one counts. The failure came back where the earlier one did."""
    store, well = tmp_path / "a.jsonl", tmp_path / "prompt 2 is well"

    def moody(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        return [math.nan if prompt == "prompt 1" or (prompt == "prompt 2" and not well.exists()) else 1.0 for _ in drafts]

    def outcomes(retry: bool = False) -> list[bool]:
        mood = replace(TARGET, reward=xt.rewards.Sum([(1.0, moody)]))
        return [isinstance(outcome, Failure) for outcome in xt.run(mood, FEW, xt.Independent(3), store=store, retry=retry)]

    assert outcomes() == [False, True, True, False]
    well.touch()
    assert outcomes(retry=True) == [False, True, False, False]
    assert outcomes() == [False, True, False, False]
    _, kept = read_store(store)
    assert [("error" in line) for _, line in sorted(kept.items(), key=lambda item: item[1]["prompt"])] == outcomes()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_every_line_is_on_the_disk_before_it_is_reported(
    concurrency: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is only in the system's memory is lost with the machine, not with the process: kill -9 cannot show it."""
    store, synced, reported = tmp_path / "a.jsonl", [0], []
    right = os.fsync

    def fsync(number: int) -> None:
        right(number)
        synced.append(store.read_bytes().count(b"\n") - 1)  # the first line is the header

    def tell(count: int, of: int, outcome: object) -> None:
        reported.append((count, synced[-1]))

    monkeypatch.setattr(os, "fsync", fsync)
    xt.run(TARGET, FEW, xt.Independent(3), store=store, concurrency=concurrency, progress=tell)
    assert [count for count, _ in reported] == [1, 2, 3, 4]
    assert all(written >= count for count, written in reported)


def test_prompts_that_finish_together_wait_for_the_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is busy with the first lines, all others finish: they are written as one, in whole lines."""
    store, synced, right = tmp_path / "a.jsonl", [], os.fsync
    prompts, rated = [f"prompt {number}" for number in range(24)], Semaphore(0)

    def counted(prompt: str, drafts: Sequence[Draft]) -> list[float]:
        rated.release()
        return reward(prompt, drafts)

    def slow(number: int) -> None:
        right(number)
        synced.append(store.read_bytes().count(b"\n") - 1)
        if synced[-1] and len(synced) == 2:
            for _ in prompts:
                assert rated.acquire(timeout=60)
            time.sleep(0.1)

    monkeypatch.setattr(os, "fsync", slow)
    xt.run(replace(TARGET, reward=counted), prompts, xt.Independent(3), store=store, concurrency=8)
    assert synced[-1] == len(prompts)
    assert len(synced) < len(prompts) // 2  # the header, the first lines, and all others in one group or a few
    assert sorted(line["prompt"] for line in read_store(store)[1].values()) == sorted(prompts)


def test_a_disk_that_fills_up_within_a_group_keeps_its_whole_lines(tmp_path: Path) -> None:
    class Full:
        """A file on a disk with room for so many bytes more."""

        def __init__(self, file: Any, room: int) -> None:
            self.file, self.room = file, room

        def write(self, content: bytes) -> int:
            if self.room == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(content[: self.room])
            self.room -= written
            return written

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    path = tmp_path / "a.jsonl"
    lines = [{"id": f"{number}", "prompt": "x", "error": "RewardError", "message": "y"} for number in range(3)]
    with Store(path, {}) as store:
        store._file = Full(store._file, 2 * len(json.dumps(lines[0])) + 20)  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(StoreError, match="No space left"):
            store.append(*lines)
    assert [json.loads(line).get("id") for line in path.read_text().splitlines()] == [None, "0", "1"]


def test_without_populations_the_choice_is_kept(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    new = xt.run(TARGET, FEW, xt.ETS(3, 2, 2), store=store, store_population=False)
    old = xt.run(TARGET, FEW, xt.ETS(3, 2, 2), store=store, store_population=False)
    for one, other in zip(new, old, strict=True):
        assert isinstance(one, xt.Result)
        assert isinstance(other, xt.Result)
        assert (one.draft, one.reward, one.warnings) == (other.draft, other.reward, other.warnings)
        assert one.log_z == pytest.approx(other.log_z)
        assert other.population.drafts == (one.draft,)


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(store: Path, match: str, **changes: object) -> None:
    """A run into this file is refused, and leaves it as it was."""
    content = store.read_bytes()
    options = {"target": TARGET, "sampler": xt.ETS(3, 2, 2), "seed": 0} | changes
    with pytest.raises(StoreError, match=match):
        xt.run(options.pop("target"), FEW, options.pop("sampler"), store=store, **options)  # pyright: ignore
    assert store.read_bytes() == content


def other_reward(prompt: str, drafts: Sequence[Draft]) -> list[float]:
    return [sum(draft.tokens) / 5 for draft in drafts]


def test_other_settings_are_refused_and_shown(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    xt.run(TARGET, FEW, xt.ETS(3, 2, 2), store=store)
    refused(store, r"sampler.block: 2 → 3; seed: 0 → 1. Resume with", sampler=xt.ETS(3, 2, 3), seed=1)
    refused(store, r"beta: 0.5 → 0.25", target=replace(TARGET, beta=0.25))
    refused(
        store, r"reward.code: .* → .*; reward.function: .*reward\" → .*other_reward", target=replace(TARGET, reward=other_reward)
    )
    refused(store, r"budget: null → \(not set\); budget.reward_calls: \(not set\) → null", budget=xt.Budget(tokens=9))
    refused(store, r'select: "draw" → "best"', select=xt.best)
    refused(store, "engine.max_tokens: 5 → 6", target=replace(TARGET, engine=xt.engines.TableEngine(random_table(3, 4), 6, 3)))
    same_again = xt.ETS(3, 2, 2, temper=1)  # an integer where the default is 1.0
    assert len(xt.run(replace(TARGET, beta=0.5), FEW, same_again, store=store)) == 4


def test_files_that_knew_functions_by_bytecode_are_refused_in_so_many_words(tmp_path: Path) -> None:
    """Functions are known by their source now. Whether a digest of bytecode belongs to the same function cannot be told."""
    store = tmp_path / "a.jsonl"
    xt.run(TARGET, FEW, xt.ETS(3, 2, 2), store=store)
    header, *lines = store.read_text().splitlines(keepends=True)
    old = json.loads(header)
    del old["code"]
    old["settings"]["reward"]["code"] = "0123456789abcdef"
    old["hash"] = digest(encode(old["settings"], sort=True))
    store.write_text("".join([encode(old) + "\n", *lines]))
    refused(store, "knew your own functions by their bytecode.*reward.code: .*Finish the file with that version")
    refused(store, "of a run with other settings", seed=1)


def test_corrupt_lines_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    xt.run(TARGET, FEW, xt.ETS(3, 2, 2), store=store)
    rows = store.read_bytes().split(b"\n")
    for bad in (rows[2][:50], b"", b"[1, 2]", b'{"no": "id"}', b'{"id": "a-0", "prompt": "a"}', b"\xff\xfe"):
        store.write_bytes(b"\n".join([*rows[:2], bad, *rows[3:]]))
        refused(store, r"line 3 of .*a.jsonl is corrupt .* delete that line")


def test_a_corrupt_last_line_that_is_whole_is_refused_too(tmp_path: Path) -> None:
    """Only a line without its line break was torn by a crash; a whole one was edited, and cutting it off would lose it."""
    store = tmp_path / "a.jsonl"
    xt.run(TARGET, FEW, xt.Independent(3), store=store)
    content = store.read_bytes()
    broken = content[:-20] + b"\n"
    store.write_bytes(broken)
    with pytest.raises(xt.StoreError, match=r"line 5 of .*a.jsonl is corrupt"):
        xt.run(TARGET, FEW, xt.Independent(3), store=store)
    assert store.read_bytes() == broken


def test_other_files_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "prompts.txt"
    for content in ("What is 2 + 2?", "What is 2 + 2?\n", '"a"\n"b"', '{"prompt": "a"}\n'):
        store.write_text(content)
        refused(store, "is not a results file of exptilt")
    store.write_text('{"exptilt": 99, "settings": {}, "hash": ""}\n')
    refused(store, "has format 99")
    with pytest.raises(StoreError, match="cannot be opened"):
        xt.run(TARGET, FEW, xt.Independent(2), store=tmp_path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    with Store(store, {"seed": 1}), pytest.raises(StoreError, match="another run is writing"):
        Store(store, {"seed": 1})
    Store(store, {"seed": 1}).__exit__(None, None, None)


def test_encoding_is_exact() -> None:
    value = {"numbers": [0.1, 1e-310, -math.inf, math.inf], "text": "-inf", "none": None}
    assert decode(encode(value)) == value
    assert math.isnan(decode(encode([math.nan]))[0])
