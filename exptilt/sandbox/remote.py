"""`Remote`: stands in the judging process for an object of the program, and asks the candidate for everything that it does.

This file runs inside the sandbox, so it uses the standard library alone.

Whatever a test asks about an object is the word of the program's class. That is as it should be for `stack.pop() == 3`, where the
program has to know the 3. It is not where the class would judge the value that the test expects: `abs(f(2) - 4) < 1e-6` must not
pass because `f` returned an object that says 0 when 4 is subtracted from it. So where an object and a value of the test meet in
an operator, what comes out must be an object again, and of that object a test may ask only what no plain value has:
`(v * 3).x == 6` passes, since a test that looks for `.x` expects no number there. All else is `Broken`. An object never equals a
plain value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

from exptilt.sandbox.plain import PREDICATES

_PLAIN = (int, complex, str, bytes, list, tuple, dict, set, range, deque, date, time, datetime, timedelta, Decimal, Fraction)
_OF_ARRAYS = (
    "T all any argmax argmin argsort astype clip cumsum diagonal dot dtype equals flat flatten item max mean min nbytes ndim "  # noqa: SIM905
    "nonzero prod ravel reshape round shape size sort squeeze std sum take tobytes tolist trace transpose values var view".split()
)
PLAIN_NAMES = {name for kind in (*_PLAIN, float) for name in dir(kind)} | set(_OF_ARRAYS)
# The only names with two underscores that are looked up in the program. Others give rights, such as to numpy to read an address.
ALLOWED = {"__name__", "__qualname__", "__module__", "__annotations__", "__version__", "__wrapped__", "__cause__", "__context__"}


class Broken(BaseException):
    """The task cannot be carried out; no `except Exception` of a test may catch it.

    any_program: whether it cannot be carried out on any program, so that the test is at fault.
    """

    def __init__(self, why: str, *, any_program: bool = False) -> None:
        super().__init__(why)
        self.any_program = any_program


class Lost(BaseException):
    """The candidate is gone, or sent what no candidate sends, so the program has failed; no `except Exception` may catch it."""


@dataclass(eq=False)
class Handle:
    """What a `Remote` knows of itself.

    ask: has the candidate do an operation.
    refuse: raises Broken.
    doubt: notes why a failure may not be the program's fault.
    number: the object's number in the candidate.
    kind: the name of its class.
    judges: whether its class says what equals it.
    callable: whether it can be called.
    mixed: whether it came out of an operator on an object and a value of the test.
    """

    ask: Callable[..., Any]
    refuse: Callable[[str], NoReturn]
    doubt: Callable[[str], None]
    number: int
    kind: str
    judges: bool
    callable: bool
    mixed: bool = False


class Remote:
    """An object of the program: to be called, asked, computed with, and compared with other objects of the program."""

    __slots__ = ("__handle", "__weakref__")

    def __init__(self, handle: Handle) -> None:
        object.__setattr__(self, "_Remote__handle", handle)

    def __getattr__(self, name: str) -> Any:
        handle = handle_of(self)
        if name == "__mro_entries__":
            handle.refuse("the test derives a class of its own from a class of the program, which lives in another process")
        if name in PREDICATES:
            handle.refuse(f"the test asks .{name}() of an object of the program ({handle.kind}), whose class would be the judge")
        if name.startswith("__") and name not in ALLOWED:
            handle.doubt(f"the test looks for .{name}, which is not passed on by an object of the program ({handle.kind})")
            raise AttributeError(f"an object of {handle.kind!r} does not pass on the attribute {name!r}")
        if name in PLAIN_NAMES:
            refuse_mixed(self, f".{name}")
        return handle.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        handle_of(self).ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        handle_of(self).ask("delattr", self, name)

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        # isinstance() asks for this, and would believe a class of this process.
        handle = handle_of(self)
        if not handle.callable:
            handle.doubt(f"the test asks for the type of an object of the program ({handle.kind})")
        kind = handle.ask("getattr", self, "__class__")
        return kind if is_remote(kind) else Remote

    @property
    def __doc__(self) -> Any:  # type: ignore[override]
        return handle_of(self).ask("getattr", self, "__doc__")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return handle_of(self).ask("getattr", self, "__dict__")

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return handle_of(self).ask("call", self, *arguments, **keywords)

    def __iter__(self) -> Iterator[Any]:
        refuse_mixed(self, "the items")
        iterator = handle_of(self).ask("iter", self)
        return iterate(iterator) if is_remote(iterator) else iter(iterator)

    def __next__(self) -> Any:
        return handle_of(self).ask("next", self)

    def __reversed__(self) -> Any:
        return handle_of(self).ask("reversed", self)

    def __getitem__(self, key: Any) -> Any:
        refuse_mixed(self, "an item")
        return handle_of(self).ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        handle_of(self).ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        handle_of(self).ask("delitem", self, key)

    def __contains__(self, item: Any) -> bool:
        return bool(judged(self, item, handle_of(self).ask("contains", self, item) or None))

    def __eq__(self, other: object) -> bool:
        handle = handle_of(self)
        if is_remote(other):
            return bool(handle.ask("eq", self, other))
        if handle.judges and other is not None:
            handle.doubt(f"the test compares an object of the program ({handle.kind}) with a value of its own")
        return False

    def __hash__(self) -> int:
        return handle_of(self).ask("hash", self)

    def __enter__(self) -> Any:
        return handle_of(self).ask("enter", self)

    def __exit__(self, *error: Any) -> Any:
        return handle_of(self).ask("exit", self, *self._told(error))

    def __await__(self) -> Iterator[Any]:
        return self._wait("await").__await__()

    def __aiter__(self) -> Any:
        return handle_of(self).ask("aiter", self)

    async def __anext__(self) -> Any:
        return handle_of(self).ask("anext", self)

    async def __aenter__(self) -> Any:
        return handle_of(self).ask("aenter", self)

    async def __aexit__(self, *error: Any) -> Any:
        return handle_of(self).ask("aexit", self, *self._told(error))

    def __copy__(self) -> Any:
        return handle_of(self).ask("copy", self)

    def __deepcopy__(self, memo: Any) -> Any:
        return handle_of(self).ask("deepcopy", self)

    def __dir__(self) -> Any:
        return handle_of(self).ask("dir", self)

    def __instancecheck__(self, instance: Any) -> bool:
        return bool(handle_of(self).ask("isinstance", instance, self))

    def __subclasscheck__(self, subclass: Any) -> bool:
        return bool(handle_of(self).ask("issubclass", subclass, self))

    async def _wait(self, operation: str) -> Any:
        return handle_of(self).ask(operation, self)

    def _told(self, error: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the end of a `with` block is told; an exception of the test is not sent to the program."""
        if error[0] is not None:
            handle_of(self).doubt("an exception of the test leaves a context manager of the program, which is not told of it")
        return (None, None, None)


