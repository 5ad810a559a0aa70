"""The process behind `exptilt.answers.latex`: a JSON string of LaTeX per line in, its canonical form or null out.

Each expression may take `SECONDS` of CPU time and the process `MEMORY` bytes. Too much time ends the process, which its
parent notices; too much memory is an expression that cannot be read.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable
from fractions import Fraction
from hashlib import blake2b
from typing import Any

import sympy
from latex2sympy2_extended.sets import FiniteSet  # type: ignore[import-not-found]
from math_verify import LatexExtractionConfig, parse  # type: ignore[import-not-found]
from sympy.core.function import AppliedUndef

from exptilt.answers.numeric import canonical

try:
    import resource
except ImportError:  # not a POSIX system: the parent's clock is the only limit
    resource = None

SECONDS = 2
MEMORY = 4 << 30
_DIGITS = 30  # of an evaluation, of which 12 are kept
_POINTS = 3
_UNEQUAL: Any = sympy.Unequality
_INEQUALITIES: Any = (sympy.core.relational.Relational, sympy.And, sympy.Or)


class Unreadable(Exception):
    """The expression has no form that equal expressions would share."""


def main() -> None:
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        _limit()
        print(json.dumps(_read(json.loads(line))), flush=True)


def _limit() -> None:
    if resource is not None:
        _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + SECONDS, hardest))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _read(content: str) -> str | None:
    try:
        read = parse(
            f"${content}$", [LatexExtractionConfig()], fallback_mode="no_fallback", raise_on_error=True, parsing_timeout=0
        )
        return form(read[0]) if read else None
    except Exception:  # noqa: BLE001  whatever the parser or sympy stumble over, it is an expression they cannot read
        return None


def form(read: Any) -> str:
    """The canonical form of what was read: equal for equal values."""
    if isinstance(read, sympy.Equality):
        return _equation(read.lhs, read.rhs)
    if isinstance(read, _UNEQUAL):
        return f"≠ {form(read.rhs)}" if read.lhs.is_Symbol else f"≠ {_scaled(read.lhs - read.rhs, signed=False)}"
    if isinstance(read, _INEQUALITIES):
        return _inequality(read)
    if isinstance(read, FiniteSet | sympy.FiniteSet):
        return _finite(list(read.args))
    if isinstance(read, sympy.Interval):
        return f"{'(' if read.left_open else '['}{form(read.start)}, {form(read.end)}{')' if read.right_open else ']'}"
    if isinstance(read, sympy.Union):
        return " ∪ ".join(sorted(map(form, read.args)))
    if isinstance(read, sympy.Tuple):
        return f"({_listed(read.args)})"
    if isinstance(read, sympy.MatrixBase):
        return f"[{'; '.join(_listed(row) for row in read.tolist())}]"
    if isinstance(read, sympy.Set):
        return str(read)
    if isinstance(read, sympy.Symbol) and read.name != "i":
        return read.name
    return _scalar(read)


def _listed(parts: Iterable[Any]) -> str:
    return ", ".join(map(form, parts))


def _finite(members: list[Any]) -> str:
    """A set, or several equations: "x = 1 or x = 2" is the set of its values, "x = 1 and y = 2" keeps the letters."""
    letters = {str(member.lhs) for member in members if isinstance(member, sympy.Equality) and _is_name(member.lhs)}
    if len(letters) > 1:
        return ", ".join(sorted(f"{member.lhs} = {form(member.rhs)}" for member in members))
    forms = sorted({form(member) for member in members})
    return forms[0] if len(forms) == 1 else f"{{{', '.join(forms)}}}"


def _equation(left: Any, right: Any) -> str:
    """ "x = 5" is 5, an equation of numbers what it arrives at; of any other both sides count, up to a factor."""
    if not isinstance(right, sympy.Expr) or _is_name(left) or not (left.free_symbols or right.free_symbols):
        return form(right)
    return form(left) if _is_name(right) else f"0 = {_scaled(left - right, signed=False)}"


def _is_name(side: Any) -> bool:
    return isinstance(side, sympy.Symbol | AppliedUndef)


def _inequality(read: Any) -> str:
    """Of one letter: the set where it holds; else the difference of its sides, up to a positive factor."""
    if len(read.free_symbols) == 1:
        return form(read.as_set())
    if isinstance(read, sympy.And | sympy.Or):
        raise Unreadable(str(read))
    return f"{'<' if read.rel_op in ('<', '>') else '≤'} {_scaled(read.gts - read.lts, signed=True)}"


def _scaled(difference: Any, *, signed: bool) -> str:
    """The values of an expression divided by the first of them; `signed` keeps its sign."""
    values = _values(difference)
    first = abs(values[0]) if signed else values[0]
    if first == 0:
        raise Unreadable(difference)
    return f"{_letters(difference)}: {' | '.join(_digits(value / first) for value in values)}"


def _scalar(read: Any) -> str:
    """A constant by its value, a function by its values at fixed points."""
    read = read.xreplace({letter: sympy.I for letter in read.free_symbols if letter.name == "i"}).doit()
    if read.is_Rational:
        return canonical(Fraction(int(read.p), int(read.q))) or ""
    if read in (sympy.oo, -sympy.oo):
        return str(read).replace("oo", "∞")
    values = _values(read)
    shown = [_digits(value) for value in values]
    if len(set(shown)) == 1:
        return _constant(values[0])
    return f"{_letters(read)}: {' | '.join(shown)}"


def _letters(read: Any) -> str:
    return ", ".join(sorted({letter.name for letter in read.free_symbols}))


def _values(read: Any) -> list[Any]:
    """The values at the fixed points, complex, to 30 digits; one where there are no letters."""
    letters = sorted(read.free_symbols, key=str)
    points = [{letter: _coordinate(letter.name, number) for letter in letters} for number in range(_POINTS if letters else 1)]
    values = [sympy.N(read.xreplace(point), _DIGITS, chop=True) for point in points]
    if not all(value.is_number and value.is_finite for value in values):
        raise Unreadable(read)
    return values


def _coordinate(name: str, number: int) -> sympy.Rational:
    """A letter's value at a point: a fraction between 1 and 3 that follows from its name, negative at the last point."""
    drawn = int.from_bytes(blake2b(f"{name} {number}".encode(), digest_size=4).digest(), "big")
    return sympy.Rational(10007 + drawn % 20011, 10007) * (-1 if number == _POINTS - 1 else 1)


def _constant(value: Any) -> str:
    """A number known to 30 digits: exactly where it is a fraction with a small denominator."""
    parts = [Fraction(str(part)) for part in value.as_real_imag()]
    near = [part.limit_denominator(10_000) for part in parts]
    if all(abs(part - guess) <= (1 + abs(part)) / 10**20 for part, guess in zip(parts, near, strict=True)):
        real, imaginary = (canonical(guess) for guess in near)
        return f"{real}" if near[1] == 0 else f"{real} + {imaginary} i"
    return f"≈{_digits(value)}"


def _digits(value: Any) -> str:
    """12 significant digits; a part that is nothing beside the other one is left out."""
    real, imaginary = (float(part) for part in sympy.N(value, _DIGITS).as_real_imag())
    size = abs(complex(real, imaginary))
    parts = [0.0 if abs(part) <= 1e-12 * size else part for part in (real, imaginary)]
    return f"{parts[0]:.12g}" if parts[1] == 0 else f"{parts[0]:.12g}{parts[1]:+.12g}i"


if __name__ == "__main__":
    main()
