"""How a sampler is offered outside of Python: its name, its line in a list, and its fields as settings.

A sampler gives the first two itself, beside its fields:

    command: ClassVar[Command] = Command("independent", "n independent responses", start={"n": 16})

Its settings follow from the fields of its dataclass: the type tells how a text is read, and the docstring's line
"name: what it is." is the help. A sampler without a `command` can be used all the same, by FILE.py:NAME.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from exptilt.core import Sampler
from exptilt.errors import UsageError
from exptilt.objects import find_object


@dataclass(frozen=True)
class Command:
    """A sampler's own words about itself.

    name: what the command line calls it.
    help: one line on what it does.
    start: values by field, for a field without a default or where another value suits a first try better.
    """

    name: str
    help: str
    start: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A field of a sampler, to be given as text.

    name: the field's name.
    kind: its type, without `| None`.
    optional: whether None is allowed, written "none".
    default: the value where none is given; MISSING where one must be.
    help: one line on what it is.
    """

    name: str
    kind: Any
    optional: bool
    default: Any
    help: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """The only values allowed; empty where others are allowed too."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def metavar(self) -> str:
        """The placeholder for a value in help texts."""
        if self.choices:
            return "{" + ",".join(map(str, self.choices)) + "}"
        if get_origin(self.kind) is tuple:
            return "X,X,.."
        if self.kind == int | str:
            return "N|TEXT"
        return {int: "N", float: "X", str: "TEXT", bool: "true|false"}.get(self.kind, "SPEC")

    def read(self, text: Any) -> Any:
        """The value of a text; anything else is returned unchanged. Raises UsageError for a text of another type."""
        if not isinstance(text, str):
            return text
        if self.optional and text == "none":
            return None
        if self.choices:
            return self._chosen(text)
        if get_origin(self.kind) is tuple:
            return tuple(self._number(float, part) for part in text.split(","))
        if self.kind is bool:
            if text.lower() not in ("true", "false"):
                raise UsageError(f"{text!r} is neither true nor false")
            return text.lower() == "true"
        if self.kind == int | str:
            return int(text) if text.isdecimal() else text.replace("\\n", "\n").replace("\\t", "\t")
        if self.kind in (int, float):
            return self._number(self.kind, text)
        return text if self.kind is str else self._object(text)

    def _object(self, text: str) -> Any:
        """Whether the setting is a function, such as one of partial drafts."""
        found = find_object(text)
        if get_origin(self.kind) is Callable and not callable(found):
            raise UsageError(f"{text} is {found!r:.80} and cannot be called: give a function")
        return found

    def _chosen(self, text: str) -> Any:
        for choice in self.choices:
            if text == str(choice):
                return choice
        raise UsageError(f"{text!r} is not one of {', '.join(map(str, self.choices))}")

    def _number(self, kind: type[int] | type[float], text: str) -> int | float:
        try:
            return kind(text)
        except ValueError:
            or_none = ', or "none"' if self.optional else ""
            raise UsageError(f"{text!r} is not a {'whole ' * (kind is int)}number{or_none}") from None


def settings(kind: type[Any], start: Mapping[str, Any] | None = None) -> Iterator[Setting]:
    """The settings of a sampler, in the order of its fields. start: values that replace the sampler's own defaults.

    Raises UsageError where it is not a dataclass, or one with types that cannot be found.
    """
    if not is_dataclass(kind):
        raise UsageError(f"the sampler {kind.__qualname__} is not a dataclass: its settings are the fields of one")
    try:
        hints = get_type_hints(kind)
    except NameError as error:
        raise UsageError(f"the fields of {kind.__qualname__} have a type that cannot be found: {error}") from error
    first = own_command(kind).start if start is None else start
    helps = field_helps(kind)
    for item in fields(kind):
        if item.init:
            bare, optional = _bare(hints[item.name])
            default = first[item.name] if item.name in first else _default(item)
            text = helps.get(item.name) or f'not described: {kind.__qualname__}\'s docstring has no line "{item.name}: ..."'
            yield Setting(item.name, bare, optional, default, text)


def own_command(kind: type[Any]) -> Command:
    """What a sampler says of itself; its class's name and first line where it says nothing."""
    found = getattr(kind, "command", None)
    if isinstance(found, Command):
        return found
    return Command(kind.__qualname__, (inspect.getdoc(kind) or "a sampler without a docstring").splitlines()[0].rstrip("."))


def field_helps(kind: type[Any]) -> dict[str, str]:
    """Each field's line "name: what it is." of the docstring, joined with the lines after it that are indented deeper."""
    names = {item.name for item in fields(kind)}
    found: dict[str, list[str]] = {}
    current, depth = None, 0
    for line in (inspect.getdoc(kind) or "").splitlines():
        indent = len(line) - len(line.lstrip())
        match = re.match(r"\s*(\w+)\s*(?:\([^()]*\))?:\s+(\S.*)", line)
        if match and match[1] in names:
            current, depth = match[1], indent
            found[current] = [match[2].strip()]
        elif current and line.strip() and indent > depth:
            found[current].append(line.strip())
        else:
            current = None
    return {name: " ".join(lines).rstrip(".") for name, lines in found.items()}


def is_sampler(setting: Setting) -> bool:
    """Whether the setting is another sampler, such as the one whose runs `Metropolised` proposes."""
    return setting.kind is Sampler


def _default(item: Any) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _bare(annotation: Any) -> tuple[Any, bool]:
    """The type without `| None`, and whether None was allowed."""
    if get_origin(annotation) not in (UnionType, Union):
        return annotation, False
    options = [option for option in get_args(annotation) if option is not NoneType]
    if {int, str} <= {*options}:
        return int | str, NoneType in get_args(annotation)  # a number where it is one, else a text
    widest = next((kind for kind in (str, float) if kind in options), Callable)
    return (options[0] if len(options) == 1 else widest), NoneType in get_args(annotation)
