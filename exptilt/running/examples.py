"""Examples read from a file or from standard input, in the usual formats.

JSON lines, each an object, a list of messages or a string; a JSON array of the same; CSV with a header; Parquet; or text, one
prompt per line. A byte order mark and Windows line ends are not part of a prompt, empty lines count for nothing, and gzip is
unpacked. The suffix tells what a file is (.jsonl, .ndjson, .json, .csv, .tsv, .parquet, or anything else); where it says
nothing, the content does, so that lines of JSON are never taken for prompts.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exptilt.draft import Chat, Prompt, as_prompt
from exptilt.errors import PromptError, UsageError
from exptilt.running.example import PROMPT_KEYS, Example, as_example

STDIN = "-"
_JSON = (".jsonl", ".ndjson", ".json")
_CSV = {".csv": ",", ".tsv": "\t"}
_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"
_OTHER = {
    b"PK\x03\x04": "a zip or Excel file",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_LONGEST = 2**31 - 1  # characters of a field of CSV; Python's own limit is 131,072
_SHAPE = 'give {"prompt": "..."}, {"messages": [...]} or a JSON string'


def read_examples(source: str | Path, prompt_key: str | None = None, id_key: str | None = None) -> list[Example]:
    """The examples of a file, or of standard input for "-"; at least one. Raises UsageError, with the number of a bad line.

    prompt_key, id_key: the names of the prompt and of the id in rows of several values, as in `as_example`.
    """
    content, name, suffix = _unpacked(source)
    if suffix == ".parquet" and not content.startswith(_PARQUET):
        raise UsageError(f"{name} is not a Parquet file, as its name says: it may be cut off, or give it the name of what it is")
    rows = _parquet(content, name) if content.startswith(_PARQUET) else _rows(_decoded(content, name), name, suffix, prompt_key)
    found = [_example(row, where, prompt_key, id_key) for where, row in rows]
    if not found:
        raise UsageError(f"{name} holds no prompts: give one per line")
    return found


def read_prompts(source: str | Path) -> list[Prompt]:
    """The prompts alone."""
    return [example.prompt for example in read_examples(source)]


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
    return _decoded(_bytes(source), _named(source))


def _bytes(source: str | Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(source) == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"{_named(source)} cannot be read: {error.strerror}. Give the path of a text file.") from error


def _unpacked(source: str | Path) -> tuple[bytes, str, str]:
    """The content of a file, its name for messages, and the suffix that tells its format."""
    content, name, path = _bytes(source), _named(source), Path(source)
    if not content.startswith(_GZIP):
        return content, name, path.suffix.lower()
    try:
        return gzip.decompress(content), name, Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else ""
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{name} was compressed by gzip and cannot be unpacked ({error}): it may be cut off") from error


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = next((kind for start, kind in _OTHER.items() if content.startswith(start)), None)
        seems = error.reason if kind is None else f"it seems to be {kind}"
        cure = "save it as CSV" if kind is not None and "Excel" in kind else "save it as UTF-8"
        raise UsageError(f"{name} is not UTF-8 text ({seems}): {cure}") from error


def _named(source: str | Path) -> str:
    return "standard input" if str(source) == STDIN else str(source)


def _example(row: Any, where: str, prompt_key: str | None, id_key: str | None) -> Example:
    """An example of one value, and what is wrong with it in the words of a file."""
    try:
        if isinstance(row, dict) and (prompt_key is not None or any(key in row for key in PROMPT_KEYS)):
            return as_example(row, prompt_key, id_key)
        if isinstance(row, str) or _is_chat(row):
            return Example(as_prompt(row))
    except PromptError as error:
        said = str(error).replace("prompt_key", "--prompt-key").replace("id_key", "--id-key")
        raise UsageError(f"{where}: {said}") from error
    if not (isinstance(row, dict) and row):
        raise UsageError(f"{where} has no prompt: {_SHAPE}")
    first = next(iter(row))
    raise UsageError(
        f"{where} has no prompt (its keys are {', '.join(row)}): {_SHAPE}, or name the prompt's, as in --prompt-key {first}"
    )


# ------------------------------------------------------------------------------------------------------------- formats


def _rows(text: str, name: str, suffix: str, prompt_key: str | None) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and its value."""
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    form = _form(text, lines, suffix, prompt_key)
    if form == "text":
        if prompt_key is not None:
            raise UsageError(f"{name} is text with one prompt per line, which has no {prompt_key!r}: leave out --prompt-key")
        yield from ((f"line {number} of {name}", line) for number, line in lines)
    elif form == "csv":
        yield from _csv(text, name, _CSV.get(suffix, ","))
    elif form == "array":
        rows = _json(text, name, "give a JSON array, or one JSON value per line")
        several = isinstance(rows, list) and not _is_chat(rows)
        yield from ((f"entry {number} of {name}", row) for number, row in enumerate(rows if several else [rows], 1))
    else:
        for number, line in lines:
            where = f"line {number} of {name}"
            yield where, _json(line, where, f"{_SHAPE}, or a .txt file")


def _form(text: str, lines: list[tuple[int, str]], suffix: str, prompt_key: str | None) -> str:
    """ "array", "lines" of JSON, "csv" or "text". Outside of their own suffixes, only what is surely JSON or CSV counts as it."""
    first = lines[0][1] if lines else ""
    if suffix in _CSV:
        return "csv"
    if suffix in _JSON:
        is_array = first.startswith("[") and (suffix == ".json" or len(lines) == 1 or _parsed(first) is None)
        is_one = suffix == ".json" and first == "{" and isinstance(_parsed(text), dict)  # an object over several lines
        return "array" if is_array or is_one else "lines"
    if isinstance(_parsed(first), dict):
        return "lines"
    if first.startswith("[") and isinstance(array := _parsed(text), list) and all(isinstance(row, dict | str) for row in array):
        return "array"
    header = [cell.strip().strip('"') for cell in first.split(",")]
    if suffix != ".txt" and len(header) > 1 and set(header) & set(PROMPT_KEYS if prompt_key is None else (prompt_key,)):
        return "csv"
    return "lines" if suffix != ".txt" and first.startswith('{"') else "text"


def _csv(text: str, name: str, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table with a header; commas where there are none, semicolons."""
    head = text.lstrip().partition("\n")[0]
    if delimiter == "," and "," not in head and ";" in head:
        delimiter = ";"
    before = csv.field_size_limit(_LONGEST)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header: list[str] = []
        for row in reader:
            where = f"line {reader.line_num} of {name}"
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = _header(row, where)
            elif len(row) != len(header):
                raise UsageError(f"{where} has {len(row)} values and the header {len(header)}: quote values with commas in them")
            else:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num} of {name} is not CSV ({error})") from error
    finally:
        csv.field_size_limit(before)


def _header(row: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in row]
    if "" in names or len(set(names)) < len(names):
        raise UsageError(f"{where}, the header, has the names {', '.join(map(repr, names))}: give each column a name of its own")
    return names


def _parquet(content: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise UsageError(
            f"{name} is a Parquet file, which takes pyarrow: pip install pyarrow, or save it as JSON lines"
        ) from error
    try:
        table = read_table(io.BytesIO(content))
    except (ArrowException, OSError) as error:
        raise UsageError(f"{name} cannot be read as Parquet: {error}") from error
    yield from ((f"row {number} of {name}", row) for number, row in enumerate(table.to_pylist(), 1))


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
