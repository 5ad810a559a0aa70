"""Plain values as JSON: what passes between the program's process and the one that judges it.

This file runs inside the sandbox, so it uses the standard library alone. Reading a value never runs code of the other side: it
is JSON, and only values of the types listed here are made from it. `Writer` turns values into JSON, `Reader` turns JSON into
values. Both number the mutable containers that they meet, in the same order, so that two names for one list stay two names for
one list, and a list that was changed on the other side can be changed here too.
"""

from __future__ import annotations

import numbers
import re
import sys
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any

DEEPEST = 100  # containers within each other
# Methods of plain values that say yes or no about the value or an argument; of an object they would be the program's verdict.
PREDICATES = {
    name for kind in (str, bytes, float, set) for name in dir(kind) if name.startswith("is") or name in ("startswith", "endswith")
}

_DTYPE = re.compile(r"[<>|=][biufcMmUS]\d+(\[\d*[A-Za-z]+\])?")  # numpy's name for an array's element type
_KEYED = {"counter": Counter, "ordered": OrderedDict, "default": defaultdict, "dict": dict}
_LISTED = {"list": list, "set": set, "deque": deque}
_FIXED = {"tuple": tuple, "frozenset": frozenset}
_TYPES = {
    kind.__name__: kind
    for kind in (int, float, complex, bool, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, type(None))
}
_CONSTANTS = {"Ellipsis": ..., "NotImplemented": NotImplemented}
_FLAT: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {  # type, to JSON, from JSON; the first match counts
    "fraction": (
        numbers.Rational,
        lambda value: [hex(value.numerator), hex(value.denominator)],
        lambda parts: Fraction(*(int(part, 16) for part in parts)),
    ),
    "decimal": (Decimal, str, Decimal),
    "float": (numbers.Real, float, float),
    "complex": (numbers.Complex, lambda value: [complex(value).real, complex(value).imag], lambda parts: complex(*parts)),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "datetime": (
        datetime,
        lambda value: [value.isoformat(), value.fold],
        lambda parts: datetime.fromisoformat(parts[0]).replace(fold=parts[1]),
    ),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (timedelta, lambda value: [value.days, value.seconds, value.microseconds], lambda parts: timedelta(*parts)),
    "range": (
        range,
        lambda value: [hex(value.start), hex(value.stop), hex(value.step)],
        lambda parts: range(*(int(part, 16) for part in parts)),
    ),
    "path": (PurePath, str, Path),
}


class NotPlain(Exception):
    """A value that cannot be sent as data, or a message that no `Writer` wrote."""


class Record(tuple):
    """A named tuple of the other side: its items, by number and by name."""

    _fields: tuple[str, ...]

    @classmethod
    def of(cls, name: str, fields: Sequence[str], items: Sequence[Any]) -> Record:
        made = cls(items)
        named = zip(map(str, fields), made, strict=True)
        vars(made).update({field: item for field, item in named if not field.startswith("__") and field not in PREDICATES})
        vars(made).update(_fields=tuple(fields), _name=str(name))
        return made

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def __repr__(self) -> str:
        return f"{vars(self)['_name']}({', '.join(f'{name}={item!r}' for name, item in self._asdict().items())})"


class Writer:
    """Turns values into JSON.

    stand_in: makes JSON for what is not plain, a dict with one key that the other side's `Reader` passes to its `find`.
    own: a class whose values are never looked at but go to `stand_in` at once.
    met: the mutable containers met so far.
    reduced: the name of a class whose value was sent as its plain relative, such as an IntEnum as an int; "" for none.
    """

    def __init__(self, stand_in: Callable[[Any], dict[str, Any]], own: type | None = None, met: Sequence[Any] = ()) -> None:
        self.stand_in, self.own = stand_in, own
        self.met = list(met)
        self._numbers = {id(value): number for number, value in enumerate(self.met)}
        self.reduced = ""
        self._depth = 0

    def write(self, value: Any) -> Any:
        """JSON for a value. What lies too deep inside other values is passed to `stand_in`, whatever it is."""
        if self._depth > DEEPEST:
            return self.stand_in(value)
        self._depth += 1
        try:
            return self._write(type(value), value)
        finally:
            self._depth -= 1

    def _write(self, kind: type, value: Any) -> Any:
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            return {"int": hex(value)}
        if kind is self.own:
            return self.stand_in(value)
        if (number := self._numbers.get(id(value))) is not None:
            return {"again": number}
        if name := mutable(kind, value):
            self._numbers[id(value)] = len(self.met)
            self.met.append(value)
            self._note(kind, (*_LISTED.values(), *_KEYED.values(), bytearray, array))
            return {name: self.contents(value)}
        return self._immutable(kind, value)

    def contents(self, value: Any) -> Any:
        """What a mutable container holds."""
        if isinstance(value, dict):
            return [[self.write(key), self.write(item)] for key, item in value.items()]
        if isinstance(value, bytearray):
            return value.hex()
        if isinstance(value, array):
            return [value.typecode, value.tobytes().hex()]
        if isinstance(value, list | set):
            return [self.write(item) for item in value]
        if isinstance(value, deque):
            return [value.maxlen, [self.write(item) for item in value]]
        return [value.dtype.str, list(value.shape), value.tobytes().hex()]

    def _immutable(self, kind: type, value: Any) -> Any:
        if issubclass(kind, str):
            return self._note(kind, (), str.__str__(value))
        if kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"):
            return self._note(kind, (), bool(value))
        if issubclass(kind, numbers.Integral):
            return self._note(kind, (), {"int": hex(value)})
        for name, (plain, to_json, _) in _FLAT.items():
            if issubclass(kind, plain):
                return self._note(kind, (Fraction, Decimal, complex, date, datetime, kind if plain is PurePath else plain)) or {
                    name: to_json(value)
                }
        if issubclass(kind, tuple) and isinstance(fields := getattr(value, "_fields", None), tuple):
            return {"record": [kind.__name__, list(fields), [self.write(item) for item in value]]}
        for name, plain in _FIXED.items():
            if issubclass(kind, plain):
                return self._note(kind, (plain,)) or {name: [self.write(item) for item in value]}
        if kind in (type({}.keys()), type({}.items())):
            return {kind.__name__: [self.write(item) for item in value]}
        if kind is type and _TYPES.get(value.__name__) is value:
            return {"type": value.__name__}
        constant = next((name for name, each in _CONSTANTS.items() if each is value), None)
        return {"constant": constant} if constant else self.stand_in(value)

    def _note(self, kind: type, exact: tuple[type, ...], sent: Any = None) -> Any:
        """Remember that a value was not of one of the exact types; `sent` is passed through."""
        self.reduced = self.reduced or ("" if kind in exact else kind.__name__)
        return sent


