"""What a command will cost: before anything is drawn, after the first prompts, and where the bar of a resumed run starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from exptilt.cli import forecast
from exptilt.cli.terminal import progress_bar
from tests.cli.conftest import Program

RUN = ("run", "toy", "prompts.txt", "--reward", "heads.py:heads", "--beta", "1", "--out", "a.jsonl")


@pytest.fixture(autouse=True)
def _prompts(program: Program) -> None:
    Path("prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(12)))
    Path("never.py").write_text("def rated(text):\n    raise AssertionError('the reward was called')\n")


@pytest.mark.parametrize("sampler", ["ets", "independent", "mcmc", "smc"])
def test_a_dry_run_draws_and_writes_nothing_and_tells_the_most_it_could_be(sampler: str, program: Program) -> None:
    words = ("--sampler", sampler)
    code, out, err = program(*RUN[:4], "never.py:rated", *RUN[5:], *words, "--dry-run")
    assert (code, err, Path("a.jsonl").exists()) == (0, "", False)
    assert "12 prompts; nothing is drawn" in out
    most = int(re.search(r"at most +([\d,]+) tokens a prompt", out)[1].replace(",", ""))  # type: ignore[index]
    assert f"{12 * most:,} in all" in out
    program(*RUN, *words)
    lines = [json.loads(line)["usage"] for line in Path("a.jsonl").read_text().splitlines()[1:]]
    assert len(lines) == 12
    assert max(each["reference"]["generated"] for each in lines) <= most


def test_a_dry_run_knows_budgets_and_what_is_there_already(program: Program) -> None:
    assert "20 tokens a prompt, 240 in all" in program(*RUN, "--dry-run", "--budget-tokens", "20")[1]
    assert "a first population may take 40 tokens, more than the budget" in program(*RUN, "--dry-run", "--budget-tokens", "20")[1]
    program(*RUN)
    Path("prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(20)))
    assert "20 prompts, 12 of them in earlier runs" in program(*RUN, "--dry-run")[1]
    assert program("sample", "toy", "why?", "--reward", "none", "--dry-run")[:2][0] == 0
    code, out, _ = program(
        *("eval", "toy", "--task", "word-problems", "--problems", "3", "--seeds", "2", "--reward", "none", "--dry-run")
    )
    assert (code, "3 prompts, 2 seeds; nothing is drawn" in out, "compared with" in out) == (0, True, True)


def test_what_to_expect_is_said_after_the_first_prompts(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "_SHORT", 0.0)
    err = program(*RUN)[2]
    assert len(re.findall(r"expected: about \d+ tokens and 0:0\d more for 9 prompts, by the first 3", err)) == 1
    assert program(*RUN[:-1], "b.jsonl", "--json")[2] == ""
    assert program(*RUN[:-1], "c.jsonl", "--quiet")[2] == ""


def test_expectations_are_by_the_mean() -> None:
    assert forecast.expected(3, 57, 300, 30.0, "prompt") == (
        "expected: about 5,700 tokens and 9:30 more for 57 prompts, by the first 3"
    )
    assert forecast.expected(4, 1, 100, 4.0, "problem") == "expected: about 25 tokens and 0:01 more for 1 problem, by the first 4"


def test_the_bar_of_a_resumed_run_starts_where_the_run_does(program: Program) -> None:
    """It started at 0, until the first new prompt was done."""
    program(*RUN)
    Path("prompts.txt").write_text("".join(f"prompt {number}\n" for number in range(5, 30)))
    prompts = Path("prompts.txt").read_text().splitlines()
    assert forecast.kept_in("a.jsonl", prompts) == 7
    assert forecast.kept_in("none.jsonl", prompts) == 0
    console = Console(force_terminal=True, width=100, record=True)
    with progress_bar(console, 25, done=forecast.kept_in("a.jsonl", prompts)):
        pass
    shown = console.export_text()
    assert ("7/25" in shown, "starting" in shown) == (True, True)
    with progress_bar(console, 25, done=25):
        pass
    assert "25/25 all of them in earlier runs" in console.export_text()


def test_failures_that_are_tried_again_are_not_done(program: Program) -> None:
    Path("moody.py").write_text("def rated(prompt, text):\n    return 1 / (not prompt.endswith('3'))\n")
    program(*RUN[:4], "moody.py:rated", *RUN[5:])
    prompts = Path("prompts.txt").read_text().splitlines()
    assert (forecast.kept_in("a.jsonl", prompts), forecast.kept_in("a.jsonl", prompts, retry=True)) == (12, 11)


def test_several_responses(program: Program) -> None:
    words = ("sample", "toy", "why?", "--reward", "heads.py:heads", "--beta", "1", "--select", "best", "--show", "4")
    code, out, _ = program(*words)
    heads = re.findall(r"^\[([\d.]+)% · reward ([\d.]+)\]$", out, re.MULTILINE)
    assert (code, len(heads)) == (0, 4)
    assert float(heads[0][1]) == max(float(reward) for _, reward in heads)  # the chosen one is first
    assert [float(share) for share, _ in heads[1:]] == sorted((float(share) for share, _ in heads[1:]), reverse=True)
    row = json.loads(program(*words, "--json")[1])
    assert [f"{each['share']:.1%}" for each in row["responses"]] == [f"{share}%" for share, _ in heads]
    assert len({each["text"] for each in row["responses"]}) == 4
    assert row["responses"][0]["text"] == row["text"]


def test_quiet_and_verbose(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--allocate", "log_z", "--total-tokens", "900", "--sampler", "independent", "--n", "3", "--out", "b.jsonl")
    run = [*RUN[:-2], *words]
    assert "round 0: 12 parts" in program(*run, "-v")[2]
    Path("b.jsonl").unlink()
    Path("b.parts.jsonl").unlink()
    assert "round" not in program(*run)[2]
    code, out, err = program("sample", "toy", "why?", "--reward", "heads.py:heads", "--beta", "1", "-q")
    assert (code, err, out.count("\n")) == (0, "", 1)
    code, _, err = program("-q", "sample", "toy", "", "--reward", "none")
    assert (code, "the prompt '' is empty" in err) == (2, True)  # errors are told all the same


def test_the_program_alone_says_what_it_is_for(program: Program) -> None:
    code, out, err = program()
    assert (code, out) == (2, "")
    assert 'exptilt sample tiny "' in err
    assert "run         answer a file of prompts, with resume" in err
