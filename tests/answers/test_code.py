"""Which block of a response is its program."""

from __future__ import annotations

import pytest

from exptilt.answers import code
from exptilt.answers.programs import fenced

PROGRAM = "def f(x):\n    return x + 1"


def block(text: str, language: str = "python", fence: str = "```") -> str:
    return f"{fence}{language}\n{text}\n{fence}"


THOUGHT = f"<think>{block('x = 1')}</think>"
SAME = {
    "alone": block(PROGRAM),
    "no language": block(PROGRAM, ""),
    "a capital": block(PROGRAM, "Python"),
    "a title": block(PROGRAM, 'python title="a.py"'),
    "tildes": block(PROGRAM, fence="~~~"),
    "longer fences": block(PROGRAM, fence="````"),
    "Windows line ends": block(PROGRAM).replace("\n", "\r\n"),
    "old Macintosh line ends": block(PROGRAM).replace("\n", "\r"),
    "prose around": f"Here:\n{block(PROGRAM)}\nDone.",
    "prose before the fence": f"Here it is: {block(PROGRAM)}",
    "in a list": "1. Do:\n   ```python\n   def f(x):\n       return x + 1\n   ```\n",
    "on a list's line": "1. ```python\n   def f(x):\n       return x + 1\n   ```",
    "under tabs": "- Do:\n\t```python\n\tdef f(x):\n\t    return x + 1\n\t```",
    "in a quote": "> ```python\n> def f(x):\n>     return x + 1\n> ```",
    "after thinking": f"<think>{block('def f(x): return 0')}</think>{block(PROGRAM)}",
    "shell after it": f"{block(PROGRAM)}\nRun:\n{block('python a.py', 'bash')}",
    "shell before it": f"{block('pip install x', 'bash')}\n{block(PROGRAM)}",
    "output after it": f"{block(PROGRAM)}\nOutput:\n{block('3', '')}",
    "an output of lists": f"{block(PROGRAM)}\nOutput:\n{block('[1, 2]', 'text')}",
    "usage after it": f"{block(PROGRAM)}\nUsage:\n{block('print(f(2))')}",
    "a test after it": f"{block(PROGRAM)}\n{block('assert f(1) == 2')}",
    "data after it": f"{block(PROGRAM)}\n{block('{}', 'json')}",
    "a better one last": f"{block('def f(x): return 0')}\nBetter:\n{block(PROGRAM)}",
    "no closing fence": f"```python\n{PROGRAM}",
    "no opening fence": f"{PROGRAM}\n```\nThis adds one.",
    "no fences": f"{PROGRAM}\n",
    "a byte order mark": f"```python\n\ufeff{PROGRAM}\n```",
    "a zero-width space": f"\u200b{block(PROGRAM)}",
    "hard spaces": block(PROGRAM.replace("    ", "\xa0" * 4)),
    "comments and layout": block("# adds\ndef f( x ):\n\n  return (x+1)  # one\n"),
    "indented": block("    def f(x):\n        return x + 1"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_program_is_found_however_it_is_fenced(name: str) -> None:
    assert code(SAME[name]) == PROGRAM


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        "yes",
        "not sure",
        "42",
        "a, b",
        "The answer is 5.",
        "def",
        "```python\n```",
        f"<think>{block('x = 1')}</think>",
    ],
)
def test_prose_is_no_program(text: str) -> None:
    """ "yes" and "a, b" parse as Python too."""
    assert code(text) is None


@pytest.mark.parametrize(
    "text", ["```python\ndef f(x):\n    return x +", "I think\n```python\nfor i in", "def f(x):\n    return x +"]
)
def test_a_program_that_was_cut_off_is_none(text: str) -> None:
    assert code(text) is None


def test_other_languages_count_and_shell_only_alone() -> None:
    assert code(f"{block('int main() { return 0; }', 'cpp')}\nRun:\n{block('g++ a.cpp', 'sh')}") == "int main() { return 0; }"
    assert code(block("ls -l  ", "bash")) == "ls -l"


def test_blocks_keep_the_indentation_beyond_their_fence() -> None:
    """A block that continues a function's head must stay indented under it."""
    (body,) = fenced("1. So:\n   ```\n       return 1\n   ```")
    assert body.text == "    return 1"
