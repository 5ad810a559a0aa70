"""From an object to JSON values that name it.

Two runs may share a file only if they would draw from the same target in the same way, so the settings must see
through rewards, selects and samplers down to the code of the functions they hold. A description is the same in every
process, and never holds a memory address. It sees a function's source, defaults and closure, and the functions and
constants of its own module that it names; what other modules do is taken as given. Its module does not count, so a
script's function is the same when it is imported.

What code changes as it runs does not count either: a dict in which a reward remembers its answers, a counter of calls
(`exptilt.describe.source` finds what is changed). A function without source, typed at a prompt, is known by its bytecode,
which belongs to a version of Python: under another one it counts as changed.
"""

from __future__ import annotations

import dis
import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from re import Pattern
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from exptilt.core import Engine
from exptilt.describe.source import changed_attributes, changed_names, module_changes, text_of
from exptilt.keys import digest

_OWN = "exptilt."
_DEEPEST = 16  # of objects within objects; deeper ones are named by their type
_STATE = "(changes as it runs)"
LATER = {"came later": True}
"""Metadata of a dataclass field that came after results files were written. At its default it changes nothing that was drawn,
so it is left out of descriptions, and those files still resume."""
_BEFORE = "as before"
"""Metadata of a field that came later and whose default is not what was done before: {"as before": value}. At that value it is
left out, so that those files resume with it."""
_PLAIN = bool | int | float | str | tuple | list | dict | set | frozenset | Pattern


def describe(thing: Any) -> Any:
    """JSON values that name `thing`: equal for equal things in any process, different where their code differs."""
    return _Walk().describe(thing)


class _Walk:
    """One walk through an object. `path` holds the ids above the current one, to end at cycles; `codes` the digest of
    each function and class met, so that each is read once however many others name it."""

    def __init__(self) -> None:
        self.path: list[int] = []
        self.codes: dict[int, str] = {}

    def describe(self, thing: Any) -> Any:
        if isinstance(thing, Enum):
            return f"{_name(type(thing))}.{thing.name}"
        if thing is None or isinstance(thing, bool | int | str):
            return thing
        if isinstance(thing, float):  # 1 and 1.0 are the same setting
            return repr(thing) if not math.isfinite(thing) else int(thing) if thing.is_integer() else thing
        if id(thing) in self.path:
            return "..."
        if len(self.path) > _DEEPEST:
            return _name(type(thing))
        self.path.append(id(thing))
        try:
            return self._object(thing)
        finally:
            self.path.pop()

    def _object(self, thing: Any) -> Any:
        if isinstance(thing, np.ndarray):
            return {"array": list(thing.shape), "values": digest(json.dumps(thing.tolist(), default=str))}
        if isinstance(thing, np.generic):
            return self.describe(thing.item())
        if isinstance(thing, Mapping):
            return {str(key): self.describe(value) for key, value in thing.items()}
        if isinstance(thing, bytes | bytearray):
            return {"bytes": digest(thing.hex())}
        if isinstance(thing, Set):
            return sorted((self.describe(item) for item in thing), key=_canonical)
        if isinstance(thing, Sequence):
            return [self.describe(item) for item in thing]
        if isinstance(thing, PurePath):
            return str(thing)
        if isinstance(thing, Pattern):
            return {"pattern": thing.pattern, "flags": thing.flags}
        if isinstance(thing, ModuleType):
            return thing.__name__
        if isinstance(thing, FunctionType | MethodType | BuiltinFunctionType | functools.partial | type):
            return self._callable(thing)
        return self._instance(thing)

    def _callable(self, thing: Any) -> Any:
        """Functions, methods and classes: their name, and a digest of what they do where the user wrote them."""
        if isinstance(thing, functools.partial):
            return {"partial": self.describe(thing.func), "arguments": self.describe(thing.args), **self.describe(thing.keywords)}
        if isinstance(thing, MethodType):
            return {"method": thing.__name__, "of": self.describe(thing.__self__), "code": self._function(thing.__func__)}
        if isinstance(thing, FunctionType) and not _is_own(thing):
            return {"function": thing.__qualname__, "code": self._function(thing)}
        if isinstance(thing, FunctionType) and thing.__closure__:
            return {"function": _name(thing), "closure": [self.describe(value) for _, value in _closure(thing)]}
        if isinstance(thing, type) and (code := self._class(thing)):
            return {"class": thing.__qualname__, "code": code}
        return _name(thing)

    def _instance(self, thing: Any) -> Any:
        """An object by its class and its state; an engine by its settings. Fields that do not compare do not count."""
        if isinstance(thing, Engine):
            return self.describe(thing.settings)
        code = self._class(type(thing))
        described = {"type": type(thing).__qualname__, "code": code} if code else {"type": _name(type(thing))}
        changes = _changed_attributes(type(thing)) if code else frozenset()
        if is_dataclass(thing):
            kept = [item.name for item in fields(thing) if item.compare and not _left_out(item, thing)]
            return described | {name: _STATE if name in changes else self.describe(getattr(thing, name)) for name in kept}
        state = {name: value for name, value in getattr(thing, "__dict__", {}).items() if name not in changes}
        return described | ({"state": digest(_canonical(self.describe(state)))} if state else {})

    def _class(self, kind: type) -> str | None:
        """A digest of the methods and constants of a class and of its bases in the same package; None for exptilt's own."""
        if _is_own(kind) or kind.__module__ == "builtins":
            return None
        if id(kind) not in self.codes:
            self.codes[id(kind)] = "..."
            bases = [base for base in kind.__mro__ if base.__module__.split(".")[0] == kind.__module__.split(".")[0]]
            self.codes[id(kind)] = digest(_canonical([dict(self._members(base)) for base in bases]))
        return self.codes[id(kind)]

    def _members(self, kind: type) -> Iterator[tuple[str, Any]]:
        for name, member in vars(kind).items():
            if isinstance(member, staticmethod | classmethod):
                member = member.__func__
            elif isinstance(member, property):
                member = member.fget
            if isinstance(member, FunctionType) and not _is_generated(member):
                yield name, self._function(member)
            elif isinstance(member, _PLAIN) and not name.startswith("__"):
                yield name, self.describe(member)

    def _function(self, function: FunctionType) -> str:
        """A digest of a function's code, defaults, closure, and what it names in its own module."""
        if id(function) not in self.codes:
            self.codes[id(function)] = "..."
            text = text_of(function)
            changes = changed_names(text)
            parts = [
                self._code(function.__code__) if text is None else text,
                {name: self._setting(name, value, changes) for name, value in _defaults(function)},
                {name: self._setting(name, value, changes) for name, value in _closure(function)},
                {name: self._setting(name, value, module_changes(function)) for name, value in sorted(_globals(function))},
            ]
            self.codes[id(function)] = digest(_canonical(parts))
        return self.codes[id(function)]

    def _setting(self, name: str, value: Any, changes: frozenset[str]) -> Any:
        return _STATE if name in changes else self.describe(value)

    def _code(self, code: CodeType) -> Any:
        """Bytecode, names and constants, without file names and line numbers."""
        constants = [self._code(item) if isinstance(item, CodeType) else self._constant(item) for item in code.co_consts]
        return [code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants]

    def _constant(self, item: Any) -> Any:
        plain = isinstance(item, int | float | complex | str | bytes)  # here 1 and 1.0 differ
        return f"{type(item).__name__} {item!r}" if plain else self.describe(item)


