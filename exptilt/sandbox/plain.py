"""Plain values as JSON, and messages over a socket: what passes between the program's process and the one that judges it.

Part of what runs inside the sandbox, so it uses the standard library alone. Reading a message never runs code of the other
side: it is JSON, and only plain values are made of it.
"""

from __future__ import annotations

import builtins
import json
import numbers
import socket
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST_MESSAGE = 1 << 24  # bytes


class NotPlain(Exception):
    """A value that cannot be sent as data."""


def encode(value: Any, represent: Callable[[Any], int]) -> Any:
    """A JSON value for a plain one; what is not plain is passed to `represent`, which returns a number that stands for it."""
    if value is None or isinstance(value, bool | str):
        return value if value is None or isinstance(value, bool) else str(value)
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return {"int": hex(value)}
    if isinstance(value, numbers.Rational):
        return {"fraction": [hex(value.numerator), hex(value.denominator)]}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, numbers.Complex):
        return {"complex": [complex(value).real, complex(value).imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytearray" if isinstance(value, bytearray) else "bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[encode(key, represent), encode(item, represent)] for key, item in value.items()]}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item, represent) for item in value]}
    return {"object": represent(value)}


def decode(sent: Any, find: Callable[[int], Any]) -> Any:
    """The plain value of what `encode` made; `find` turns the number of an object into what stands for it here."""
    if not isinstance(sent, dict):
        return sent
    ((kind, content),) = sent.items()
    if kind in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, kind)([decode(item, find) for item in content])
    make = {
        "int": lambda: int(content, 16),
        "fraction": lambda: Fraction(*(int(part, 16) for part in content)),
        "decimal": lambda: Decimal(content),
        "complex": lambda: complex(*content),
        "bytes": lambda: bytes.fromhex(content),
        "bytearray": lambda: bytearray.fromhex(content),
        "dict": lambda: {decode(key, find): decode(item, find) for key, item in content},
        "object": lambda: find(content),
    }
    return make[kind]()


def send(channel: socket.socket, message: Any) -> None:
    """Send one message: its length in 4 bytes, then JSON."""
    content = json.dumps(message).encode()
    channel.sendall(len(content).to_bytes(4, "big") + content)


def receive(channel: socket.socket) -> Any:
    """The next message. Raises EOFError where the other side is gone, NotPlain where it is too long or none."""
    length = int.from_bytes(receive_bytes(channel, 4), "big")
    if length > LONGEST_MESSAGE:
        raise NotPlain(f"an answer of {length} bytes")
    try:
        return json.loads(receive_bytes(channel, length))
    except ValueError as error:
        raise NotPlain("an answer that is no message") from error


def receive_bytes(channel: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, or EOFError."""
    content = bytearray()
    while len(content) < count:
        if not (part := channel.recv(min(count - len(content), 1 << 20))):
            raise EOFError("the program ended")
        content += part
    return bytes(content)
