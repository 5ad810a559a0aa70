"""Pages of documentation as a reader follows them: their blocks, in order, each of which is run or says why it is not.

A block of code names its language. A comment right before it may say `not run: REASON`, or `in the background, until port N
answers` for a server. Outputs and files that are only shown have languages that are not run.

As a program, `python tests/pages.py PAGE` runs the blocks of a page in the current folder, with the Python that runs it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PYTHON, SHELL = ("python", "py"), ("bash", "sh", "console")
SHOWN = ("output", "text", "toml", "yaml", "nginx")
START = 600.0  # seconds within which a server must answer
_BLOCK = re.compile(r"^(?:<!-- (?P<note>.*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_PORT = re.compile(r"in the background, until port (\d+) answers")


@dataclass(frozen=True)
class Block:
    """A block of a page. line: where it stands; note: what the page says of running it."""

    line: int
    language: str
    text: str
    note: str

    @property
    def reason(self) -> str | None:
        """Why it is not run; None where it is."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else None

    @property
    def runs(self) -> bool:
        return self.language in (*PYTHON, *SHELL) and self.reason is None

    @property
    def port(self) -> int | None:
        """The port that answers once it is up, where it stays in the background."""
        found = _PORT.fullmatch(self.note)
        return int(found[1]) if found else None

    @property
    def commands(self) -> str:
        """What a reader types into a shell: all of it, or what stands behind the prompts of a transcript."""
        if self.language != "console":
            return self.text
        return "".join(re.findall(r"^\$ ((?:.*\\\n)*.*\n)", self.text, re.MULTILINE))


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start("language")) + 1, found["language"], found["text"], found["note"] or "")
        for found in _BLOCK.finditer(text)
    ]


def extras(page: Path) -> list[str]:
    """What a page says to install, each in the brackets behind the name of the package, where any of its blocks runs."""
    named = re.findall(r"'exptilt\[([\w,]+)\]'", page.read_text(encoding="utf-8"))
    return sorted({each for some in named for each in some.split(",")}) if any(each.runs for each in blocks(page)) else []


def run_page(name: str) -> dict[str, Any]:
    """Run the Python blocks of docs/NAME in order; the names that they leave."""
    space = _space(name)
    for block in blocks(DOCS / name):
        if block.runs and block.language in PYTHON:
            exec(compile(block.text, name, "exec"), space)
    return space


def _space(name: str) -> dict[str, Any]:
    """A namespace of its own."""
    module = ModuleType(f"page_{Path(name).stem}")
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    return vars(module)


# ------------------------------------------------------------------------------------------------- as a new user would


def run_blocks(page: Path) -> Iterator[dict[str, Any]]:
    """Run all blocks of a page here: each with its seconds, and what was wrong with the first that failed, which ends it."""
    space = _space(page.name)
    with _servers() as started:
        for block in blocks(page):
            if not block.runs:
                continue
            began, error = time.monotonic(), None
            try:
                if block.language in PYTHON:
                    exec(compile(block.text, page.name, "exec"), space)
                elif block.port is not None:
                    started.append(_start(block.commands, block.port))
                else:
                    subprocess.run(["bash", "-ec", _from_here(block.commands)], check=True)
            except Exception:  # noqa: BLE001 - told to whoever asked
                error = traceback.format_exc()[-2000:]
            yield {"line": block.line, "seconds": time.monotonic() - began, "error": error}
            if error is not None:
                return


def _from_here(commands: str) -> str:
    """Commands that install from this checkout, since a page means the released package."""
    return re.sub(r"'exptilt\[", f"'{ROOT}[", commands)


@contextmanager
def _servers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What is started in the background, ended at the end."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for each in started:
            os.killpg(each.pid, signal.SIGTERM)
            each.wait()


def _start(commands: str, port: int) -> subprocess.Popen[bytes]:
    if _answers(port):
        raise RuntimeError(f"port {port} is taken already")
    process = subprocess.Popen(["bash", "-ec", _from_here(commands)], start_new_session=True)
    end = time.monotonic() + START
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"nothing answers at port {port}")
        time.sleep(0.5)
    return process


def _answers(port: int) -> bool:
    with closing(socket.socket()) as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    for ran in run_blocks(Path(sys.argv[1])):
        print("\n" + json.dumps({"ran": ran}), flush=True)