def handle_of(remote: Remote) -> Handle:
    return object.__getattribute__(remote, "_Remote__handle")


def is_remote(value: Any) -> bool:
    # isinstance() would ask the program for the type of an object.
    return type(value) is Remote


def iterate(iterator: Remote) -> Iterator[Any]:
    """The items of an iterator of the program, up to its end."""
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item


def refuse_mixed(remote: Remote, what: str) -> None:
    """Raise Broken where an object came out of an operator on an object and a value of the test."""
    handle = handle_of(remote)
    if handle.mixed:
        handle.refuse(
            f"the test computes with an object of the program ({handle.kind}) and a value of its own, and asks for {what} of the "
            "result, of which the program's class would be the judge"
        )


def judged(remote: Remote, other: Any, value: Any) -> Any:
    """The result of an operator on an object and something else, where it may be used."""
    if value is None or (is_remote(other) and not is_remote(value)):
        return value
    if is_remote(other):
        handle_of(value).mixed |= handle_of(remote).mixed or handle_of(other).mixed
        return value
    if not is_remote(value):
        kind, mine = handle_of(remote).kind, type(other).__name__
        handle_of(remote).refuse(
            f"the test computes with an object of the program ({kind}) and a value of its own ({mine}), and would use the "
            f"{type(value).__name__} that the program's class makes of them"
        )
    handle_of(value).mixed = True
    return value


def _binary(operation: str, swapped: bool) -> Callable[[Remote, Any], Any]:
    def compute(self: Remote, other: Any) -> Any:
        return judged(self, other, handle_of(self).ask(operation, *((other, self) if swapped else (self, other))))

    return compute


def _unary(operation: str) -> Callable[..., Any]:
    def compute(self: Remote, *options: Any) -> Any:
        handle = handle_of(self)
        if operation not in ("neg", "pos", "invert", "repr"):
            refuse_mixed(self, f"{operation}()")
        value = handle.ask(operation, self, *options)
        if is_remote(value):
            handle_of(value).mixed |= handle.mixed
        return bool(value) if operation == "bool" and not is_remote(value) else value

    return compute


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
    "divmod",
):
    _operation = f"{_name}_" if _name in ("and", "or") else _name
    setattr(Remote, f"__{_name}__", _binary(_operation, swapped=False))
    setattr(Remote, f"__r{_name}__", _binary(_operation, swapped=True))
    if _name != "divmod":
        setattr(Remote, f"__i{_name}__", _binary(f"i{_name}", swapped=False))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _binary(_name, swapped=False))
for _name in ("neg", "pos", "invert", "abs", "round", "int", "float", "complex", "index", "bool", "len", "str", "repr", "format"):
    setattr(Remote, f"__{_name}__", _unary(_name))
