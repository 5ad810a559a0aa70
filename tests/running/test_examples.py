"""Files of prompts as people have them: formats, encodings, and what is refused with the number of the line."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exptilt.draft import Chat, Prompt
from exptilt.errors import UsageError
from exptilt.running.example import Example
from exptilt.running.examples import read_chat, read_examples, read_prompts

A, B = "What is 2 + 2?", "What is 3 + 4?"
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": A}]
ROW, CHAT = json.dumps({"prompt": A, "id": 7}), json.dumps({"messages": TURNS})
BOM = "\ufeff"


def read(path: Path, content: str | bytes) -> list[Prompt]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_prompts(path)


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("a.jsonl", f'{ROW}\n"{B}"\n', [A, B]),
        ("a.jsonl", f"{BOM}{ROW}\n", [A]),
        ("a.jsonl", f'{ROW}\r\n\r\n   \r\n"{B}"', [A, B]),
        ("a.ndjson", f'"{B}"\n{CHAT}\n', [B, Chat.of(TURNS)]),
        ("a.jsonl", json.dumps({"prompt": TURNS}), [Chat.of(TURNS)]),
        ("a.jsonl", json.dumps(TURNS), [Chat.of(TURNS)]),  # a line that is a conversation
        ("a.jsonl", f'[{ROW},\n "{B}"]', [A, B]),  # an array under another suffix
        ("a.json", f'[{ROW}, "{B}", {CHAT}]', [A, B, Chat.of(TURNS)]),
        ("a.json", json.dumps([{"prompt": A}, {"prompt": B}], indent=2), [A, B]),
        ("a.json", f'{ROW}\n"{B}"\n', [A, B]),
        ("a.json", json.dumps(TURNS, indent=1), [Chat.of(TURNS)]),
        ("a.jsonl", f'["{A}", "{B}"]', [A, B]),
        ("a.json", f'["{A}"]', [A]),
        ("a.txt", f"{A}\n\n{B}\n", [A, B]),
        ("a.txt", f"{BOM}{A}\r\n", [A]),
        ("a.txt", "[INST] tell me [/INST]\n", ["[INST] tell me [/INST]"]),
        ("a.txt", '{"name": unquoted} is what?\n', ['{"name": unquoted} is what?']),
        ("a.txt", "[1, 2, 3] sums to what?\n[4]\n", ["[1, 2, 3] sums to what?", "[4]"]),
        ("a.txt", "3\n4\n", ["3", "4"]),
        ("a.txt", '"Be quick"\n', ['"Be quick"']),
        ("a.txt", f"{ROW}\n{json.dumps({'prompt': B})}\n", [A, B]),  # JSON is never a prompt
        ("prompts", f"{A}\n{B}", [A, B]),
        ("prompts", f"\n{ROW}\n{CHAT}", [A, Chat.of(TURNS)]),
        ("prompts", f"[{ROW}]", [A]),
        ("a.md", "What is\u20282 + 2?\x85 Tell.\n", ["What is\u20282 + 2?\x85 Tell."]),
        ("a.jsonl", json.dumps("What is\u20282?\x85 Tell.", ensure_ascii=False), ["What is\u20282?\x85 Tell."]),
    ],
)
def test_prompts_are_read(name: str, content: str, prompts: list[Prompt], tmp_path: Path) -> None:
    assert read(tmp_path / name, content) == prompts


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", "", "holds no prompts: give one per line"),
        ("a.jsonl", f"{BOM}\r\n \r\n", "holds no prompts"),
        ("a.json", "[]", "holds no prompts"),
        ("a.jsonl", f"{ROW}\n{{", r"line 2 of .*a\.jsonl is not JSON \(.*\): give .*, or a \.txt file"),
        ("a.jsonl", f"{ROW}\n\n3", r"line 3 of .* has no prompt: give {\"prompt\""),
        ("a.jsonl", '{"question": "?", "answer": "4"}', r"line 1 of .* has no prompt \(its keys are question, answer\)"),
        ("a.jsonl", '{"prompt": null}', "line 1 of .* the prompt None of a row is not a string"),
        ("a.jsonl", '{"prompt": ["one", "two"]}', "line 1 of .* is not a string or a list of messages"),
        ("a.jsonl", '{"messages": []}', "line 1 of .* is not a string or a list of messages"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "line 1 of .*: message 1 of the chat has the content None"),
        ("a.json", "[3]", r"entry 1 of .*a\.json has no prompt"),
        ("a.json", '["one", {"id": 3}]', "entry 2 of .* has no prompt"),
        ("a.json", '["one", ', "is not JSON"),
        ("prompts", f"{ROW}\nplain", "line 2 of .* is not JSON"),
        ("prompts", '{"prompt": "torn\n', "line 1 of .* is not JSON"),
        ("a.jsonl", "[" * 100_000, "is not JSON"),
        ("a.txt", "Was kostet ein Brötchen?".encode("latin-1"), "is not UTF-8 text"),
        ("a.jsonl", ROW.encode("utf-16"), r"is not UTF-8 text \(it seems to be UTF-16\): save it as UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, content: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read(tmp_path / name, content)


ASKED = [{"prompt": A, "answer": "4"}, {"prompt": f'{B} Say, "please".\nNow', "answer": "7"}]
TABLE = f'prompt,answer\r\n{A},4\r\n"{B} Say, ""please"".\nNow",7\r\n'


def parquet(rows: list[dict[str, Any]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", TABLE),
        ("a.csv", f"{BOM}{TABLE}\r\n"),
        ("a.csv", TABLE.replace(",", ";").replace("Say;", "Say,")),  # as spreadsheets write it where the comma is a decimal point
        ("a.tsv", TABLE.replace(",", "\t").replace("Say\t", "Say,")),
        ("a", TABLE),
        ("a.jsonl", "\n".join(map(json.dumps, ASKED))),
        ("a.jsonl.gz", gzip.compress("\n".join(map(json.dumps, ASKED)).encode(), mtime=0)),
        ("a.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
        ("a.parquet", "parquet"),
        ("a", "parquet"),
    ],
)
def test_rows_are_read_with_their_columns(
    name: str, content: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CSV was read as text, its header and its answers as parts of prompts."""
    raw = parquet(ASKED) if content == "parquet" else content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(raw)
    expected = [Example(row["prompt"], columns={"answer": row["answer"]}) for row in ASKED]
    assert read_examples(tmp_path / name) == expected
    if "." not in name or name.endswith(".jsonl"):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
        assert read_examples("-") == expected


