"""The process that holds a program under examination: it runs the program, then does as the invigilator asks.

Part of what runs inside the sandbox, so it uses the standard library alone. Everything in this process is the program's to
tamper with, which gains it nothing: what arrives at the other side is plain values.
"""

from __future__ import annotations

import operator
import os
import resource
import socket
import sys
import types
from typing import Any

from exptilt.sandbox.plain import decode, encode, receive, send

LONGEST_REASON = 300  # characters

OPERATIONS = {
    "call": lambda function, *arguments: function(*arguments),
    "getattr": getattr,
    "iter": iter,
    "next": next,
    "len": len,
    "getitem": operator.getitem,
    "contains": operator.contains,
    "bool": bool,
    "str": str,
    "repr": repr,
    "eq": operator.eq,
}


class Candidate:
    """The program's module and the objects of it that the invigilator knows by number."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.objects: list[Any] = []

    def represent(self, value: Any) -> int:
        """Keep an object; its number."""
        self.objects.append(value)
        return len(self.objects) - 1

    def serve(self) -> None:
        """Answer until the invigilator is gone."""
        while True:
            asked = receive(self.channel)
            try:
                answer = self.load(asked["load"]) if "load" in asked else self.apply(asked)
            except BaseException as error:  # noqa: BLE001 (the program may raise anything; it is for the test to judge)
                kinds = [kind.__name__ for kind in type(error).__mro__]
                answer = {"raised": kinds, "message": str(error)[:LONGEST_REASON]}
            send(self.channel, answer)

    def load(self, source: str) -> dict[str, Any]:
        """Run the program as a module; the modules and values that its names hold."""
        module = types.ModuleType("program")
        sys.modules["program"] = module
        exec(compile(source, "program.py", "exec"), vars(module))
        names = {name: value for name, value in vars(module).items() if not name.startswith("__")}
        modules = {name: value.__name__ for name, value in names.items() if isinstance(value, types.ModuleType)}
        values = {name: encode(value, self.represent) for name, value in names.items() if name not in modules}
        return {"modules": modules, "values": values}

    def apply(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do one operation; its value, and what lists, dicts and sets among the arguments are afterwards."""
        arguments = [decode(item, self.objects.__getitem__) for item in asked["arguments"]]
        keywords = {name: decode(item, self.objects.__getitem__) for name, item in asked["keywords"].items()}
        value = arguments[0](*arguments[1:], **keywords) if keywords else OPERATIONS[asked["operation"]](*arguments)
        after = [encode(item, self.represent) if isinstance(item, list | dict | set) else None for item in arguments]
        return {"value": encode(value, self.represent), "after": after}


def main(descriptor: int, folder: str, cpu_seconds: int) -> None:
    """Serve the socket `descriptor` from `folder`, within `cpu_seconds` of this process's CPU time."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    os.chdir(folder)
    Candidate(socket.socket(fileno=descriptor)).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
