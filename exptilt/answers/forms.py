"""The canonical forms of sympy's objects: equal for equal values, however they are written."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from hashlib import blake2b
from typing import Any

import sympy
from latex2sympy2_extended.sets import FiniteSet  # type: ignore[import-not-found]
from sympy.core.function import AppliedUndef

from exptilt.answers.literals import canonical

_DIGITS = 30  # of an evaluation, of which 12 are kept
_POINTS = 3
_VARIABLES = frozenset("xyztuvw") | {"theta"}
_UNEQUAL: Any = sympy.Unequality
_INEQUALITIES: Any = (sympy.core.relational.Relational, sympy.And, sympy.Or)


class Unformed(Exception):
    """The expression has no form that equal expressions would share."""


def form(read: Any, *, any_of: bool = False) -> str:
    """The canonical form of what was read: equal for equal values. any_of: whether of several inequalities one is enough."""
    if isinstance(read, sympy.Equality):
        return _equation(read.lhs, read.rhs)
    if isinstance(read, _UNEQUAL) and len(read.free_symbols) != 1:
        return f"≠ {_scaled(read.lhs - read.rhs, signed=False)}"
    if isinstance(read, _INEQUALITIES):
        return _inequality(read)
    if isinstance(read, FiniteSet | sympy.FiniteSet):
        return _finite(list(read.args), any_of=any_of)
    if isinstance(read, sympy.Complement):
        whole, part = list[Any](read.args)
        difference: Any = sympy.Complement(whole, part)  # the parser leaves it as it is written
        return str(difference) if isinstance(difference, sympy.Complement) else form(difference)
    if read == sympy.S.EmptySet:
        return "∅"
    if isinstance(read, sympy.Interval):
        return f"{'(' if read.left_open else '['}{form(read.start)}, {form(read.end)}{')' if read.right_open else ']'}"
    if isinstance(read, sympy.Union):
        return " ∪ ".join(sorted(map(form, read.args)))
    if isinstance(read, sympy.Tuple):
        return f"({_listed(read.args)})"
    if isinstance(read, sympy.MatrixExpr):
        read = read.doit()
    if isinstance(read, sympy.MatrixBase):
        return f"[{'; '.join(_listed(row) for row in read.tolist())}]"
    if isinstance(read, sympy.Set):
        return str(read)
    if isinstance(read, sympy.Symbol) and read.name != "i":
        return read.name
    return _scalar(read)


def _listed(parts: Iterable[Any]) -> str:
    return ", ".join(map(form, parts))


def _finite(members: list[Any], *, any_of: bool) -> str:
    """A set, or several equations: "x = 1 or x = 2" is the set of its values, "x = 1 and y = 2" keeps the letters."""
    if all(
        isinstance(each, _INEQUALITIES) and not isinstance(each, sympy.Equality) and len(each.free_symbols) == 1
        for each in members
    ):
        return form((sympy.Union if any_of else sympy.Intersection)(*(member.as_set() for member in members)))
    letters = {str(member.lhs) for member in members if isinstance(member, sympy.Equality) and _is_name(member.lhs)}
    if len(letters) > 1:
        return ", ".join(sorted(f"{member.lhs} = {form(member.rhs)}" for member in members))
    forms = sorted({form(member) for member in members})
    return forms[0] if len(forms) == 1 else f"{{{', '.join(forms)}}}"


def _equation(left: Any, right: Any) -> str:
    """ "x = 5" is 5, an equation of numbers what it arrives at; of any other both sides count, up to a factor."""
    if not isinstance(right, sympy.Expr) or _is_name(left) or not (left.free_symbols or right.free_symbols):
        return form(right)
    if _is_name(right):
        return form(left)
    function = _solved(left - right)
    return f"0 = {_scaled(left - right, signed=False)}" if function is None else form(function)


def _solved(difference: Any) -> Any:
    """The function y of x that makes a difference of both vanish, where it is linear in y; else None."""
    letters = {letter.name: letter for letter in difference.free_symbols}
    if set(letters) != {"x", "y"}:
        return None
    slope = sympy.diff(difference, letters["y"])
    return sympy.expand(letters["y"] - difference / slope) if slope.is_number and slope != 0 else None


def _is_name(side: Any) -> bool:
    return isinstance(side, sympy.Symbol | AppliedUndef)


def _inequality(read: Any) -> str:
    """Of one letter: the set where it holds; else the difference of its sides, up to a positive factor."""
    if len(read.free_symbols) == 1:
        return form(read.as_set())
    if isinstance(read, sympy.And | sympy.Or):
        raise Unformed(str(read))
    return f"{'<' if read.rel_op in ('<', '>') else '≤'} {_scaled(read.gts - read.lts, signed=True)}"


def _scaled(difference: Any, *, signed: bool) -> str:
    """The values of an expression divided by the first of them; `signed` keeps its sign."""
    values = _values(difference)
    first = abs(values[0]) if signed else values[0]
    if first == 0:
        raise Unformed(difference)
    return f"{_letters(difference)}: {' | '.join(_digits(value / first) for value in values)}"


def _scalar(read: Any) -> str:
    """A constant by its value, a function by its values at fixed points."""
    read = read.xreplace({letter: sympy.I for letter in read.free_symbols if letter.name == "i"}).doit()
    if read.is_Symbol:
        return read.name
    if read.is_Rational:
        return canonical(Fraction(int(read.p), int(read.q))) or ""
    if read in (sympy.oo, -sympy.oo):
        return str(read).replace("oo", "∞")
    read = _with_constant(read)
    values = _values(read)
    shown = [_digits(value) for value in values]
    if len(set(shown)) == 1:
        return _constant(values[0])
    return f"{_letters(read)}: {' | '.join(shown)}"


def _with_constant(read: Any) -> Any:
    """An antiderivative with "C" for its constant, also where it was written "c"."""
    added = [part for part in read.args if part.is_Symbol and part.name in ("c", "C", "K")] if read.is_Add else []
    others = {letter.name for letter in read.free_symbols} - {part.name for part in added}
    return read.xreplace({added[0]: sympy.Symbol("C")}) if len(added) == 1 and others <= _VARIABLES else read


def _letters(read: Any) -> str:
    return ", ".join(sorted({letter.name for letter in read.free_symbols}))


def _values(read: Any) -> list[Any]:
    """The values at the fixed points, complex, to 30 digits; one where there are no letters."""
    letters = sorted(read.free_symbols, key=str)
    points = [{letter: _coordinate(letter.name, number) for letter in letters} for number in range(_POINTS if letters else 1)]
    values = [sympy.N(read.xreplace(point), _DIGITS, chop=True) for point in points]
    if not all(value.is_number and value.is_finite for value in values):
        raise Unformed(read)
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