def test_values_of_parquet_keep_their_types(tmp_path: Path) -> None:
    rows = [{"messages": TURNS, "id": 3, "score": 0.5, "tags": ["a", None]}]
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    assert read_examples(tmp_path / "a.parquet") == [Example(Chat.of(TURNS), 3, {"score": 0.5, "tags": ["a", None]})]


def test_a_prompt_or_an_id_of_another_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("number,question,answer\n1,What is 2 + 2?,4\n")
    expected = [Example(A, "1", {"answer": "4"})]
    assert read_examples(path, "question", "number") == expected
    bare = tmp_path / "bare"
    bare.write_text(path.read_text())
    assert read_examples(bare, "question", "number") == expected
    with pytest.raises(
        UsageError, match=r"line 2 of .*a\.csv has no prompt .*number, question, answer.* as in --prompt-key number"
    ):
        read_examples(path)
    with pytest.raises(UsageError, match=r"line 2 of .* a row has no 'wrong' .*name the prompt's by --prompt-key"):
        read_examples(path, "wrong")
    with pytest.raises(UsageError, match=r"a row has no 'wrong' .*name the id's by --id-key"):
        read_examples(path, "question", "wrong")


def test_an_object_over_several_lines_is_one_example(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"prompt": A, "answer": "4"}, indent=1))
    assert read_examples(path) == [Example(A, columns={"answer": "4"})]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", f"prompt,answer\n{A},4,5\n", r"line 2 of .* has 3 values and the header 2: quote values with commas"),
        ("a.csv", f'prompt,answer\n"{A},4\n', r"line 2 of .* is not CSV"),
        ("a.csv", "prompt,,x\n1,2,3\n", r"line 1 of .*, the header, has the names 'prompt', '', 'x': give each column a name"),
        ("a.csv", "prompt,prompt\n1,2\n", "a name of its own"),
        ("a.csv", "prompt,answer\n", "holds no prompts"),
        ("a.csv", b"PK\x03\x04\xff\xff", r"it seems to be a zip or Excel file\): save it as CSV"),
        ("a.jsonl.gz", gzip.compress(ROW.encode(), mtime=0)[:-6], "was compressed by gzip and cannot be unpacked"),
        ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(name: str, content: str | bytes, words: str, tmp_path: Path) -> None:
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    with pytest.raises(UsageError, match=words):
        read(tmp_path / name, content)


def test_a_long_field_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,answer\n{'x' * 200_000},4\n")
    assert len(str(read_prompts(tmp_path / "a.csv")[0])) == 200_000


def test_without_pyarrow_parquet_is_refused_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = parquet(ASKED)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="is a Parquet file, which takes pyarrow: pip install pyarrow"):
        read(tmp_path / "a.parquet", content)


def test_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.txt cannot be read: No such file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_prompts(tmp_path)


def test_standard_input_is_told_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    for content, prompts in ((f"{BOM}{A}\r\n{B}", [A, B]), (f"{ROW}\n{CHAT}", [A, Chat.of(TURNS)]), (f"[{ROW}]", [A])):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
        assert read_prompts("-") == prompts
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(f"{ROW}\n3".encode())))
    with pytest.raises(UsageError, match="line 2 of standard input has no prompt"):
        read_prompts("-")


def test_one_conversation(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    for content in (json.dumps(TURNS, indent=1), CHAT):
        path.write_text(content)
        assert read_chat(path) == Chat.of(TURNS)
    for content, words in (
        ("3", "holds no list of messages"),
        ("[]", "no messages"),
        ("[", "is not JSON"),
        ("[3]", "message 1 of the chat is 3"),
    ):
        path.write_text(content)
        with pytest.raises(UsageError, match=words):
            read_chat(path)
