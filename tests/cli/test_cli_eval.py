"""`exptilt eval`: its tables and JSON, its files, its refusals. A table stands for the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exptilt.cli import main
from exptilt.core import Engine
from exptilt.engines import TableEngine
from exptilt.testing.toys import random_table

Run = Callable[..., tuple[int, str, str]]
SCORES = ("plain sampling", "majority of", "MBR of", "weighted vote of", "soft best-of-", "best-of-", "ETS, draw", "ETS, vote")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command on word problems with a table for a model: its exit code, output and error output."""
    laws: list[dict[str, Any]] = []

    def load(name: str, **law: Any) -> Engine:
        laws.append(law)
        return TableEngine(random_table(3, 4), 5, 3, symbols="1234", name=name)

    monkeypatch.setattr("exptilt.names.targets.load", load)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)

    def call(
        *more: str, task: str = "word-problems", sampler: tuple[str, ...] = ("--candidates", "2", "--block", "2")
    ) -> tuple[int, str, str]:
        words = ("eval", "toy", "--task", task, "--problems", "5", "--reward", "arithmetic", "--beta", "1")
        code = main([*words, *sampler, *more])
        said = capsys.readouterr()
        assert all(law["max_tokens"] == 96 for law in laws)  # the task's cap
        return code, said.out, said.err

    return call


def test_tables(run: Run) -> None:
    code, out, err = run("--seeds", "2", "--parameters", "1e9")
    assert code == 0
    lines = out.splitlines()
    assert "word-problems  5 problems · 2 seeds · temperature 1 · cap 96 tokens · toy" in lines[1]
    assert [line.strip().startswith(name) for line, name in zip(lines[3:11], SCORES, strict=True)] == [True] * 8
    assert "GFLOPs" in lines[2]
    assert max(map(len, lines)) <= 100
    assert "pass@k" in out
    assert "ETS, seed 1" in err


def test_json(run: Run) -> None:
    code, out, _ = run("--json", "--parameters", "10,0,5")
    found = json.loads(out)
    assert code == 0
    assert (found["task"], found["problems"]) == ("word-problems", 5)
    assert found["curve"][0]["k"] == 1
    ets = found["scores"][-1]
    assert ets["flops"][0] == pytest.approx(
        20 * sum(ets["cost"]["reference"][name] for name in ("prompt", "generated", "scored"))
    )
    assert 0 <= ets["interval"][0] <= ets["accuracy"] <= ets["interval"][1]


def test_results_are_kept_and_gone_on_with(run: Run) -> None:
    first = json.loads(run("--out", "runs", "--json")[1])
    files = {path.name: path.read_bytes() for path in Path("runs").iterdir()}
    assert len(files) == 3
    references = [json.loads(line) for line in files["references.jsonl"].decode().splitlines()]
    assert set(references[0]) == {"prompt", "reference"}
    again = json.loads(run("--out", "runs", "--json")[1])
    assert {path.name: path.read_bytes() for path in Path("runs").iterdir()} == files
    assert [score["right"] for score in again["scores"]] == [score["right"] for score in first["scores"]]


def test_a_stop_rule(run: Run) -> None:
    """`--until` was refused by eval, though every sampler can be stopped."""
    sampler = ("--sampler", "independent", "--n", "8", "--batch", "2")
    code, out, _ = run("--json", sampler=sampler)
    assert code == 0
    whole = json.loads(out)["scores"]
    code, out, err = run("--until", "reward:0", "--json", sampler=sampler)
    assert (code, err.count("Independent until")) == (0, 1)
    stopped = json.loads(out)["scores"]
    assert [score["name"] for score in stopped[-3:]] == [f"Independent until, {select}" for select in ("draw", "vote", "best")]
    assert stopped[-1]["tokens"] < 0.6 * whole[-1]["tokens"]


def test_rewards_that_take_too_long(run: Run) -> None:
    Path("slow.py").write_text("import time\ndef slow(prompt, drafts):\n    time.sleep(5)\n")
    code, _, err = run("--reward", "slow.py:slow", "--reward-timeout", "0.1")
    assert code == 1
    assert "reward slow did not return within 0.1 s" in " ".join(err.split())


@pytest.mark.parametrize(
    ("more", "task", "words"),
    [
        ((), "chess", "there is no task 'chess'"),
        (("--seeds", "0"), "word-problems", "--seeds 0"),
        (("--candidates", "0"), "word-problems", "ETS(candidates=0): give a whole number of 1 or more; see exptilt eval --help."),
        (("--parameters", "many"), "word-problems", "--parameters: 'many' is not one to three numbers"),
        (("--shots", "3"), "word-problems", "belong to lm-eval tasks"),
        (("--until", "reward:high"), "word-problems", "'reward:high' is not a stop rule"),
    ],
)
def test_requests_that_are_refused(more: tuple[str, ...], task: str, words: str, run: Run) -> None:
    code, out, err = run(*more, task=task)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())
    assert "Traceback" not in err
