"""The process that holds a program under examination: it runs the program, then does what the invigilator asks.

This file runs inside the sandbox, so it uses the standard library alone. The program may tamper with everything in this process
and gains nothing by it: only plain values arrive at the other side.
"""

from __future__ import annotations

import builtins
import copy
import importlib
import io
import operator
import os
import resource
import socket
import sys
import types
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

from exptilt.sandbox.copies import Copies
from exptilt.sandbox.messages import receive, send
from exptilt.sandbox.plain import NotPlain, Reader, Writer

LONGEST_REASON = 300  # characters
LONGEST_PRINT = 1 << 20  # bytes that the program printed, handed over with one answer

OPERATIONS: dict[str, Callable[..., Any]] = {
    name: getattr(builtins, name)
    for name in ("iter", "next", "len", "bool", "str", "repr", "hash", "int", "float", "complex", "abs", "round", "reversed")
}
OPERATIONS |= {
    name: getattr(builtins, name) for name in ("format", "divmod", "getattr", "setattr", "delattr", "dir", "isinstance")
}
OPERATIONS |= {"issubclass": issubclass, "anext": anext, "aiter": aiter, "copy": copy.copy, "deepcopy": copy.deepcopy}
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift"):
    OPERATIONS |= {_name: getattr(operator, _name), f"i{_name.rstrip('_')}": getattr(operator, f"i{_name.rstrip('_')}")}
for _name in ("eq", "lt", "le", "gt", "ge", "neg", "pos", "invert", "index", "getitem", "setitem", "delitem", "contains"):
    OPERATIONS[_name] = getattr(operator, _name)
OPERATIONS["enter"] = lambda manager: type(manager).__enter__(manager)
OPERATIONS["exit"] = lambda manager, kind, error, trace: type(manager).__exit__(manager, kind, error, trace)
OPERATIONS["aenter"] = lambda manager: type(manager).__aenter__(manager)
OPERATIONS["aexit"] = lambda manager, kind, error, trace: type(manager).__aexit__(manager, kind, error, trace)
OPERATIONS["send"] = lambda generator, value: generator.send(value)
OPERATIONS["call"] = lambda function, *arguments, **keywords: function(*arguments, **keywords)

_ENDED = object()


