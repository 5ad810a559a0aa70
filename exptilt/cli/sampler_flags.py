"""A sampler's flags are the fields of its dataclass, with the help of its docstring."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from exptilt.cli.parts import SAMPLERS, find_object
from exptilt.core import Sampler

_ONE_LINE = {
    "ets": "guided selection among candidate continuations, by the energy of their rollouts",
    "independent": "n independent responses, importance-weighted: best-of-n, votes, MBR",
    "mcmc": "redraw a random suffix, accept by the reward (QAlign): few tokens per step",
    "smc": "a particle filter over partial responses",
    "metropolised": "a Markov chain of runs of another sampler (--inner), exact in the limit",
}
# Where the class has no default, or none that is of use here.
_START = {"n": 16, "candidates": 8, "particles": 16, "steps": 32, "block": 32}


def add_sampler(parser: argparse.ArgumentParser, name: str, inner: str) -> None:
    listed = "\n".join(f"  {'*' if other == name else ' '} {other:<14}{line}" for other, line in _ONE_LINE.items())
    below = "The flags below are those of *; --sampler NAME --help shows another's."
    group = parser.add_argument_group("sampler", f"{listed}\n\n{below}")
    group.add_argument("--sampler", choices=tuple(SAMPLERS), default="ets", help="default ets")
    if name not in SAMPLERS:
        return  # the parser will refuse it
    if name == "metropolised":
        group.add_argument(
            "--inner",
            choices=("ets", "independent", "smc"),
            default="ets",
            help="the sampler whose runs are the chain's proposals",
        )
    for kind in _kinds(name, inner):
        described = field_help(kind)
        for item, annotation in _fields(kind):
            _add_field(group, item, annotation, described.get(item.name, ""))


def _kinds(name: str, inner: str) -> list[type[Any]]:
    return [SAMPLERS[name], *([SAMPLERS[inner]] if name == "metropolised" and inner in SAMPLERS else [])]


def _fields(kind: type[Any]) -> Iterator[tuple[Field[Any], Any]]:
    """The fields of a sampler that are flags, with their types; another sampler is not a flag but `--inner`."""
    hints = get_type_hints(kind)
    for item in fields(kind):
        if hints[item.name] is not Sampler:
            yield item, hints[item.name]


def _add_field(group: argparse._ArgumentGroup, item: Field[Any], annotation: Any, text: str) -> None:
    flag, default = "--" + item.name.replace("_", "-"), _default(item)
    text = f"{text} (default {'none' if default is None else default})".replace("%", "%%")
    bare, optional = _bare(annotation)
    if bare is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text.split(" (default")[0])
    elif get_origin(bare) is Literal:
        group.add_argument(flag, choices=get_args(bare), default=default, help=text)
    else:
        read, metavar = _reader(bare)
        group.add_argument(flag, type=_or_none(read) if optional else read, metavar=metavar, default=default, help=text)


def _default(item: Field[Any]) -> Any:
    return _START[item.name] if item.default is MISSING or (item.name == "block" and item.default is None) else item.default


def _bare(annotation: Any) -> tuple[Any, bool]:
    """The type without `| None`, and whether None was allowed."""
    options = [option for option in get_args(annotation) if option is not NoneType]
    is_optional = NoneType in get_args(annotation)
    return (options[0], True) if is_optional else (annotation, False)


def _reader(bare: Any) -> tuple[Callable[[str], Any], str]:
    if bare in (int, float):
        return bare, "N" if bare is int else "X"
    if get_origin(bare) is tuple:
        return numbers, "X,X,.."
    return find_object, "SPEC"  # a function of partial drafts


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def read_or_none(text: str) -> Any:
        return None if text == "none" else read(text)

    read_or_none.__name__ = read.__name__  # argparse names the type by this
    return read_or_none


def field_help(kind: type[Any]) -> dict[str, str]:
    """The help of each field: the docstring's "name: text." sentences, from one name to the next."""
    names = "|".join(item.name for item in fields(kind))
    paragraphs = [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(kind) or "").split("\n\n")]
    parts = [re.split(rf"(?:^|(?<=\. ))({names}): ", paragraph) for paragraph in paragraphs]
    return {name: said.strip().rstrip(".") for part in parts for name, said in zip(part[1::2], part[2::2], strict=True)}
