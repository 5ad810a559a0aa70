"""Messages over a socket between the program's process and the one that judges it: a length, then JSON.

This file runs inside the sandbox, so it uses the standard library alone.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from exptilt.sandbox.plain import NotPlain

LONGEST_MESSAGE = 1 << 24  # bytes


def send(channel: socket.socket, message: Any) -> None:
    """Send one message: its length in 4 bytes, then JSON. Raises NotPlain where it is too long."""
    content = json.dumps(message).encode()
    if len(content) > LONGEST_MESSAGE:
        raise NotPlain(f"a message of {len(content)} bytes is too long")
    channel.sendall(len(content).to_bytes(4, "big") + content)


def receive(channel: socket.socket) -> Any:
    """The next message. Raises EOFError where the other side is gone, NotPlain where it is too long or not JSON."""
    length = int.from_bytes(receive_bytes(channel, 4), "big")
    if length > LONGEST_MESSAGE:
        raise NotPlain(f"a message of {length} bytes is too long")
    try:
        return json.loads(receive_bytes(channel, length))
    except (ValueError, RecursionError) as error:
        raise NotPlain("an answer that is not JSON") from error


def receive_bytes(channel: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, or EOFError."""
    content = bytearray()
    while len(content) < count:
        if not (part := channel.recv(min(count - len(content), 1 << 20))):
            raise EOFError("the program ended")
        content += part
    return bytes(content)
