"""Files of problems with columns on the command line: run, resume, eval, doctor and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exptilt.cli import main

PARTS = """
from exptilt.engines import TableEngine

def engine(max_tokens=4, stop=(), **options):
    return TableEngine(lambda prefix: [0.4, 0.3, 0.3], 4, 2, symbols="01#")

def exact(prompt, drafts, answer):
    return [float(draft.text == str(answer)) for draft in drafts]

def of_text(text, answer):
    return float(text == str(answer))
"""
ROWS = [{"key": 7, "question": "which?", "answer": "0"}, {"key": "b", "question": "which?", "answer": "1"}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "rows.csv").write_text("key,question,answer\n7,which?,0\nb,which?,1\n")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


KEYS = ["--prompt-key", "question", "--id-key", "key"]
SAMPLER = ["--beta", "0.1", "--sampler", "independent", "--n", "40"]


@pytest.mark.parametrize("reward", ["parts.py:exact", "parts.py:of_text", "matches:answer"])
@pytest.mark.parametrize("rows", ["rows.csv", "rows.jsonl"])
def test_a_verifier_reads_the_answer_of_its_problem(
    rows: str, reward: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["run", "parts.py:engine", rows, "--reward", reward, *KEYS, *SAMPLER, "--select", "best", "--answer", "exact"]
    assert main([*line, "--out", "out.jsonl"]) == 0
    lines = [json.loads(each) for each in (folder / "out.jsonl").read_text().splitlines()[1:]]
    assert {(str(each["example"]["id"]), each["text"]) for each in lines} == {("7", "0"), ("b", "1")}
    before = (folder / "out.jsonl").read_bytes()
    assert main([*line, "--out", "out.jsonl", "--json"]) == 0
    assert (folder / "out.jsonl").read_bytes() == before
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["fresh"] == 0
    assert main(["report", "out.jsonl", "--reference-key", "answer", "--answer", "exact", "--out", "a.html"]) == 0


def test_eval_takes_right_answers_from_a_column(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [
        "eval",
        "parts.py:engine",
        "--prompts",
        "rows.csv",
        "--reward",
        "parts.py:exact",
        *KEYS,
        *SAMPLER,
        "--answer",
        "exact",
    ]
    assert main([*line, "--json", "--out", "runs"]) == 0
    told = json.loads(capsys.readouterr().out)
    accuracy = {score["name"]: score["accuracy"] for score in told["scores"]}
    assert told["problems"] == 2
    assert accuracy["best-of-40"] == 1.0
    assert accuracy["majority of 40"] <= 0.5  # which of two answers is right cannot be told by the prompt
    [store] = (folder / "runs").glob("*.jsonl")
    assert main(["report", str(store), "--reference-key", "answer", "--answer", "exact", "--out", "a.html"]) == 0


def test_doctor_examines_with_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "parts.py:engine", "--prompts", "rows.jsonl", "--reward", "parts.py:exact", *KEYS, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == 2
    assert "--prompt-key question --id-key key" in told["command"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["run", "parts.py:engine", "rows.csv", "--reward", "none", "--out", "o"], "name the prompt's, as in --prompt-key key"),
        (
            ["run", "parts.py:engine", "rows.csv", "--reward", "matches:right", *KEYS, *SAMPLER, "--out", "o"],
            "reads the column 'right', and problem 1 ('which?') has answer",
        ),
        (["eval", "parts.py:engine", "--reward", "none"], "give either --task NAME or --prompts FILE"),
        (
            ["eval", "parts.py:engine", "--prompts", "rows.csv", *KEYS, "--reference-key", "right", "--reward", "none"],
            "problem 1 of rows.csv has no right answer under 'right' (columns: answer)",
        ),
        (
            ["eval", "parts.py:engine", "--prompts", "rows.csv", "--prompt-key", "answer", "--reference-key", "question",
             "--reward", "none"],
            "has the right answer 'which?', which cannot be read: see --answer",
        ),
    ],
)  # fmt: skip
def test_refusals(line: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (folder / "o").exists()
