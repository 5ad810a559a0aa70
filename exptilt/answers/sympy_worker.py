"""The process behind `exptilt.answers.latex`: a JSON string of LaTeX per line in, its canonical form or null out.

It writes "ready" once. The lines are read by a child process, which is forked anew whenever one has died: an expression may
take `SECONDS` of CPU time and `MEMORY` bytes, and the kernel ends a child that takes more in the middle of its work, as no
exception could. A new child has all modules loaded, so a hostile expression costs its limit and no more.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from typing import Any

from latex2sympy2_extended.latex2sympy2 import (  # type: ignore[import-not-found]
    ConversionConfig,
    NormalizationConfig,
    latex2sympy,
    normalize_latex,
)
from latex2sympy2_extended.sets import FiniteSet  # type: ignore[import-not-found]
from math_verify.grader import should_treat_as_complex  # type: ignore[import-not-found]

from exptilt.answers.forms import form
from exptilt.answers.spelling import has_value, spelled

try:
    import resource
except ImportError:  # not a POSIX system: the parent's clock is the only limit
    resource = None

SECONDS = 1.0
MEMORY = 4 << 30
_SPELLING = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False)
_READING = ConversionConfig(lowercase_symbols=False)
_FIRST = r"\frac{\sqrt{2}}{2} + x^2"  # read once, so that every child finds the parser's tables filled


def main() -> None:
    logging.disable(logging.CRITICAL)
    read(_FIRST)
    _write("ready\n")
    if resource is None:
        _serve()
        return
    while True:
        child = os.fork()
        if child == 0:
            _, hardest = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hardest))
            _serve()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        _write("null\n")


def _serve() -> None:
    """Answer lines until there are no more; a line that takes too long ends the process."""
    waiting = b""
    while True:
        while b"\n" not in waiting:
            if not (piece := os.read(0, 1 << 16)):
                return
            waiting += piece
        line, _, waiting = waiting.partition(b"\n")
        _alarm(SECONDS)
        found = read(json.loads(line))
        _alarm(0.0)
        _write(json.dumps(found) + "\n")


def _alarm(seconds: float) -> None:
    """Let the kernel end this process after so much CPU time; 0 for never."""
    if resource is not None:
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _write(text: str) -> None:
    os.write(1, text.encode())


def read(content: str) -> str | None:
    """The canonical form of an expression; None where it has none that equal expressions would share."""
    try:
        written = spelled(content)
        if not written or not has_value(written):
            return None
        return form(_parsed(written), any_of="or" in written)
    except Exception:  # noqa: BLE001  whatever makes the parser or sympy fail is an expression that they cannot read
        return None


def _parsed(written: str) -> Any:
    """What the parser makes of it; where it cannot read a "±" inside something, the two expressions that it stands for."""
    try:
        return parsed(written)
    except Exception:
        if "\\pm" not in written:
            raise
        return FiniteSet(*(parsed(written.replace("\\pm", sign)) for sign in "+-"))


def parsed(written: str) -> Any:
    """What Math-Verify's parser makes of a respelled expression."""
    normal = normalize_latex(written, _SPELLING)
    return latex2sympy(
        normal,
        is_real=not should_treat_as_complex(normal),
        convert_degrees=False,
        normalization_config=None,
        conversion_config=_READING,
    )


if __name__ == "__main__":
    main()
