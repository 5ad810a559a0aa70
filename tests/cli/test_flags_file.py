"""Flags in a file: what `--save-config` writes, `--config` reads back, for every argument of every command."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import pytest

from exptilt.cli import COMMANDS, arguments, parse
from exptilt.cli.flags_file import Flags, given_words, name_of
from exptilt.names import SAMPLERS
from tests.cli.conftest import Program

ODD = 'a "quoted" word, ü ⟨β⟩ \\n \t and\nlines 007'
WORDS = {
    "N": "3", "X": "0.25", "N|TEXT": "7", "X,X,..": "1,0.5", "N,N,N": "5e8,0,1e9", "ID": "198",
    "JSON": '{"a": [1, true]}', "NAME=VALUE": "rows_memory=8000000000", "TEXT": ODD,
}  # fmt: skip
KEPT = [name for name in COMMANDS if name not in ("serve", "completion")]


def arguments_of(command: str, *words: str) -> argparse.ArgumentParser:
    _, parsers = arguments.program(COMMANDS)
    arguments.fill(parsers[command], COMMANDS[command], [command, *words])
    return parsers[command]


def whole_line(command: str, *words: str) -> list[str]:
    """A command line that gives every argument the command has."""
    line, places = [command, *words], list[str]()
    for action in arguments_of(command, *words)._actions:
        name, metavar = name_of(action), str(action.metavar or "FILE")
        if name in ("help", "config", "save-config", "sampler", "inner", "dry-run", "debug", "verbose", "quiet"):
            continue
        text = metavar.strip("{}").split(",")[0] if metavar.startswith("{") else WORDS.get(metavar, f"{name} of {ODD}")
        if not action.option_strings:
            places += [text, "another"] if action.nargs == "+" else [text]
        elif isinstance(action, argparse.BooleanOptionalAction):
            line.append(f"--no-{name}")
        elif action.nargs == 0:
            line.append(f"--{name}")
        else:
            line += [f"--{name}={text}"] * (2 if isinstance(action, argparse._AppendAction) else 1)
    return [*line, *places]


def values(args: argparse.Namespace) -> dict[str, Any]:
    found = {name: value for name, value in vars(args).items() if name not in ("config", "save_config", "chosen")}
    return found | {"chosen": getattr(args, "chosen", None) and args.chosen.name}


@pytest.mark.parametrize("command", KEPT)
def test_every_argument_comes_back(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exptilt.samplers.command.find_object", lambda text: len)  # for settings that are somebody's function
    samplers = [("--sampler", name) for name in SAMPLERS.names] if command in ("sample", "run", "eval") else [()]
    for words in samplers:
        line, path = whole_line(command, *words), str(tmp_path / "a.toml")
        given = parse([*line, "--save-config", path])
        assert values(parse([command, "--config", path])) == values(given)
        keys = {*tomllib.loads(Path(path).read_text())}
        shown = [action for action in arguments_of(command, *words)._actions if action.help is not argparse.SUPPRESS]
        left = {name_of(action) for action in shown} - keys
        assert left <= {"help", "config", "save-config", "inner", "dry-run", "debug", "verbose", "quiet", "sampler"}


def test_a_file_is_written_as_a_person_would(program: Program) -> None:
    words = ("--reward", "heads.py:heads", "--beta", "0.5", "--top-k", "3", "--sampler", "smc", "--particles", "4")
    code, out, _ = program("sample", "toy", "why?", *words, "--save-config", "a.toml", "--stop", "x", "--stop", "y")
    assert code == 0
    assert Path("a.toml").read_text() == (
        '# exptilt sample\nmodel = "toy"\nprompt = "why?"\nreward = "heads.py:heads"\nbeta = 0.5\ntop-k = 3\nsampler = "smc"\n'
        'particles = 4\nstop = ["x", "y"]\n'
    )
    assert program("sample", "--config", "a.toml")[:2] == (0, out)


def test_the_line_takes_precedence(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'model = "toy"\nprompts = "a.txt"\nout = "a.jsonl"\nreward = "none"\nbeta = 2\nstop = ["a", "b"]\nretry = true\n'
    )
    line = ["run", "--config", str(path)]
    args = parse(line)
    assert (args.model, args.prompts, args.beta, args.stop, args.retry) == ("toy", "a.txt", 2.0, ["a", "b"], True)
    args = parse([*line, "other", "--beta", "3", "--stop", "c"])
    assert (args.model, args.prompts, args.beta, args.stop) == ("other", "a.txt", 3.0, ["c"])
    args = parse([*line, "--seed", "5", "other", "b.txt"])
    assert (args.model, args.prompts, args.seed) == ("other", "b.txt", 5)


def test_a_file_may_name_the_sampler_and_the_line_another(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('sampler = "smc"\nparticles = 5\n')
    line = ["sample", "toy", "why?", "--reward", "none", "--config", str(path)]
    assert vars(parse(line))["sampler.particles"] == 5
    with pytest.raises(Exception, match="'particles', which is no argument of exptilt sample"):
        parse([*line, "--sampler", "mcmc"])


def test_keys_may_have_underscores_and_lists_for_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("max_tokens = 7\nstep_weights = [1, 0.5]\ntemplate-kwargs = {thinking = false}\n")
    args = parse(["sample", "toy", "why?", "--reward", "none", "--config", str(path)])
    assert (args.max_tokens, vars(args)["sampler.step_weights"], args.template_kwargs) == (7, (1.0, 0.5), {"thinking": False})


def test_another_file_is_not_written_over(program: Program) -> None:
    Path("mine.toml").write_text("a = 1\n")
    words = ("sample", "toy", "why?", "--reward", "heads.py:heads", "--beta", "1", "--save-config", "mine.toml")
    code, out, err = program(*words)
    assert (code, out) == (2, "")
    assert "mine.toml was not written by --save-config, and was not touched" in err
    assert Path("mine.toml").read_text() == "a = 1\n"


def test_nothing_but_the_given_words_is_kept() -> None:
    parser, parsers = arguments.program(COMMANDS)
    arguments.fill(parsers["sample"], COMMANDS["sample"], [])
    assert given_words(parsers["sample"], parser, ["sample", "toy", "--seed", "007", "why?"]) == {
        "model": "toy",
        "prompt": "why?",
        "seed": "007",
    }
    assert Flags().early == []