class Asking(io.TextIOBase):
    """Standard input: each line comes from the test, which may have put one there."""

    def __init__(self, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._ask = ask

    def readable(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        return self._ask({"line": True})["line"]

    def read(self, size: int | None = -1, /) -> str:
        return "".join(iter(self.readline, ""))


class Candidate:
    """The program's module and the objects of it that the invigilator knows by number."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.copies = Copies(lambda container: self.contents([container])[0])  # containers of which the test has a copy
        self.loop: Any = None
        self.module: dict[str, Any] = {}
        self.told: dict[str, Any] = {}  # what the test was told that the module's names hold
        self.printed: list[Callable[[], str]] = []
        self.value: Any = None  # of the last operation

    def serve(self) -> None:
        """Answer until the invigilator is gone."""
        self.printed = self.take_over_streams()
        while True:
            self.answer(receive(self.channel))

    def answer(self, asked: dict[str, Any]) -> None:
        """Do what is asked, and send the outcome."""
        try:
            answer = self.load(**asked["load"]) if "load" in asked else self.apply(asked)
        except BaseException as error:  # noqa: BLE001 (the program may raise anything; it is for the test to judge)
            answer = self.raised(error)
        answer["printed"] = [stream() for stream in self.printed]
        try:
            send(self.channel, answer)
        except NotPlain:  # it is too long, so it stays here
            send(self.channel, answer | {"value": self.stand_in(self.value)})

    def take_over_streams(self) -> list[Callable[[], str]]:
        """Take standard input from the test, and keep what is printed. Returns functions that give it, each part once."""
        sys.stdin = Asking(self.ask)  # type: ignore[assignment]
        functions = []
        for name in ("stdout", "stderr"):
            content = io.BytesIO()
            setattr(sys, name, io.TextIOWrapper(content, "utf-8", "surrogatepass", newline="\n", write_through=True))
            functions.append(lambda content=content: _taken(content))
        return functions

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Have the invigilator do something while it waits for an answer; what it does may ask for something in turn."""
        send(self.channel, message)
        while "do" in (answer := receive(self.channel)):
            self.answer(answer)
        return answer

    # ------------------------------------------------------------------------------------------- what the program gives

    def stand_in(self, value: Any) -> dict[str, Any]:
        """What stands for a value that is not plain: its number, and what kind of object it is."""
        kind = type(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"error": self.error_class(value)}
        number = self.keep(value)
        if kind is types.CoroutineType:
            return {"coroutine": number}
        if kind is types.GeneratorType:
            return {"generator": number}
        return {"object": [number, kind.__name__, kind.__eq__ is not object.__eq__, callable(value)]}

    def keep(self, value: Any) -> int:
        """The number of an object, from now on."""
        number = self.numbers.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            self.objects.append(value)
        return number

    def error_class(self, kind: type[BaseException]) -> dict[str, Any]:
        """What describes an exception class to the invigilator: where it is from, and its bases."""
        bases = [self.error_class(base) for base in kind.__bases__ if issubclass(base, BaseException)]
        return {"number": self.keep(kind), "name": [kind.__module__, kind.__qualname__], "bases": bases}

    def raised(self, error: BaseException) -> dict[str, Any]:
        """The answer for an exception that the program raised."""
        arguments = error.args
        if isinstance(error, OSError) and error.filename is not None and len(arguments) == 2:
            arguments = (*arguments, error.filename)
        writer = Writer(self.stand_in)
        fields = {name: writer.write(value) for name, value in vars(error).items() if isinstance(name, str)}
        cause = None if error.__cause__ is None else self.raised(error.__cause__)["raised"]
        said = {"class": self.error_class(type(error)), "object": self.keep(error), "fields": fields, "cause": cause}
        return {"raised": said | {"arguments": writer.write(arguments), "message": str(error)[:LONGEST_REASON]}}

    # --------------------------------------------------------------------------------------------- what the test gives

    def find(self, kind: str, content: Any) -> Any:
        """What stands here for something of the test, or for an object that was handed out before."""
        if kind == "object":
            return self.objects[content]
        if kind == "known":
            module, name = content
            return reduce(getattr, name.split("."), importlib.import_module(module))
        return self.iterator(content) if kind == "iterator" else self.function(content)

    def function(self, number: int) -> Callable[..., Any]:
        """A function of the test, called there."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self.call_back(number, arguments, keywords)["value"]

        return call

    def iterator(self, number: int) -> Iterator[Any]:
        """An iterator of the test."""
        while "ended" not in (answer := self.call_back(number, (), {})):
            yield answer["value"]

    def call_back(self, number: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
        """Call the test's function or iterator `number`; {"value"} or {"ended"}. Raises what it raises."""
        writer = Writer(self.stand_in)
        named = {name: writer.write(item) for name, item in keywords.items()}
        answer = self.ask({"back": number, "arguments": [writer.write(item) for item in arguments], "keywords": named})
        if "raised" in answer:
            module, name, said = answer["raised"]
            kind = reduce(getattr, name.split("."), importlib.import_module(module))
            raise kind(*Reader(self.find).read(said))  # type: ignore[operator]
        return {name: Reader(self.find).read(value) for name, value in answer.items()}

    # ---------------------------------------------------------------------------------------------------- being asked

    def load(self, source: str, names: list[str]) -> dict[str, Any]:
        """Run the program as a module. Returns what it has under the names that are asked for."""
        module = types.ModuleType("program")
        sys.modules["program"] = module
        exec(compile(source, "program.py", "exec", dont_inherit=True), vars(module))
        found = {name: vars(module)[name] for name in names if name in vars(module)}
        values, kept = {}, []
        for name, value in found.items():
            writer = Writer(self.stand_in)
            values[name] = writer.write(value)
            kept += writer.met
        self.copies.watch(kept)
        self.module, self.told = vars(module), values
        modules = [name for name, value in found.items() if isinstance(value, types.ModuleType)]
        return {"values": values, "modules": modules, "callables": [name for name, value in found.items() if callable(value)]}

    def apply(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do one operation. Returns its value, and what it changed in the mutable containers among its arguments."""
        reader = Reader(self.find)
        arguments = [reader.read(item) for item in asked["arguments"]]
        keywords = {name: reader.read(item) for name, item in asked["keywords"].items()}
        if "seed" in asked:
            importlib.import_module("random").seed(*reader.read(asked["seed"]))
        self.update(asked.get("updates", []))
        before = self.contents(reader.made)
        answer: dict[str, Any] = {}
        try:
            self.value = self.do(asked["do"], arguments, keywords)
            passed = [*arguments, *keywords.values()]
            given = [number for number, each in enumerate(reader.made) if any(each is item for item in passed)]
            passed.clear()
            arguments.clear()
            keywords.clear()
            # Two references are this object's or the reader's, and the call's; whatever else holds a container may change it.
            kept = sys.getrefcount(self.value) > 2 + any(self.value is each for each in reader.made)
            held = [number for number in given if sys.getrefcount(reader.made[number]) > 2 + (reader.made[number] is self.value)]
            writer = Writer(self.stand_in)
            answer = {"value": writer.write(self.value), "reduced": writer.reduced, "kept": kept, "held": held}
            self.copies.watch([reader.made[number] for number in held] + (writer.met if kept else []))
        except BaseException as error:  # noqa: BLE001 (the program may raise anything; it is for the test to judge)
            answer = self.raised(error)
        after = self.contents(reader.made)
        changed = [[number, now] for number, (was, now) in enumerate(zip(before, after, strict=True)) if was != now]
        return answer | {"changed": changed, "globals": self.changed_globals()}

    def changed_globals(self) -> dict[str, Any]:
        """What the program's names that the test uses hold, where the value has changed since the test was last told."""
        there = [name for name in self.told if name in self.module]
        now = {name: Writer(self.stand_in).write(self.module[name]) for name in there}
        changed = {name: value for name, value in now.items() if value != self.told[name]}
        self.told.update(changed)
        return changed

    def update(self, updates: list[Any]) -> None:
        """Make containers hold what the test made of its copies of them."""
        containers = self.copies.containers
        for number, content in updates:
            Reader(self.find, made=containers).refill(containers[number], content)
        self.copies.accept(number for number, _ in updates)

    def do(self, operation: str, arguments: list[Any], keywords: dict[str, Any]) -> Any:
        if operation == "parted":
            return self.copies.differ()
        if operation == "await":
            return self.wait_for(arguments[0])
        value = OPERATIONS[operation](*arguments, **keywords)
        if operation not in ("anext", "aenter", "aexit"):
            return value
        # No coroutine can pass StopAsyncIteration on, so the end of a loop comes out of `wait_for` as a value.
        if (found := self.wait_for(value)) is _ENDED:
            raise StopAsyncIteration
        return found

    def wait_for(self, awaitable: Any) -> Any:
        """The result of something awaitable, in an event loop of this process."""
        asyncio = importlib.import_module("asyncio")
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)

        async def waiting() -> Any:
            try:
                return await awaitable
            except StopAsyncIteration:
                return _ENDED

        return self.loop.run_until_complete(waiting())

    def contents(self, made: list[Any]) -> list[Any]:
        """What the mutable containers of the test hold now."""
        return [Writer(self.stand_in, met=made).contents(value) for value in made]


def _taken(content: io.BytesIO) -> str:
    """What was written; the buffer is empty afterwards."""
    text = content.getvalue()[:LONGEST_PRINT].decode("utf-8", "replace")
    content.seek(0)
    content.truncate()
    return text


def main() -> None:
    """Serve the socket of the first argument, within the second's seconds of CPU time."""
    descriptor, cpu_seconds = sys.argv[1:]
    sys.argv[:] = ["program.py"]
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), int(cpu_seconds)))
    os.environ["HOME"] = os.getcwd()
    sys.path.insert(0, "")
    Candidate(socket.socket(fileno=int(descriptor))).serve()