def _left_out(item: Field[Any], thing: Any) -> bool:
    if _BEFORE in item.metadata:
        return getattr(thing, item.name) == item.metadata[_BEFORE]
    return "came later" in item.metadata and getattr(thing, item.name) == item.default


def _changed_attributes(kind: type) -> frozenset[str]:
    """The attributes that the user's own methods of a class change once an object is made."""
    methods = [member for base in kind.__mro__ for member in vars(base).values() if isinstance(member, FunctionType)]
    return changed_attributes([text for member in methods if not _is_own(member) and (text := text_of(member)) is not None])


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The parameters that have defaults, with them."""
    code, given = function.__code__, function.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(given) : code.co_argcount], given, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a cell that has not been filled yet
            yield name, "(empty)"


def _globals(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The functions, classes and constants of the function's own module that its code names."""
    for name in _names(function.__code__):
        if name in function.__globals__:
            value = function.__globals__[name]
            ours = isinstance(value, FunctionType | type) and value.__module__ == function.__module__
            if ours or isinstance(value, _PLAIN):
                yield name, value


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> set[str]:
    """The global names that code reads. Attributes do not count, though `co_names` holds them too."""
    read = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return read.union(*(_names(item) for item in code.co_consts if isinstance(item, CodeType)))


def _is_own(thing: Any) -> bool:
    """Whether exptilt itself defines it: then its name is enough, and may move between modules."""
    return str(thing.__module__).startswith(_OWN)


def _is_generated(function: FunctionType) -> bool:
    """Methods that dataclass writes: the fields are described anyway."""
    return function.__code__.co_filename == "<string>"


def _name(thing: Any) -> str:
    qualified = str(thing.__qualname__)
    return qualified if _is_own(thing) else f"{thing.__module__}.{qualified}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