class Reader:
    """Turns JSON into values. `find(kind, content)` makes what stands for a value that is not plain.

    made: the mutable containers, in the order in which the other side's `Writer` met them.
    """

    def __init__(self, find: Callable[[str, Any], Any], made: Sequence[Any] = ()) -> None:
        self.find = find
        self.made = list(made)

    def read(self, sent: Any) -> Any:
        """The value. Raises NotPlain for anything that no `Writer` wrote."""
        try:
            return self._read(sent)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, AttributeError) as error:
            raise NotPlain(f"a message from which no value can be made ({type(error).__name__}: {error})") from error

    def _read(self, sent: Any) -> Any:
        if sent is None or isinstance(sent, bool | str | float):
            return sent
        ((kind, content),) = sent.items()
        if kind == "int":
            return int(content, 16)
        if kind == "again":
            return self.made[content]
        if kind in _FLAT:
            return _FLAT[kind][2](content)
        if kind in _FIXED:
            return _FIXED[kind](self._items(content))
        if (empty := _empty(kind, content)) is not None:
            self.made.append(empty)
            self._fill(empty, content)
            return empty
        rest: dict[str, Callable[[], Any]] = {
            "record": lambda: Record.of(content[0], content[1], self._items(content[2])),
            "dict_keys": lambda: dict.fromkeys(self._items(content)).keys(),
            "dict_items": lambda: dict(self._items(content)).items(),
            "type": lambda: _TYPES[content],
            "constant": lambda: _CONSTANTS[content],
        }
        return rest[kind]() if kind in rest else self.find(kind, content)

    def refill(self, value: Any, content: Any) -> None:
        """Give a mutable container the contents that it has on the other side. Raises NotPlain as `read` does."""
        try:
            if isinstance(value, dict | list | set | deque | bytearray):
                value.clear()
            self._fill(value, content)
        except (ValueError, TypeError, LookupError, RecursionError, AttributeError) as error:
            raise NotPlain(f"contents that do not fit ({type(error).__name__}: {error})") from error

    def _fill(self, value: Any, content: Any) -> None:
        if isinstance(value, dict):
            for key, item in content:
                value[self._read(key)] = self._read(item)
        elif isinstance(value, list):
            value.extend(self._items(content))
        elif isinstance(value, set):
            value.update(self._items(content))
        elif isinstance(value, deque):
            value.extend(self._items(content[1]))
        elif isinstance(value, bytearray):
            value.extend(bytes.fromhex(content))
        elif isinstance(value, array):
            value[:] = array(value.typecode, bytes.fromhex(content[1]))
        else:
            value[...] = _ndarray(content)

    def _items(self, content: Any) -> list[Any]:
        return [self._read(item) for item in content]


def mutable(kind: type, value: Any) -> str:
    """What kind of container a value is, where its contents can change; "" where it is none."""
    for name, plain in (*_KEYED.items(), *_LISTED.items(), ("bytearray", bytearray), ("array", array)):
        if issubclass(kind, plain):
            return name
    numpy = sys.modules.get("numpy")
    arrays = (numpy.ndarray, numpy.datetime64, numpy.timedelta64) if numpy is not None else ()
    return "ndarray" if kind in arrays and _DTYPE.fullmatch(value.dtype.str) else ""


def _empty(kind: str, content: Any) -> Any:
    """An empty container of a kind, or one of the right size; None where no container is called so."""
    if kind == "deque":
        return deque(maxlen=content[0])
    if kind == "bytearray":
        return bytearray()
    if kind == "array":
        return array(content[0])
    if kind == "ndarray":
        return _ndarray(content).copy()
    made = _KEYED.get(kind) or _LISTED.get(kind)
    return None if made is None else made()


def _ndarray(content: Any) -> Any:
    """An array of numpy from its element type, shape and bytes; read-only."""
    import numpy

    kind, shape, text = content
    if not _DTYPE.fullmatch(kind):
        raise ValueError(f"an array of {kind!r}")
    return numpy.frombuffer(bytes.fromhex(text), dtype=numpy.dtype(kind)).reshape(shape)
