"""Completion: what the program says may follow, and the script as bash runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exptilt.cli import COMMANDS
from exptilt.cli.completion import SCRIPTS, candidates
from tests.cli.conftest import Program

ROOT = Path(__file__).resolve().parents[2]


def after(line: str) -> list[str]:
    """What may stand where the line ends, a space at its end beginning a new word."""
    return [*candidates(line.split(" "), COMMANDS)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sa", ["sample"]),
        ("--v", ["--version"]),
        ("run tiny a.txt --bet", ["--beta"]),
        ("run tiny a.txt --sampler smc --part", ["--particles"]),
        ("run tiny a.txt --sampler ets --part", []),
        ("run tiny a.txt --sampler sm", ["smc"]),
        ("run tiny a.txt --sampler=sm", ["--sampler=smc"]),
        ("sample tiny --reward arith", ["arithmetic"]),
        ("sample tiny --returns ", ["rollouts", "chain"]),
        ("sample tiny --select vote", ["vote", "vote-draws"]),
        ("eval tiny --task word", ["word-problems"]),
        ("sample tiny --dtype b", ["bfloat16"]),
        ("sample tiny --beta ", []),  # free text
        ("run tiny ", []),  # a file
        ("sample tiny --sampler nobody --", []),  # a mistake, which the command tells
        ("completion z", ["zsh"]),
        ("report --refe", ["--reference-key", "--references"]),
    ],
)
def test_what_may_follow(line: str, found: list[str]) -> None:
    assert after(line) == found


def test_every_command_has_its_flags() -> None:
    assert after("") == [*COMMANDS, "--help", "--version"]
    for command in COMMANDS:
        assert {"--help", "--debug", "--quiet"} <= {*after(f"{command} --")}


def test_the_script_works_in_bash(tmp_path: Path) -> None:
    """Bash itself, with the words of a line as it hands them to a completion."""
    (tmp_path / "exptilt").write_text(f'#!/bin/sh\nexec {sys.executable} -m exptilt "$@"\n')
    (tmp_path / "exptilt").chmod(0o755)
    ask = (
        'eval "$(exptilt completion bash)"; complete -p exptilt; COMP_WORDS=(exptilt run tiny a.txt --sampler smc --par); '
        'COMP_CWORD=6; _exptilt; echo "${COMPREPLY[@]}"; COMP_WORDS=(exptilt sample tiny --sampler ""); COMP_CWORD=4; _exptilt; '
        'echo "${COMPREPLY[@]}"'
    )
    there = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    said = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, env=there, check=True)
    registered, flags, samplers = said.stdout.splitlines()
    assert registered == "complete -o default -F _exptilt exptilt"
    assert flags == "--particles"
    assert {"ets", "smc", "qalign"} <= {*samplers.split()}
    assert said.stderr == ""


@pytest.mark.parametrize(
    ("shell", "ask"),
    [
        ("fish", 'exptilt completion fish | source; complete -C "exptilt run tiny a.txt --sampler smc --par"'),
        (
            "zsh",
            'compdef() { }; compadd() { shift; print -l -- $@ }; eval "$(exptilt completion zsh)"; '
            "words=(exptilt run tiny a.txt --sampler smc --par); CURRENT=7; _exptilt",
        ),
    ],
)
def test_the_scripts_work_in_other_shells(shell: str, ask: str, tmp_path: Path) -> None:
    """zsh has its completion functions outside of its line editor replaced by ones that print."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (tmp_path / "exptilt").write_text(f'#!/bin/sh\nexec {sys.executable} -m exptilt "$@"\n')
    (tmp_path / "exptilt").chmod(0o755)
    there = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    said = subprocess.run([shell, "-c", ask], capture_output=True, text=True, env=there)
    assert (said.stdout.split(), said.stderr) == (["--particles"], "")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_are_printed(shell: str, program: Program) -> None:
    assert program("completion", shell) == (0, SCRIPTS[shell] + "\n", "")
