"""Prompts read from a file or from standard input, in the usual formats.

JSON lines, each {"prompt": ...}, {"messages": [...]} or a string; a JSON array of the same; or text, one prompt per line.
A byte order mark and Windows line ends are not part of a prompt, and empty lines count for nothing. The suffix tells what
a file is (.jsonl, .ndjson and .json, or anything else); where it says nothing, the start of the text does, so that
lines of JSON are never taken for prompts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exptilt.draft import Chat, Prompt, as_prompt
from exptilt.errors import PromptError, UsageError

STDIN = "-"
_JSON = (".jsonl", ".ndjson", ".json")
_SHAPE = 'give {"prompt": "..."}, {"messages": [...]} or a JSON string'


def read_prompts(source: str | Path) -> list[Prompt]:
    """The prompts of a file, or of standard input for "-"; at least one. Raises UsageError, with the number of a bad line."""
    text, name = read_text(source), _named(source)
    found = list(_prompts(text, name, suffix=Path(source).suffix.lower()))
    if not found:
        raise UsageError(f"{name} holds no prompts: give one per line")
    return found


def read_chat(source: str | Path) -> Chat:
    """The one conversation of a JSON file: a list of messages, or {"messages": [...]}."""
    text, name = read_text(source), _named(source)
    value = _json(text, name, "give a JSON list of messages")
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise UsageError(f'{name} holds no list of messages: give [{{"role": "user", "content": "..."}}]')
    try:
        return Chat.of(messages)
    except PromptError as error:
        raise UsageError(f"{name}: {error}") from error


def read_text(source: str | Path) -> str:
    """The text of a file in UTF-8, or of standard input for "-", without a byte order mark."""
    try:
        content = sys.stdin.buffer.read() if str(source) == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"{_named(source)} cannot be read: {error.strerror}. Give the path of a text file.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        seems = "it seems to be UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else error.reason
        raise UsageError(f"{_named(source)} is not UTF-8 text ({seems}): save it as UTF-8") from error


def _named(source: str | Path) -> str:
    return "standard input" if str(source) == STDIN else str(source)


def _prompts(text: str, name: str, suffix: str) -> Iterator[Prompt]:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    form = _form(text, lines, suffix)
    if form == "text":
        yield from (line for _, line in lines)
    elif form == "array":
        rows = _json(text, name, "give a JSON array, or one JSON value per line")
        for number, row in enumerate([rows] if _is_chat(rows) else rows, 1):
            yield _prompt(row, f"entry {number} of {name}")
    else:
        for number, line in lines:
            where = f"line {number} of {name}"
            yield _prompt(_json(line, where, f"{_SHAPE}, or a .txt file"), where)


def _form(text: str, lines: list[tuple[int, str]], suffix: str) -> str:
    """ "array", "lines" of JSON, or "text". Outside of JSON's own suffixes, only what is surely JSON counts as it."""
    first = lines[0][1] if lines else ""
    if suffix in _JSON:
        is_array = first.startswith("[") and (suffix == ".json" or len(lines) == 1 or _parsed(first) is None)
        return "array" if is_array else "lines"
    if isinstance(_parsed(first), dict):
        return "lines"
    if first.startswith("[") and isinstance(array := _parsed(text), list) and all(isinstance(row, dict | str) for row in array):
        return "array"
    return "lines" if suffix != ".txt" and first.startswith('{"') else "text"


def _is_chat(value: Any) -> bool:
    """Whether it is a list of messages, and not of prompts."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and "role" in turn for turn in value)


def _parsed(text: str) -> Any:
    """The value of a JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json(text: str, where: str, cure: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON ({error}): {cure}") from error


def _prompt(row: Any, where: str) -> Prompt:
    """The prompt of one JSON value."""
    given = row.get("prompt", row.get("messages")) if isinstance(row, dict) else row
    if isinstance(given, str) or _is_chat(given):
        try:
            return as_prompt(given)
        except PromptError as error:
            raise UsageError(f"{where}: {error}") from error
    keys = f" (its keys are {', '.join(row)})" if isinstance(row, dict) and row else ""
    raise UsageError(f"{where} has no prompt{keys}: {_SHAPE}")
