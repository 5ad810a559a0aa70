"""Output that cannot be written: told in one sentence, and the run goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.test_endings import COUNT, folder, kept, running, start

__all__ = ["folder"]  # the fixture
FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
SAID = "error  standard output cannot be written: No space left on device. Free space, or send it elsewhere.\n"


def onto_a_full_disk(folder: Path, *argv: str) -> tuple[int, str]:
    with FULL.open("w") as full, start(folder, *argv, stdout=full, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()
    return process.returncode, said


def test_a_run_goes_on_and_fails_at_its_end(folder: Path) -> None:
    """It ended with a traceback of OSError after the first prompt."""
    assert onto_a_full_disk(folder, *running("mine.py:one", "--json")) == (1, SAID)
    assert len(kept(folder)) == COUNT


@pytest.mark.parametrize("argv", [("sample", "toy", "why?", "--reward", "mine.py:one", "--beta", "1", "--json"), ("--help",)])
def test_short_commands_fail(argv: tuple[str, ...], folder: Path) -> None:
    assert onto_a_full_disk(folder, *argv) == (1, SAID)


def test_a_device_is_no_results_file(folder: Path) -> None:
    """`--out /dev/full` read the device, which has no end, until the memory was full."""
    argv = [word if word != "a.jsonl" else str(FULL) for word in running("mine.py:one")]
    with start(folder, *argv, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (
        2,
        "error  /dev/full is a device or a pipe, which no run can be resumed from: give the path of a file.\n",
    )
