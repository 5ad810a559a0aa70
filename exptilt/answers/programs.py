"""Answers that are code: which of the fenced blocks of a response is its program, in a form free of comments and layout."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass

from exptilt.answers.clean import answering
from exptilt.answers.passages import tagged

_LONGEST = 100_000  # characters of code that are parsed; longer code is compared as it is
_LONGEST_FENCE = 300  # characters of a line that may open a block
_GLUED = 3  # fences at the ends of lines that are looked at
_OPENING = re.compile(r"(?P<before>.*?)(?P<fence>`{3,}|~{3,}) ?(?P<info>[^`]*)", re.DOTALL)
_PYTHON = {"python", "py", "python3", "py3", "sage", "ipython", "pycon"}
_NOT_CODE = {
    "bash", "sh", "shell", "console", "zsh", "cmd", "powershell", "terminal", "text", "txt", "plaintext", "output", "out",
    "stdout", "none", "log", "markdown", "md", "diff", "json", "yaml", "csv", "toml", "xml",
}  # fmt: skip
_WRAPPERS = {"", "markdown", "md", "text"}
_LIST_MARKS = " \t-*+0123456789.)"
_INVISIBLE = re.compile("[\ufeff\u200b\u2060\u00ad]")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    language: as its fence names it, in lower case, "" for none.
    text: its content.
    closed: whether its closing fence is there.
    """

    language: str
    text: str
    closed: bool


def code(text: str) -> str | None:
    """The program of a response in a form free of comments and layout; None where there is none.

    Of several blocks it is the last that defines something or is in another language than Python; else the last one in Python; a
    block of shell commands or output counts only where there is nothing else. The opening fence may be missing (a prompt may end
    with it), and so may the closing one where the block parses as Python: a program that was cut off is None. A response without
    fences counts where it is Python from beginning to end. What does not parse as Python loses only its indentation and the
    spaces at the ends of its lines.
    """
    text = _INVISIBLE.sub("", answering(text)).replace("\r\n", "\n").replace("\r", "\n")
    inside = tagged(text)
    text = text if inside is None else inside
    if "```" not in text:  # as Code Llama marks programs
        text = text.replace("[PYTHON]", "\n```python\n").replace("[/PYTHON]", "\n```\n")
    blocks = [block for block in fenced(text) if block.text.strip() and (block.closed or _parsed(block.text))]
    if not blocks:
        return _unfenced(text)
    ranks = [_rank(block) for block in blocks]
    best = blocks[max(range(len(blocks)), key=lambda number: (ranks[number], number))]
    if "```" in best.text and best.language in _WRAPPERS and (within := code(best.text)) is not None:
        return within
    if best.language in _PYTHON:
        return _as_python(best.text)
    return _as_it_is(best.text) if best.language else _form(best.text)


def reference(text: str) -> str | None:
    """A right program: as `code` reads it where it is fenced or Python, else all of it."""
    text = text.replace("\r\n", "\n")
    return code(text) or _form(text) or None


def fenced(text: str) -> list[Block]:
    """The fenced blocks of a text, in lists and quotes too, without the indentation of their fences."""
    blocks: list[Block] = []
    lines: list[str] = []
    fence = language = ""
    depth = 0
    for number, line in enumerate(every := _unquoted(text.replace("\r\n", "\n").split("\n"))):
        stripped = line.strip()
        if fence:
            if stripped.startswith(fence) and not stripped.strip(fence[0]):
                blocks.append(Block(language, _shifted(lines, depth), True))
                fence = ""
            else:
                lines.append(line)
        elif (
            len(line) < _LONGEST_FENCE
            and ("```" in line or "~~~" in line)
            and (opening := _OPENING.fullmatch(line))
            and _opens(opening)
        ):
            fence, lines, depth = opening["fence"], [], _depth(opening["before"])
            language = (opening["info"].split() or [""])[0].lower().strip("{}.")
            if not blocks and not stripped.strip(fence[0]) and _is_program(before := "\n".join(every[:number])):
                blocks.append(Block("python", before, True))  # the prompt had opened this block
                fence = ""
    if fence:
        closed = _closed_on_a_line(lines, fence)
        blocks.append(Block(language, _shifted(closed or lines, depth), closed is not None))
    return blocks


def _closed_on_a_line(lines: list[str], fence: str) -> list[str] | None:
    """The lines of an open block up to a fence at the end of one of them, where these are Python: "x = 1```"."""
    for number in [number for number, line in enumerate(lines) if line.rstrip().endswith(fence)][:_GLUED]:
        until = [*lines[:number], lines[number].rstrip().removesuffix(fence)]
        if _parsed("\n".join(until)):
            return until
    return None


def _unquoted(lines: list[str]) -> list[str]:
    """The lines of a text, those of Markdown's quotes without their marks."""
    return [re.sub(r"^\s{0,3}> ?", "", line) for line in lines] if any("```" in line and ">" in line for line in lines) else lines


def _shifted(lines: list[str], depth: int) -> str:
    """Lines without up to `depth` of their leading spaces, which belong to the indentation of their fence."""
    return "\n".join(line[min(depth, len(line) - len(line.lstrip())) :].rstrip() for line in lines).strip("\n")


def _depth(before: str) -> int:
    """How far the block of a fence is indented: as far as the fence, unless there are words before it."""
    return 0 if before.strip(_LIST_MARKS) else len(before)


def _opens(opening: re.Match[str]) -> bool:
    """Whether a fence opens a block: where words come before it on its line, only a language may follow it."""
    return not opening["before"].strip(_LIST_MARKS) or len(opening["info"].split()) <= 1


def _rank(block: Block) -> int:
    """How likely a block is the program: 3 it defines something, 2 it is Python, 1 something unnamed, 0 shell or output."""
    if block.language in _NOT_CODE:
        return 0
    tree = _parsed(block.text)
    if block.language and block.language not in _PYTHON:
        return 3
    if tree is None:
        return 2 if block.language else 1
    if any(isinstance(node, _DEFINITIONS) for node in tree.body):
        return 3
    return 2 if block.language or _says_something(tree) else 1


def _parsed(block: str) -> ast.Module | None:
    """The syntax tree of Python code; None for what is not Python, or is nested too deeply."""
    if len(block) > _LONGEST:
        return None
    for text in dict.fromkeys((block, textwrap.dedent(block), block.replace("\xa0", " "))):
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


def _says_something(tree: ast.Module) -> bool:
    """Whether a tree has a statement that prose would not parse as: a word alone is an expression too."""
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in tree.body)


def _is_program(text: str) -> bool:
    tree = _parsed(text.strip("\n"))
    return tree is not None and _says_something(tree)


def _unfenced(text: str) -> str | None:
    """A response that is Python as a whole."""
    return _form(text) if _is_program(text) else None


def _form(block: str) -> str:
    """The form of a block that names no language: as Python where it is a program in it."""
    return _as_python(block) if _is_program(block) else _as_it_is(block)


def _as_python(block: str) -> str:
    tree = _parsed(block.strip("\n"))
    try:
        return _as_it_is(block) if tree is None else ast.unparse(tree)
    except (RecursionError, ValueError):
        return _as_it_is(block)


def _as_it_is(block: str) -> str:
    return textwrap.dedent("\n".join(line.rstrip() for line in block.split("\n"))).strip("\n")
