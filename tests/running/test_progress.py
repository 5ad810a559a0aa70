"""The bar of `xt.run`: where somebody watches, and nowhere else."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import exptilt as xt
from exptilt.running.progress import Lines, Notebook, Pace, Terminal, clock, surface_here, watched
from exptilt.testing.toys import autoregressive

TARGET = autoregressive(5).target
PROMPTS = [f"prompt {number}" for number in range(6)]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def fails(prompt: str, drafts: list[xt.Draft]) -> list[float]:
    return [1.0 / (prompt != "prompt 2") for _ in drafts]


def shown_on(stream: Any, monkeypatch: pytest.MonkeyPatch, target: Any = TARGET, **more: Any) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    xt.run(target, PROMPTS, xt.Independent(3), **more)
    return stream.getvalue()


def test_a_terminal_has_a_bar_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exptilt.running.progress._OFTEN", 0.0)
    shown = shown_on(Screen(), monkeypatch, xt.Target(TARGET.engine, fails, 1.0))
    lines = shown.split("\r\x1b[2K")[1:]
    assert [re.findall(r"(\d)/6", line)[0] for line in lines] == [*"0123456", "6"]
    assert lines[0].startswith("─" * 28 + " 0/6 · starting")
    assert lines[-1].startswith("━" * 28 + " 6/6 · ")
    assert lines[-1].endswith(" · 1 failed\n")
    assert "\n" not in "".join(lines[:-1])


def test_nobody_is_shown_a_bar_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_on(io.StringIO(), monkeypatch) == ""
    assert shown_on(Screen(), monkeypatch, progress=False) == ""
    monkeypatch.setenv("TERM", "dumb")
    assert shown_on(Screen(), monkeypatch) == ""
    monkeypatch.setattr("sys.stderr", None)  # as under pythonw
    assert len(xt.run(TARGET, PROMPTS, xt.Independent(3))) == 6


def test_asked_for_it_tells_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exptilt.running.progress.Lines.often", 0.0)
    stream = io.StringIO()
    with watched(True, 6, 0) as tell:
        assert tell is not None
    surface = Lines(stream, often=0.0)
    surface.draw("3/6")
    assert stream.getvalue() == "3/6\n"


def test_a_function_is_called_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[int, int]] = []
    shown = shown_on(Screen(), monkeypatch, progress=lambda done, total, outcome: heard.append((done, total)))
    assert (shown, heard) == ("", [(done, 6) for done in range(1, 7)])


def test_a_resumed_run_begins_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    xt.run(TARGET, PROMPTS[:4], xt.Independent(3), store=tmp_path / "a.jsonl")
    shown = shown_on(Screen(), monkeypatch, store=tmp_path / "a.jsonl")
    assert " 4/6 · starting" in shown
    assert shown_on(Screen(), monkeypatch, store=tmp_path / "a.jsonl") == "", "nothing is left to do"


def test_the_bar_ends_with_its_line_where_the_run_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(prompt: str, drafts: list[xt.Draft]) -> list[float]:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stderr", stream := Screen())
    with pytest.raises(KeyboardInterrupt):
        xt.run(xt.Target(TARGET.engine, broken, 1.0), PROMPTS, xt.Independent(3))
    assert stream.getvalue().endswith("0/6 · starting\n")


def test_a_line_fits_the_terminal() -> None:
    """A line that wraps cannot be replaced: a narrow window filled with pieces of bars."""
    main, side = pty.openpty()
    try:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
        with open(side, "w", closefd=False) as stream:
            assert isinstance(surface_here(stream), Terminal)
            Terminal(stream).draw("━" * 28 + " 60/600 · 3.1 prompts/s")
        assert os.read(main, 1000).decode() == "\r\x1b[2K" + "━" * 28 + " "
    finally:
        os.close(main)
        os.close(side)


def test_a_notebook_shows_one_output_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[str] = []

    class Handle:
        def update(self, shown: dict[str, str], raw: bool) -> None:
            outputs[-1] = shown["text/plain"]

    def display(shown: dict[str, str], raw: bool, display_id: bool) -> Handle:
        outputs.append(shown["text/plain"])
        return Handle()

    monkeypatch.setattr("exptilt.running.progress.surface_here", lambda stream: Notebook(display))
    assert shown_on(io.StringIO(), monkeypatch) == ""
    (line,) = outputs
    assert line.startswith("━" * 28 + " 6/6 · ")


def test_a_shell_of_ipython_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kernel there is no output of a cell: the bar goes where it always does."""

    class Shell:
        kernel = None

    class IPython:
        get_ipython = staticmethod(Shell)

    monkeypatch.setitem(sys.modules, "IPython", IPython)  # type: ignore[arg-type]
    assert isinstance(surface_here(Screen()), Terminal)
    assert surface_here(io.StringIO()) is None


def test_the_pace_counts_what_was_done_here() -> None:
    pace = Pace("problem", began=0.0)
    pace.began -= 10.0
    failure = xt.Failure("x", "RewardError", "no")
    said = pace.hear(51, 60, failure)
    assert re.fullmatch(r"\d+\.\d s/problem · [\d:]+ left · 1 failed", said)
    assert (clock(59.6), clock(3725)) == ("1:00", "1:02:05")
