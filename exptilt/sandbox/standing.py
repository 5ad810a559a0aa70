"""The exceptions that stand in the judging process for those that a program raises.

This file runs inside the sandbox, so it uses the standard library alone. An exception of a library arrives as itself where its
class is loaded here; one of the program's own arrives as an instance of a new class with the same bases.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NoReturn

# Modules whose exception classes the program may raise here. Test frameworks are not among them: some of theirs mean "skip this".
_RAISING = set(
    "builtins json decimal asyncio re struct zlib queue socket subprocess sqlite3 configparser urllib binascii csv xml email "  # noqa: SIM905
    "concurrent dataclasses copy pickle shutil io ipaddress graphlib zoneinfo statistics calendar numpy".split()
)
# These control loops, generators and task groups here, so a program may not raise them at will; nor asyncio's CancelledError.
_STEERING = (StopIteration, StopAsyncIteration, GeneratorExit, KeyboardInterrupt)


class Standing:
    """What the exceptions that stand for those of the program have in common."""

    refuse: Callable[..., NoReturn]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.refuse(f"the test makes an exception of the program's class {type(self).__name__}, which lives in another process")

    def __str__(self) -> str:
        return vars(self)["_said"][0] if "_said" in vars(self) else Exception.__str__(self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_said" not in vars(self):
            raise AttributeError(name)
        return getattr(vars(self)["_said"][1], name)


def made(kind: type[BaseException], arguments: tuple[Any, ...], message: str) -> BaseException:
    """An exception with the arguments that the program's has."""
    try:
        if not issubclass(kind, Standing):
            return kind(*arguments)
    except Exception:  # noqa: BLE001, S110 (a class that takes other arguments than it keeps)
        pass
    try:
        error = kind.__new__(kind)
        error.args = arguments
    except TypeError:
        return RuntimeError(message)
    return error


def new_error(name: str, bases: tuple[type[BaseException], ...], refuse: Callable[..., NoReturn]) -> type[BaseException]:
    """A class for exceptions of the program, with bases as close to the program's own as possible."""
    bases = tuple(RuntimeError if issubclass(base, _STEERING) else base for base in dict.fromkeys(bases))
    mine = () if any(issubclass(base, Standing) for base in bases) else (Standing,)

    def fill(body: dict[str, Any]) -> None:
        body["refuse"] = staticmethod(refuse)

    try:
        return types.new_class(name, (*mine, *bases), exec_body=fill)
    except TypeError:  # bases that do not go together in one class
        return types.new_class(name, (*mine, bases[0]), exec_body=fill)


def known_errors() -> dict[tuple[str, str], type[BaseException]]:
    """The exception classes that are loaded here, by module and name; those that control this process become RuntimeError."""
    found: dict[tuple[str, str], type[BaseException]] = {}
    waiting: list[type[BaseException]] = [BaseException]
    while waiting:
        kind = waiting.pop()
        waiting += type.__subclasses__(kind)
        if kind.__module__.split(".")[0] in _RAISING:
            steers = issubclass(kind, _STEERING) or kind.__qualname__ == "CancelledError"
            found[kind.__module__, kind.__qualname__] = RuntimeError if steers else kind
    return found
