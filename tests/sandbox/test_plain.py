"""Values between the two processes of an examination: they arrive as they were, and a forged message makes none."""

from __future__ import annotations

import json
import math
import socket
from array import array
from collections import Counter, OrderedDict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from exptilt.sandbox.examiner import canonical
from exptilt.sandbox.messages import receive, send
from exptilt.sandbox.plain import DEEPEST, NotPlain, Reader, Writer


class Colour(IntEnum):
    RED = 1


class Word(str, Enum):  # noqa: UP042 (its text is not its class's str)
    YES = "yes"


class Point(NamedTuple):
    x: Any
    y: Any


def refuse(*what: Any) -> Any:
    raise NotPlain(f"{what!r}")


def through(value: Any) -> Any:
    return Reader(refuse).read(json.loads(json.dumps(Writer(refuse).write(value))))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(10**500),
        1.5,
        -math.inf,
        2j,
        "é\ud800",
        b"\x00",
        bytearray(b"x"),
        Fraction(1, 3),
        Decimal("0.10"),
        (1, [2]),
        {"a": {1, 2}, (1,): frozenset("b")},
        datetime(2024, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))),
        date(2024, 2, 29),
        time(23, 59, fold=1),
        timedelta(days=-1, microseconds=1),
        range(0, 10**30, 7),
        Path("a/b"),
        deque([1, [2]], maxlen=5),
        Counter("aab"),
        OrderedDict(b=1, a=2),
        array("d", [1.5]),
        int,
        ...,
        [],
        {},
    ],
    ids=repr,
)
def test_plain_values_arrive_as_they_were(value: Any):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, Writer(refuse).write(value))
        arrived = Reader(refuse).read(receive(theirs))
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(np.int64(3), 3), (np.float32(0.5), 0.5), (np.bool_(True), True), (np.str_("a"), "a"), (Colour.RED, 1), (Word.YES, "yes")],
    ids=repr,
)
def test_relatives_of_plain_values_arrive_as_plain_and_are_noted(value: Any, plain: Any):
    """A text's enum once arrived as "Word.YES", by the `str` of its class."""
    arrived = through(value)
    assert arrived == plain
    assert type(arrived) is type(plain)
    writer = Writer(refuse)
    writer.write([value])
    assert writer.reduced == type(value).__name__


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6.0).reshape(2, 3),
        np.array([1, 2], np.int8),
        np.array(["a", "bc"]),
        np.array(True),
        np.zeros((0, 2)),
        np.array([1j]),
    ],
    ids=repr,
)
def test_arrays_arrive_as_they_were(value: Any):
    arrived = through(value)
    np.testing.assert_array_equal(arrived, value)
    assert (arrived.dtype, arrived.shape) == (value.dtype, value.shape)
    arrived[...] = arrived  # it can be written to


def test_a_named_tuple_keeps_its_names():
    arrived = through(Point(1, [2]))
    assert arrived == (1, [2])
    assert (arrived.x, arrived.y, arrived._fields, repr(arrived)) == (1, [2], ("x", "y"), "Point(x=1, y=[2])")


def test_one_container_under_two_names_stays_one():
    inner: list[Any] = [1]
    inner.append(inner)
    first, second = through([inner, inner])
    assert first is second is first[1]


def test_changed_containers_are_filled_again():
    """What one side changed, the other changes in its own objects, and references between them stay."""
    ours: list[Any] = [[1], {"a": 1}, {2}, deque([3]), bytearray(b"x"), np.zeros(2)]
    writer = Writer(refuse)
    reader = Reader(refuse)
    theirs = reader.read(json.loads(json.dumps(writer.write(ours))))
    theirs[0].append(theirs[1])
    theirs[1]["a"] = 2
    theirs[2].clear()
    theirs[3].append(4)
    theirs[4] += b"y"
    theirs[5][1] = 5
    kept = list(ours)
    for place, value in enumerate(reader.made):
        Reader(refuse, made=writer.met).refill(writer.met[place], Writer(refuse, met=reader.made).contents(value))
    assert all(one is other for one, other in zip(ours, kept, strict=True))
    assert ours[:5] == [[1, {"a": 2}], {"a": 2}, set(), deque([3, 4]), bytearray(b"xy")]
    assert ours[0][1] is ours[1]
    assert ours[5].tolist() == [0, 5]


def test_what_is_nested_too_deep_is_no_plain_value():
    value: list[Any] = []
    for _ in range(DEEPEST + 1):
        value = [value]
    with pytest.raises(NotPlain):
        Writer(refuse).write(value)
    assert through(value[0]) == value[0]


@pytest.mark.parametrize(
    "sent",
    [
        5,
        {},
        {"int": 5},
        {"int": "0x1", "list": []},
        {"list": 3},
        {"again": 7},
        {"dict": [[1]]},
        {"dict": [[{"list": []}, 1]]},
        {"fraction": ["0x1", "0x0"]},
        {"decimal": "x"},
        {"ndarray": ["|O", [1], "00"]},
        {"ndarray": ["<f8", [10**9], "00"]},
        {"ndarray": ["<i4,<i4", [1], "00" * 8]},
        {"type": "eval"},
        {"constant": "quit"},
        {"date": "yesterday"},
        {"record": ["P", ["x"], []]},
        {"array": ["w", ""]},
        {"__class__": "x"},
    ],
    ids=repr,
)
def test_a_forged_value_is_refused(sent: Any):
    with pytest.raises(NotPlain):
        Reader(refuse).read(sent)


def test_equal_values_have_equal_canonical_forms():
    assert canonical({"b": 1, "a": {2, 1}}) == canonical({"a": {1, 2}, "b": 1})
    assert canonical(0.1 + 0.2) == canonical(0.3) != canonical(0.3000001)
    assert len({canonical(value) for value in (1, 1.0, True, "1", [1], (1,), {1}, None)}) == 7
    assert canonical(Counter("aab")) == canonical({"b": 1, "a": 2})
    assert canonical(np.array([0.1 + 0.2])) == canonical(np.array([0.3])) != canonical(np.array([[0.3]]))
    assert canonical(Point(1, 2)) == canonical((1, 2))
    long = "x" * 30_000
    assert canonical(long) != canonical(long + "y")
    assert len(canonical([long])) < 30_000


def test_a_message_that_is_too_long_or_none_is_refused():
    for content in (b"\xff" * 8, (3).to_bytes(4, "big") + b"{{{"):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(content)
            with pytest.raises(NotPlain):
                receive(theirs)
