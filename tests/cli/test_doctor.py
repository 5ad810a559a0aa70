"""`exptilt doctor`: its tables and JSON, the command that it ends with, its refusals. A table stands for the model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from exptilt.cli import main, parse
from exptilt.cli.groups import sampler_of
from exptilt.core import Engine
from exptilt.engines import TableEngine

Run = Callable[..., tuple[int, str, str]]

MINE = """
def ones(text):
    return float(text.count("1"))

def same(text):
    return 1.0
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command with a table for a model, in a folder with prompts and a reward: its exit code, output and error output."""

    def load(name: str, **law: Any) -> Engine:
        assert not law or set(law) <= {"max_tokens", "stop", "temperature"}
        return TableEngine(lambda prefix: np.array([0.4, 0.4, 0.2]), law.get("max_tokens", 24), 2, symbols="01.", name=name)

    monkeypatch.setattr("exptilt.names.targets.load", load)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    Path("heads.py").write_text(MINE)
    Path("prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(20)))

    def call(*argv: str, reward: str = "heads.py:ones") -> tuple[int, str, str]:
        code = main(["doctor", "toy", *argv, "--reward", reward])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def planned(out: str) -> tuple[list[str], Any]:
    """The words of the command that the output ends with, and the sampler that it asks for."""
    program, *words = shlex.split(out.strip().splitlines()[-1])
    assert program == "exptilt"
    return words, sampler_of(parse(words))


def test_tables_fit_the_screen_and_say_what_matters(run: Run) -> None:
    code, out, err = run("--prompts", "prompts.txt", "--kl", "0.5", "--problems", "500")
    assert code == 0
    *lines, command = out.rstrip().splitlines()
    assert max(map(cell_len, lines)) <= 100
    assert "toy  heads.py:ones · 8 prompts × 32 draws" in lines[1]
    for words in ("responses", "reward", "β", "KL(π‖p) 0.50", "prefixes", "suffixes", "▸ ", "of 500 prompts"):
        assert words in out
    assert command.startswith("exptilt run toy prompts.txt --reward heads.py:ones --beta")
    assert "8 prompts of 500, 32 draws each" in " ".join(err.split())


def test_the_command_is_one_that_the_program_understands(run: Run) -> None:
    flags = ("--temperature", "1.0", "--max-tokens", "20", "--stop", "a b", "--reward-timeout", "9")
    words, sampler = planned(run("--prompts", "prompts.txt", *flags)[1])
    found = json.loads(run("--prompts", "prompts.txt", *flags, "--json")[1])
    args = parse(words)
    assert shlex.join(["exptilt", *words]) == found["command"]
    assert (args.temperature, args.max_tokens, args.stop, args.reward_timeout) == (1.0, 20, ["a b"], 9.0)
    assert args.beta == pytest.approx(found["beta"]["value"], rel=0.01)
    assert args.out == "runs/prompts.jsonl"
    assert found["plan"]["sampler"] == f"Independent n {sampler.n}"
    assert main(words) == 0


def test_one_prompt(run: Run) -> None:
    code, out, _ = run("why?", "--ess", "4")
    words, _ = planned(out)
    assert code == 0
    assert words[:3] == ["sample", "toy", "why?"]
    assert "For 4 effective draws of π: the prompt" in out
    assert "The intervals come from the draws of one prompt" in out


def test_a_task_tells_accuracies(run: Run) -> None:
    code, out, _ = run("--task", "word-problems", "--problems", "30", "--accuracy", "0.99", reward="arithmetic")
    assert code == 0
    assert "pass@k" in out
    assert "there is nothing to tilt by" in out  # a table writes no arithmetic
    code, out, _ = run("--task", "word-problems", "--problems", "30", "--pilot-prompts", "3", reward="heads.py:ones")
    words, _ = planned(out)
    assert words[:6] == ["eval", "toy", "--task", "word-problems", "--problems", "30"]
    assert "weighted vote" in out


def test_json_and_out(run: Run) -> None:
    code, out, _ = run("--prompts", "prompts.txt", "--beta", "1.5", "--json", "--out", "found.json", "--draws", "8")
    found = json.loads(out)
    assert code == 0
    assert json.loads(Path("found.json").read_text()) == found
    assert found["beta"] == {"value": 1.5, "low": 1.5, "high": 1.5}
    assert (found["problems"], found["findings"]["draws"]) == (20, 64)
    plan = found["plan"]
    assert plan["flags"][:3] == ["--sampler", "independent", "--n"]
    assert plan["run"]["tokens"] == pytest.approx(20 * plan["tokens"])


def test_a_column_that_is_not_there_is_refused_before_the_cost_is_told(run: Run) -> None:
    Path("columns.py").write_text("def right(text, answer):\n    return float(text == answer)\n")
    code, out, err = run("--prompts", "prompts.txt", reward="columns.py:right")
    assert (code, out) == (2, "")
    assert "reads the column 'answer'" in " ".join(err.split())
    assert "pilot:" not in err


def test_what_was_found_is_shown_where_its_file_cannot_be_written(run: Run) -> None:
    """A disk that filled up meanwhile ended in a traceback, and the examination was lost."""
    Path("found.json").symlink_to("/dev/full")
    code, out, err = run("--prompts", "prompts.txt", "--beta", "1.5", "--json", "--draws", "8", "--out", "found.json")
    assert (code, json.loads(out)["problems"]) == (1, 20)
    assert "error  --out found.json cannot be written: No space left on device. Free space, or" in " ".join(err.split(" "))


def test_without_a_plan_there_is_no_command(run: Run) -> None:
    code, out, _ = run("--prompts", "prompts.txt", reward="heads.py:same")
    assert code == 0
    assert "there is nothing to tilt by" in out
    assert "exptilt" not in out
    found = json.loads(run("--prompts", "prompts.txt", "--json", reward="heads.py:same")[1])
    assert (found["command"], found["beta"], found["findings"]["drift"]) == (None, None, None)


def test_the_budget_is_announced_and_kept(run: Run) -> None:
    _, out, err = run("--prompts", "prompts.txt", "--pilot-tokens", "900", "--json")
    assert "at most 900 tokens" in " ".join(err.split())
    assert json.loads(out)["speed"]["tokens"] < 900 + 8 * 8 * 24


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "give one of PROMPT, --prompts FILE and --task NAME"),
        (("why?", "--prompts", "prompts.txt"), "give one of PROMPT"),
        (("why?", "--accuracy", "0.5"), "--accuracy needs problems with known answers"),
        (("why?", "--kl", "1", "--beta", "1"), "give at most one of them; see exptilt doctor --help."),
        (("why?", "--ess", "0"), "Goal(ess=0.0): give a positive number"),
        (("why?", "--draws", "1"), "one draw shows no spread"),
        (("why?", "--concurrency", "0"), "--concurrency 0 must be at least 1"),
        (("--prompts", "none.txt"), "none.txt cannot be read"),
        (("why?", "--out", "none/found.json"), "--out none/found.json cannot be written: there is no folder none"),
    ],
)
def test_requests_that_are_refused(more: tuple[str, ...], words: str, run: Run) -> None:
    code, out, err = run(*more)
    assert "pilot:" not in err, "what it will cost was said of pilots that were then refused"
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())
    assert "Traceback" not in err
