"""How the program ends: closed pipes, signals, crashes of somebody's code. Real processes, with a table for a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Program

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from exptilt import names
from exptilt.cli import main
from exptilt.engines import TableEngine
from exptilt.testing.toys import random_table
names.targets.load = lambda name, **options: TableEngine(random_table(3, 4), 5, 3, symbols="1234", name=name)
sys.exit(main())
"""
MINE = """
import json
import time

def one(text):
    return 1.0

def slow(text):
    time.sleep(0.05)
    return 1.0

def indexed(text):
    return {"a": 1.0}[text]

def within_a_library(text):
    return json.loads("{")

class Crash:
    weighted = True
    def needs(self, target):
        return frozenset()
    def __call__(self, target, prompt, key):
        return 1 / 0

def picky(population, key):
    raise LookupError("nothing suits")
"""
COUNT = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(COUNT)))
    return tmp_path


def start(folder: Path, *argv: str, **streams: Any) -> subprocess.Popen[Any]:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *argv], cwd=folder, env=environment, **streams)


def running(reward: str = "mine.py:one", *more: str) -> tuple[str, ...]:
    flags = ("--reward", reward, "--beta", "1", "--sampler", "independent", "--n", "2", "--out", "a.jsonl", "--concurrency", "1")
    return ("run", "toy", "prompts.txt", *flags, *more)


def kept(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()[1:]]


def test_a_reader_who_leaves_does_not_end_the_run(folder: Path) -> None:
    """`exptilt run ... --json | head -1` ended with BrokenPipeError after 2 of 60 prompts."""
    with start(folder, *running("mine.py:one", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["prompt"].startswith("prompt")
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")
    assert len(kept(folder)) == COUNT


def test_nor_one_of_both_streams(folder: Path) -> None:
    with start(folder, *running("mine.py:slow"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 0
    assert len(kept(folder)) == COUNT


@pytest.mark.parametrize(
    "argv", [("sample", "toy", "why?", "--reward", "mine.py:one", "--beta", "1"), ("--help",), ("sample", "--help"), ()]
)
def test_short_commands_end_quietly_without_a_reader(argv: tuple[str, ...], folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with start(folder, *argv, stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert process.returncode == (0 if argv else 2)
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_run_between_two_prompts(number: signal.Signals, folder: Path) -> None:
    """A job that a scheduler ends with SIGTERM died without a word; it stops as for Ctrl-C and can be gone on with."""
    with start(folder, *running("mine.py:slow", "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        said = process.stderr.read().decode()
    assert process.returncode == 130
    assert said.endswith("more prompts are in a.jsonl. Run the same command again to resume.\n")
    assert 1 <= len(kept(folder)) < COUNT
    assert start(folder, *running("mine.py:slow"), stderr=subprocess.DEVNULL).wait() == 0
    assert len({line["prompt"] for line in kept(folder)}) == COUNT


def test_messages_are_not_wrapped_into_a_pipe(folder: Path) -> None:
    argv = ("sample", "toy", "why?", "--reward", "kindness", "--beta", "1")
    said = subprocess.run([sys.executable, "-c", PROGRAM, *argv], cwd=folder, capture_output=True, env={"PYTHONPATH": str(ROOT)})
    assert said.returncode == 2
    assert said.stderr.count(b"\n") == 1
    assert len(said.stderr) > 150


# ------------------------------------------------------------------------------------------------------- whose error


def test_a_rewards_error_names_its_own_line(program: Program) -> None:
    Path("mine.py").write_text(MINE)
    lines = [str(line) for line in MINE.splitlines()]
    for name, words, line in (
        ("indexed", "raised KeyError: ", 'return {"a": 1.0}[text]'),
        ("within_a_library", "raised JSONDecodeError: ", 'return json.loads("{")'),
    ):
        code, _, err = program("sample", "toy", "why?", "--reward", f"mine.py:{name}", "--beta", "1")
        place = f"({Path('mine.py').resolve()}, line {lines.index('    ' + line) + 1})"
        assert (code, words in err, place in err, "Traceback" in err) == (1, True, True, False), err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--select", "mine.py:picky"), "LookupError: nothing suits ("),
        (("--sampler", "crash.py:Crash"), "ZeroDivisionError: division by zero ("),
    ],
)
def test_a_crash_is_a_sentence_and_a_traceback_only_where_asked(flags: tuple[str, ...], words: str, program: Program) -> None:
    Path("mine.py").write_text(MINE)
    Path("crash.py").write_text("from dataclasses import dataclass\n" + MINE.replace("class Crash", "@dataclass\nclass Crash"))
    argv = ("sample", "toy", "why?", "--reward", "mine.py:one", "--beta", "1", *flags)
    code, out, err = program(*argv)
    assert (code, out, "Traceback" in err) == (1, "", False)
    assert words in err
    assert ", line " in err
    code, _, err = program(*argv, "--debug")
    assert (code, "Traceback" in err) == (1, True)
