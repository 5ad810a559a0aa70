"""Flags in a file: `--config FILE` reads the values of a command's arguments from TOML, `--save-config FILE` writes them.

    # exptilt run
    model = "tiny"
    prompts = "questions.jsonl"
    reward = "arithmetic"
    beta = 0.1
    sampler = "smc"
    particles = 32

Each key is a flag without its dashes, or an argument by its name. A value is read as the word on the command line would be, so it
is checked in the same way. What the command line gives takes precedence over the file.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exptilt.errors import UsageError, did_you_mean

_MARK = "# exptilt "
_NOT_KEPT = {"help", "config", "save_config", "dry_run", "debug", "verbose", "quiet"}


@dataclass(frozen=True)
class Flags:
    """The values of a file; none without a file."""

    path: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str | None) -> Flags:
        return cls() if path is None else cls(path, read_flags(path))

    @property
    def early(self) -> list[str]:
        """The words that decide which flags there are."""
        found = [(name, self.values[name]) for name in ("sampler", "inner") if isinstance(self.values.get(name), str)]
        return [word for name, value in found for word in (f"--{name}", value)]


def add_file_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--config", metavar="FILE", help="take arguments from this TOML file; those on the command line take precedence"
    )
    group.add_argument("--save-config", metavar="FILE", help="write the arguments of this command to a TOML file for --config")


def file_of(argv: Sequence[str]) -> str | None:
    """The file that the command line names, but for `serve`, whose --config is its own."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config")
    try:
        known, _ = first.parse_known_args([*argv])
    except argparse.ArgumentError:  # the whole parser gives a better message
        return None
    return None if "serve" in argv[:1] else known.config


def read_flags(path: str) -> dict[str, Any]:
    """The keys of a file, with dashes, and their values. Raises UsageError for a file that cannot be read."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"the file {path} cannot be read: {error.strerror}. Give another one with --config.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f'{path} is not TOML: {error}. Write lines such as beta = 0.1 and reward = "arithmetic".') from error
    return {name.replace("_", "-"): value for name, value in values.items()}


# ------------------------------------------------------------------------------------------------------------- reading


def parse_with(
    flags: Flags, whole: argparse.ArgumentParser, parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line with the values of a file as its defaults. whole: the program's parser, parser: the command's."""
    known = {name_of(action): action for action in parser._actions if _is_kept(action)}
    for name, value in flags.values.items():
        if name not in known:
            near = did_you_mean(name, known)
            raise UsageError(f"{flags.path} has {name!r}, which is no argument of {parser.prog}.{near} See {parser.prog} --help.")
        _preset(known[name], _read(known[name], value, f"{flags.path}: {name}"))
    positionals = [action for action in parser._actions if not action.option_strings]
    lists = {action.dest: action.default for action in parser._actions if isinstance(action, argparse._AppendAction)}
    parser.set_defaults(**dict.fromkeys(lists))  # what the line gives replaces those of the file
    for action in positionals:
        parser._actions.remove(action)
    args, words = whole.parse_known_args(argv)
    for name, value in lists.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    texts = _texts(words)
    rest = [word for word in words if word not in texts]
    return args, rest + _place(args, positionals, texts, parser)


def _texts(words: Sequence[str]) -> list[str]:
    """Those of the words that no parser knew that are no flags."""
    return [word for word in words if word == "-" or not word.startswith("-")]


def _place(
    args: argparse.Namespace, positionals: Sequence[argparse.Action], words: list[str], parser: argparse.ArgumentParser
) -> list[str]:
    """Give the arguments without a flag the words of the line in their order, and the rest their values of the file; the words
    left over."""
    for action in positionals:
        many = action.nargs in ("+", "*")
        value = action.default if not words else words if many else words[0]
        words = [] if many else words[1:]
        if not value and action.nargs not in ("?", "*"):
            parser.error(f"the following arguments are required: {action.metavar}")
        setattr(args, action.dest, value)
    return words


def _is_kept(action: argparse.Action) -> bool:
    """Whether a file has it: not where it is another spelling of a flag, which is hidden."""
    return action.dest not in _NOT_KEPT and action.help is not argparse.SUPPRESS


def name_of(action: argparse.Action) -> str:
    """The key of an argument: its long flag without dashes, or its name."""
    flag = max(action.option_strings, key=len, default=action.dest) if action.option_strings else action.dest
    return (
        (action.option_strings[0] if isinstance(action, argparse.BooleanOptionalAction) else flag).lstrip("-").replace("_", "-")
    )


def _preset(action: argparse.Action, value: Any) -> None:
    action.default, action.required = value, False


def _read(action: argparse.Action, value: Any, where: str) -> Any:
    """The value of an argument, checked as the command line checks it."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{where} = {value!r} is neither true nor false: correct the file.")
        return value
    several = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")
    if several:
        return [_typed(action, each, where) for each in (value if isinstance(value, list) else [value])]
    return _typed(action, value, where)


def _typed(action: argparse.Action, value: Any, where: str) -> Any:
    text = _text(value, where)
    try:
        return action.type(text) if callable(action.type) else text
    except (argparse.ArgumentTypeError, UsageError) as error:
        raise UsageError(f"{where}: {error}. Correct the file.") from None


def _text(value: Any, where: str) -> str:
    """A value as the word that the command line would have."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text(each, where) for each in value)
    if isinstance(value, dict):
        return json.dumps(value)
    if not isinstance(value, str | int | float):
        raise UsageError(f"{where} = {value} is of a type that no argument has: write it in quotes.")
    return str(value)


# ------------------------------------------------------------------------------------------------------------- writing


def given_words(parser: argparse.ArgumentParser, whole: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The words of the command line by their keys, as they were written and without defaults. It changes the parser."""
    keys = {}
    for action in parser._actions:
        if _is_kept(action):
            keys[action.dest] = name_of(action)
        action.type, action.default, action.required = None, argparse.SUPPRESS, False
    positionals = [action for action in parser._actions if not action.option_strings]
    for action in positionals:
        parser._actions.remove(action)
    parser._defaults.clear()
    args, words = whole.parse_known_args(argv)
    texts, found = _texts(words), dict[str, Any]()
    for action in positionals:
        if texts:
            many = action.nargs in ("+", "*")
            found[action.dest] = texts if many else texts[0]
            texts = [] if many else texts[1:]
    return {keys[dest]: value for dest, value in {**found, **vars(args)}.items() if dest in keys}


def write_flags(path: str, command: str, values: Mapping[str, Any]) -> None:
    """Write a file that `--config` reads. Raises UsageError where another file would be lost, or nothing can be written."""
    lines = [f"{_MARK}{command}", *(f"{name} = {_toml(value)}" for name, value in values.items())]
    try:
        if Path(path).exists() and not Path(path).read_text(encoding="utf-8", errors="replace").startswith(_MARK):
            raise UsageError(f"{path} was not written by --save-config, and was not touched: choose another path.")
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the file {path} cannot be written: {error.strerror}. Choose another path.") from error


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    text = str(value)
    for kind in (int, float):  # a number where that is the same word again
        try:
            if str(number := kind(text)) == text and number == number and abs(number) != float("inf"):
                return text
        except (ValueError, OverflowError):
            continue
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
