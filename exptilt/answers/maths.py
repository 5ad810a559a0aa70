"""Answers that are mathematics in LaTeX: equal values are one answer, however they are written.

A vote needs one string for each class of equal answers, not a test of pairs. math-verify reads the LaTeX into a sympy
expression, and its form is then

- of a constant: the exact value where it is rational ("0.5", "1/3"), else 12 digits of it ("≈1.41421356237");
- of an expression with letters: 12 digits of its value at three fixed points of its letters, so that x+x and 2x, or
  (x²-1)/(x-1) and x+1, are one answer; different functions would have to agree at all three to be taken for one;
- of sets, intervals, tuples, matrices, equations, inequalities: the forms of their parts, in a fixed order. "x = 5" is 5
  and "x > 3" is the interval; an equation between two expressions is the same times any factor.

What math-verify cannot read, and what would take longer than a few seconds, is compared as it is written, without spaces
and layout. Other limits: (1, 2) is the interval and the point alike, 50\\% is 50, units are dropped, letters lose their
case and count as real numbers, and "y = 2x" is the function 2x, so that "y - 2x = 0" is another answer.

Expressions are read in a process of its own (`exptilt.answers.sympy_worker`): sympy may take for ever or all memory on
what a model writes, no thread can be stopped, and a signal reaches only the main thread. That process has a limit of CPU
time, which unlike a clock gives the same answer on a busy machine; when it is over the limit it dies and a new one starts.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from threading import Lock, Timer

from exptilt.answers.numeric import NUMBER, Places, canonical, number, plain, value
from exptilt.answers.texts import boxed, exact
from exptilt.errors import ExptiltError

_LONGEST = 300  # characters of an expression that is read; longer ones are compared as written
_PATIENCE = 300.0  # seconds of wall clock after which the process is given up where CPU time cannot be limited
_ANSWER_IS = re.compile(r"\banswer(?:[ \t]+is\b|[*_ \t]{0,4}[:=])[*_ \t:]*([^\n]{1,300})", re.IGNORECASE)
_DELIMITED = re.compile(r"\$\$(.{1,300}?)\$\$|\$([^$\n]{1,300})\$|\\\((.{1,300}?)\\\)|\\\[(.{1,300}?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_PROSE = re.compile(r"(?<![A-Za-z\\])(?!sqrt|sin|cos|tan|log|exp)[A-Za-z]{3,}")
_HASHES = Places(NUMBER).hashes
_WRITTEN_NUMBER = re.compile(rf"\$?({NUMBER})%?")
_WORDS = re.compile(
    r"\\(?:text|textbf|mathrm|mbox) ?\{([^{}\\]*)\}"
    r"|[A-Za-z]|[YyNn](?:es|ES|o|O)|[A-Za-z][A-Za-z' -]*[A-Za-z ]{3}[A-Za-z' -]*"
)
_UNIT = re.compile(r"(?<=.)\s*\\(?:text|textrm|mathrm|mbox) ?\{[^{}]*\}(?:\s*\^ ?\{?[0-9]\}?)?\s*$", re.DOTALL)
_DEGREES = re.compile(r"([0-9.]+) ?\^ ?(?:\{ ?\\circ ?\}|\\circ)")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_SEVERAL = re.compile(r",|\\text\{ *(?:and|or) *\}|\\\\")  # between the members of a list of equations
_LAYOUT = re.compile(r"\\left|\\right|\\displaystyle|\\[,!;: ]|\\q?quad|\s|~|\$")


def latex(text: str) -> str | None:
    """The final answer in LaTeX, in the canonical form that the overview describes.

    Looked for in this order: the first "#### 42"; the last \\boxed{...}; the last "answer is ..." or "answer: ...", there
    the formula if one is marked; the last formula between dollar signs, \\(...\\) or \\[...\\]; the last number.
    Raises ExptiltError where math-verify is not installed and an expression has to be read.
    """
    if hashes := _HASHES.search(plain(text)):
        return canonical(value(hashes[1]))
    if "\\boxed" in text:
        content = boxed(text)
        return None if content is None else expression(content)
    if stated := _ANSWER_IS.findall(text):
        passage = stated[-1]
        if formula := _DELIMITED.search(passage):
            return expression(next(filter(None, formula.groups())))
        return _stated(_SENTENCE_END.split(passage, maxsplit=1)[0].strip(" \t*_:."))
    if formulas := _DELIMITED.findall(text):
        return expression(next(filter(None, formulas[-1])))
    return number(text)


def _stated(passage: str) -> str | None:
    """What an answer without marks says: a formula, or in prose its first number, or the words."""
    if _PROSE.search(passage) is None:
        return expression(passage)
    return number(f"answer is {passage}") or exact(passage)


@lru_cache(maxsize=10_000)
def expression(content: str) -> str | None:
    """The canonical form of one LaTeX expression, as a reference answer gives it; None for an empty one."""
    content = content.strip().strip("$").rstrip(".").strip()
    if len(content) > _LONGEST:
        return _as_written(content)
    content = _UNIT.sub("", content)
    if content.count("=") > 1 and not _SEVERAL.search(content):
        content = content.rpartition("=")[2].strip()  # of a chain of equations what it arrives at
    if found := _WRITTEN_NUMBER.fullmatch(plain(content)):
        return canonical(value(found[1]))
    if found := _WORDS.fullmatch(content):
        return exact(found[1] or found[0])
    as_degrees = r"(\1 \\cdot \\frac{\\pi}{180})" if _TRIGONOMETRY.search(content) else r"\1"
    content = _DEGREES.sub(as_degrees, content).removesuffix("\\%")
    form = _READER.read(content) if content else None
    return form or _as_written(content) or None


def _as_written(content: str) -> str:
    """The expression without spaces and layout, fractions and text marks in one spelling."""
    plain_text = re.sub(r"\\(?:text|textbf|mathrm|mbox) ?\{([^{}]*)\}", r"\1", re.sub(r"\\[dt]frac", r"\\frac", content))
    return _LAYOUT.sub("", plain_text)


class _Reader:
    """The process that reads expressions, started when it is first needed. Safe to call from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None

    def read(self, content: str) -> str | None:
        """The form of an expression; None where it cannot be read within the limits."""
        with self._lock:
            process = self._process = self._process or _start()
            assert process.stdin is not None
            assert process.stdout is not None
            timer = Timer(_PATIENCE, process.kill)
            timer.start()
            try:
                process.stdin.write(json.dumps(content) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = ""
            finally:
                timer.cancel()
            if not answer:
                self._close()
            return json.loads(answer) if answer else None

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def _start() -> subprocess.Popen[str]:
    if importlib.util.find_spec("math_verify") is None:
        raise ExptiltError(
            "answers.latex reads formulas with math-verify, not installed here. Install: pip install 'exptilt[eval]'"
        )
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "exptilt.answers.sympy_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": paths},
    )


_READER = _Reader()
atexit.register(_READER.close)
