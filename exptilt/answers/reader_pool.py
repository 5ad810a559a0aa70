"""The processes that read expressions: started when first needed, several at most, each serving one thread at a time.

A process of its own is needed because sympy may take forever or all memory on what a model writes, no thread can be stopped,
and a signal reaches only the main thread. A forked child of this process has processes of its own: two readers of one pipe
would get each other's answers.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Condition, Timer

from exptilt.errors import ExptiltError, install

_MOST = 4  # processes at once; each holds sympy, some 100 MB
_PATIENCE = 300.0  # seconds of wall clock after which a process is given up, where CPU time cannot be limited


class Reader:
    """One process. Its pipes are not buffered, so that a fork copies no half-written line."""

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ExptiltError(f"answers.latex reads formulas with math-verify, not installed here. Install: {install('eval')}")
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "exptilt.answers.sympy_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": paths},
        )
        if self._line() != b"ready\n":
            said = self._process.communicate()[1].decode(errors="replace").strip().splitlines()
            raise ExptiltError(
                f"the process that reads formulas did not start ({said[-1] if said else 'it said nothing'}): "
                f"check that math-verify and sympy can be imported, or install them again with {install('eval')}"
            )

    def read(self, content: str) -> tuple[str | None, bool]:
        """The form of an expression, None where it cannot be read within the limits; and whether the process lives on."""
        timer = Timer(_PATIENCE, self._process.kill)
        timer.start()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            line = self._line()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        return (json.loads(line), True) if line.endswith(b"\n") else (None, False)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def forget(self) -> None:
        """Let go of a process that belongs to the parent of this one: it must neither be ended nor waited for here."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process.returncode = 0


class ReaderPool:
    """Up to `most` processes. Safe to call from many threads."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._changed = Condition()
        self._idle: list[Reader] = []
        self._all: list[Reader] = []
        self._starting = 0

    def read(self, content: str) -> str | None:
        """The form of an expression; None where it cannot be read within the limits."""
        with self._lent() as reader:
            found, alive = reader.read(content)
            if not alive:
                self._drop(reader)
            return found

    @contextlib.contextmanager
    def _lent(self) -> Iterator[Reader]:
        reader = self._take()
        try:
            yield reader
        except BaseException:  # given up: what it still says would be taken for the answer to the next question
            self._drop(reader)
            raise
        finally:
            with self._changed:
                if reader in self._all:
                    self._idle.append(reader)
                self._changed.notify()

    def _take(self) -> Reader:
        with self._changed:
            self._changed.wait_for(lambda: self._idle or len(self._all) + self._starting < self._most)
            if self._idle:
                return self._idle.pop()
            self._starting += 1
        try:
            reader = Reader()
        except BaseException:
            with self._changed:
                self._starting -= 1
                self._changed.notify()
            raise
        with self._changed:
            self._starting -= 1
            self._all.append(reader)
        return reader

    def _drop(self, reader: Reader) -> None:
        with self._changed:
            self._all = [each for each in self._all if each is not reader]
        reader.close()

    def close(self) -> None:
        with self._changed:
            readers, self._all, self._idle = self._all, [], []
        for reader in readers:
            reader.close()

    def after_fork(self) -> None:
        """Begin anew in a forked child, whatever the parent's threads held when it forked."""
        for reader in self._all:
            reader.forget()
        self.__init__(self._most)


POOL = ReaderPool()
atexit.register(POOL.close)
if sys.platform != "win32":
    os.register_at_fork(after_in_child=POOL.after_fork)
