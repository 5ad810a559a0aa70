"""The judge's side of the conversation with a candidate: it starts one, passes on what the test asks, and raises what is raised.

This file runs inside the sandbox, so it uses the standard library alone. What the candidate says is treated as data only: it is
looked up in tables that are made here, or kept as a value.
"""

from __future__ import annotations

import builtins
import random
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from threading import RLock
from typing import Any, NoReturn

from exptilt.sandbox.copies import Copies
from exptilt.sandbox.messages import receive, send
from exptilt.sandbox.plain import NotPlain, Reader, Writer
from exptilt.sandbox.remote import Broken, Handle, Lost, Remote, handle_of
from exptilt.sandbox.standing import Standing, known_errors, made, new_error

TEST = "the test"  # the file name of the test's code
_INPUT = builtins.input
_SEED = random.seed
_NAMED = type | types.FunctionType | types.BuiltinFunctionType | types.MethodDescriptorType  # what has a module and a name
# What reading a forged message may raise.
_FORGED = (NotPlain, LookupError, TypeError, ValueError, AttributeError, RecursionError)


class Invigilator:
    """Starts a candidate for one program and talks to it.

    ended: the first Broken or Lost that was raised, whatever the test caught.
    doubts: why a failure of the task may not be the program's fault.
    own: the exceptions that the program raised.
    objects: whether the test was given an object of the program's.
    reduced: the class of a value that arrived as its plain relative.
    kept: containers of the test that differ in the candidate.
    space: the test's names.
    provided: what it was given under the program's names.
    copies: containers of which the program holds another copy.
    """

    def __init__(self, command: list[str]) -> None:
        self.channel, theirs = socket.socketpair()
        self.lock = RLock()  # a test may have threads
        self.ended: Broken | Lost | None = None
        self.doubts: list[str] = []
        self.own: list[BaseException] = []
        self.reduced = ""
        self.objects = False
        self.kept: list[Any] = []
        self.seed: Any = None
        self._remotes: dict[int, Any] = {}
        self._errors: dict[int, type[BaseException]] = {}
        self.space: dict[str, Any] = {}
        self.provided: dict[str, Any] = {}
        self.copies = Copies(lambda copy: Writer(lambda value: {"object": id(value)}, own=Remote).contents(copy))
        self._given: list[Any] = []  # functions and iterators of the test that the candidate knows by number
        random.seed = self._seeded
        subprocess.Popen(
            [part if part != "CHANNEL" else str(theirs.fileno()) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()

    def load(self, source: str, names: list[str]) -> dict[str, Any]:
        """Run the program. Returns its values under those of `names` that it has, which are modules, and which can be called."""
        loaded = self._exchange({"load": {"source": source, "names": names}})
        try:
            values: dict[str, Any] = {}
            for name in [name for name in names if name in loaded["values"]]:
                reader = self._reader()
                values[name] = reader.read(loaded["values"][name])
                self.copies.watch(reader.made)
            told = {what: {name for name in names if name in loaded[what]} for what in ("modules", "callables")}
        except _FORGED as error:
            self._stop(Lost(f"the program forged a message: {error}"))
        return {"values": values} | told

    def ask(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """Have the candidate do something. What it changed in the test's lists, dicts and sets changes here too.

        Where something was returned as well, it does not: an expectation that the test computes from its own list would then be
        computed from what the program made of that list.
        """
        with self.lock:
            writer = Writer(self._stand_in, own=Remote)
            sent = {"do": operation, "arguments": [writer.write(item) for item in arguments]}
            sent["keywords"] = {name: writer.write(item) for name, item in keywords.items()}
            if updates := self._updates():
                sent["updates"] = updates
            if self.seed is not None:
                sent["seed"], self.seed = self.seed, None
            answer = self._exchange(sent, writer.met, operation)
            try:
                self.reduced = self.reduced or str(answer["reduced"])
                reader = self._reader()
                value = reader.read(answer["value"])
                held = [writer.met[number] for number in answer["held"]]
                self.copies.watch(held + (reader.made if answer["kept"] is True else []))
                self._refresh(answer["globals"])
                if answer["changed"] and value is None:
                    self._apply(answer["changed"], writer.met)
                elif answer["changed"]:
                    self.kept += [writer.met[number] for number, _ in answer["changed"]]
            except _FORGED as error:
                self._stop(Lost(f"the program forged a message: {error}"))
            return value

    def _refresh(self, changed: dict[str, Any]) -> None:
        """Give the program's names in the test's name space their present values, where the test has not set them itself."""
        for name in changed.keys() & self.provided.keys():
            if self.space.get(name) is self.provided[name]:
                self.space[name] = self.provided[name] = self._reader().read(changed[name])

    def parted(self) -> str:
        """Why a container of the program may differ from the test's copy of it, one of them having changed since; or ""."""
        if self.copies.differ():
            return "the test changed a list, dict or set that the program holds another copy of"
        try:
            parted = self.ended is None and self.ask("parted") is True
        except BaseException:  # noqa: BLE001 (a program that can no longer be asked gets no benefit of the doubt)
            return ""
        return "the program changed a list, dict or set that the test holds another copy of" if parted else ""

    def _updates(self) -> list[Any]:
        """What the test made of its copies: their numbers, and what they hold now.

        So `node.children.append(other)` reaches the program's list.
        """
        copies = self.copies.containers
        writers = [(number, Writer(self._stand_in, own=Remote, met=copies)) for number in self.copies.take_changes()]
        return [[number, writer.contents(copies[number])] for number, writer in writers]

    # --------------------------------------------------------------------------------------------------------- talking

    def _exchange(self, message: dict[str, Any], met: list[Any] | None = None, operation: str = "") -> dict[str, Any]:
        """Send a message, serve the candidate until it has an answer, and return that. What the program raised is raised here."""
        if self.ended is not None:
            raise self.ended
        try:
            send(self.channel, message)
        except NotPlain as error:
            self.refuse(f"the test sends the program more than a message can hold: {error}", any_program=True)
        except OSError as error:
            self._stop(Lost(f"the program is gone: {error}"))
        try:
            while not ("value" in (answer := receive(self.channel)) or "values" in answer or "raised" in answer):
                send(self.channel, self._serve(answer))
            for stream, text in zip((sys.stdout, sys.stderr), answer["printed"], strict=True):
                if text:
                    stream.write(text)
            if "raised" not in answer:
                return answer
            self._refresh(answer.get("globals", {}))
            self._apply(answer.get("changed", []), met or [])
            error = self._raised(answer["raised"], operation)
            self.own.append(error)
        except (EOFError, OSError) as error:
            self._stop(Lost("the program ended its process" if isinstance(error, EOFError) else f"the program is gone: {error}"))
        except _FORGED as error:
            self._stop(Lost(f"the program forged a message: {error}"))
        raise self.own[-1]

    def _serve(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what the candidate asks for while it works: hand it a line of input, or call a function that it was given."""
        if "line" in asked:
            return {"line": self._line()}
        given = self._given[asked["back"]]
        arguments = [self._reader().read(item) for item in asked["arguments"]]
        keywords = {str(name): self._reader().read(item) for name, item in asked["keywords"].items()}
        writer = Writer(self._stand_in, own=Remote)
        try:
            if isinstance(given, Iterator):
                nothing = object()
                value = next(given, nothing)
                return {"ended": True} if value is nothing else {"value": writer.write(value)}
            return {"value": writer.write(given(*arguments, **keywords))}
        except Exception as error:  # noqa: BLE001 (it is the test's error, and the program may catch it)
            kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
            message = [str(each) for each in error.args]
            return {"raised": ["builtins", kind.__name__, writer.write(message)]}

    def _line(self) -> str:
        """A line of what the test put into standard input, or what its `input` returns; "" at the end."""
        try:
            return sys.stdin.readline() if builtins.input is _INPUT else f"{builtins.input()}\n"
        except Exception:  # noqa: BLE001 (a stand-in for `input` that has nothing more to give)
            return ""

    def _apply(self, changed: list[Any], met: list[Any]) -> None:
        """Give the test's mutable containers the contents that they have in the candidate."""
        for number, content in changed:
            Reader(self._find, made=met).refill(met[number], content)

    def _seeded(self, *arguments: Any, **keywords: Any) -> None:
        """Stands in for `random.seed`: the program draws from the seed that the test sets."""
        _SEED(*arguments, **keywords)
        self.seed = Writer(self._stand_in).write([*arguments, *keywords.values()])

    def _stop(self, why: Broken | Lost) -> NoReturn:
        self.ended = self.ended or why
        raise why

    def refuse(self, why: str, any_program: bool = False) -> NoReturn:
        """Raise Broken, for good."""
        self._stop(Broken(why, any_program=any_program))

    # ------------------------------------------------------------------------------------------------ values and errors

    def _reader(self) -> Reader:
        return Reader(self._find)

    def _stand_in(self, value: Any) -> dict[str, Any]:
        """What stands in the candidate for something of the test that is not plain."""
        kind = type(value)
        if kind is Remote:
            return {"object": handle_of(value).number}
        if (number := next((number for number, each in self._remotes.items() if each is value), None)) is not None:
            return {"object": number}
        if (kind is types.FunctionType and value.__code__.co_filename == TEST) or kind is types.MethodType or _is_iterator(kind):
            self._given.append(value)
            return {"iterator" if _is_iterator(kind) else "function": len(self._given) - 1}
        home = value.__objclass__ if kind is types.MethodDescriptorType else value
        if isinstance(value, _NAMED) and home.__module__ in sys.stdlib_module_names:
            return {"known": [home.__module__, value.__qualname__]}
        self.refuse(
            f"the test passes a value of type {kind.__name__} to the program, which takes plain values and functions only",
            any_program=True,
        )

    def _find(self, kind: str, content: Any) -> Any:
        """What stands here for an object of the candidate."""
        if kind == "error":
            return self._error_class(content)
        number = content[0] if kind == "object" else content
        if not isinstance(number, int):
            raise NotPlain("an object without a number")
        if number not in self._remotes:
            make = {"object": self._remote, "coroutine": self._coroutine, "generator": self._generator}[kind]
            self._remotes[number] = make(content)
        return self._remotes[number]

    def _remote(self, content: Any) -> Remote:
        number, name, judges, can_be_called = content
        self.objects = self.objects or not can_be_called
        return Remote(Handle(self.ask, self.refuse, self.doubts.append, number, str(name), judges is True, can_be_called is True))

    async def _coroutine(self, number: int) -> Any:
        return self.ask("await", self._remote([number, "coroutine", False, True]))

    def _generator(self, number: int) -> Iterator[Any]:
        remote, sent = self._remote([number, "generator", False, True]), None
        while True:
            try:
                item = self.ask("next", remote) if sent is None else self.ask("send", remote, sent)
            except StopIteration:
                return
            sent = yield item

    def _error_class(self, told: dict[str, Any]) -> type[BaseException]:
        """The exception class that stands for one of the program: the same, where there is one, or a new one of its kind."""
        number, (module, name) = told["number"], told["name"]
        if number not in self._errors:
            known = known_errors().get((module, name))
            bases = tuple(self._error_class(base) for base in told["bases"]) or (Exception,)
            self._errors[number] = known or new_error(str(name), bases, self.refuse)
        return self._errors[number]

    def _raised(self, told: dict[str, Any], operation: str) -> BaseException:
        """The exception that the program raised, or one that stands for it."""
        kind = self._error_class(told["class"])
        reader = self._reader()
        arguments = reader.read(told["arguments"])
        if not isinstance(arguments, tuple):
            raise NotPlain("an exception without arguments")
        if told["class"]["name"] == ["builtins", "StopIteration"] and operation in ("next", "send"):
            return StopIteration(*arguments)
        if told["class"]["name"] == ["builtins", "StopAsyncIteration"] and operation == "anext":
            return StopAsyncIteration(*arguments)
        error = made(kind, arguments, str(told["message"]))
        fields = {str(name): reader.read(value) for name, value in told["fields"].items()}
        vars(error).update({name: value for name, value in fields.items() if not name.startswith("__")})
        if told["cause"] is not None:
            error.__cause__ = self._raised(told["cause"], "")
        if isinstance(error, Standing):
            vars(error)["_said"] = (str(told["message"]), self._remote([told["object"], kind.__name__, False, True]))
        return error


def _is_iterator(kind: type) -> bool:
    # A file has lines to iterate over, and much else.
    return callable(getattr(kind, "__next__", None)) and not callable(getattr(kind, "read", None)) and kind is not Remote
