"""Hostile programs stay in the sandbox: none reaches the host, none stays behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import pytest

from exptilt.sandbox import Finished, run
from exptilt.sandbox.launch import Isolation
from tests.hostile import PRELUDE, Hostile, escape, exhaustion, processes
from tests.sandbox.walls import ISOLATIONS, limits, needs_walls, processes_of

HOSTILE = [*processes.PROGRAMS, *exhaustion.PROGRAMS, *escape.PROGRAMS]


@dataclass
class Canaries:
    """Things of the host that a hostile program must not reach, and how one finds out whether it did."""

    folder: Path
    victim: subprocess.Popen[bytes]
    listeners: list[socket.socket]
    secret = "canary-in-a-file-8d1f"
    in_environment = "canary-in-the-environment-77ab"

    def fill(self, source: str) -> str:
        """A hostile program with the canaries' names put in."""
        names = {"secret": self.folder / "secret", "marker": self.folder / "marker", "socket": self.folder / "socket"}
        tcp, _, abstract = self.listeners
        numbers = {"port": tcp.getsockname()[1], "abstract": abstract.getsockname()[1:].decode(), "pid": self.victim.pid}
        return PRELUDE + Template(source).substitute(names | numbers)

    def are_untouched(self, output: bytes) -> bool:
        for listener in self.listeners:
            with pytest.raises(BlockingIOError):
                listener.accept()
        assert sorted(path.name for path in self.folder.iterdir()) == ["secret", "socket"]
        assert (self.folder / "secret").read_text() == self.secret
        assert self.victim.poll() is None
        return not any(canary.encode() in output for canary in (self.secret, self.in_environment))


@pytest.fixture
def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canaries]:
    (tmp_path / "secret").write_text(Canaries.secret)
    monkeypatch.setenv("HOSTILE_CANARY", Canaries.in_environment)
    listeners = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    listeners[1].bind(str(tmp_path / "socket"))
    listeners[2].bind(f"\0exptilt-canary-{os.getpid()}")
    for listener in listeners:
        listener.listen()
        listener.setblocking(False)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield Canaries(tmp_path, victim, listeners)
    victim.kill()
    victim.wait()
    for listener in listeners:
        listener.close()


def test_there_are_forty_hostile_programs():
    assert len({program.name for program in HOSTILE}) == len(HOSTILE) >= 40


def run_begun(source: str, program: Hostile, isolation: Isolation) -> Finished:
    """The run of a program, with more time until it has begun within it: a busy machine may need longer to start Python."""
    seconds = program.seconds
    while True:
        finished = run(source, limits=limits(seconds, program.cpu_seconds), isolation=isolation)
        if finished.stdout or finished.stopped != "time":
            return finished
        seconds *= 2


@needs_walls
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("program", HOSTILE, ids=lambda program: program.name)
def test_hostile_program_is_contained(program: Hostile, isolation: Isolation, canaries: Canaries):
    finished = run_begun(canaries.fill(program.source), program, isolation)
    said = finished.stdout + finished.stderr
    assert b"ESCAPED" not in said
    assert (finished.stopped or "exit") in program.ends, said.decode()
    assert canaries.are_untouched(said)
    namespace = finished.stdout.split(b"\n")[0].decode()
    assert namespace.startswith("pid:[")
    assert processes_of(namespace) == []
    if finished.stopped is None:
        # It came to its end, was refused at least once, and nothing else went wrong with it.
        assert (finished.returncode, finished.stderr) == (0, b"")
        assert b"refused" in finished.stdout


@needs_walls
def test_the_canaries_sing_where_there_are_no_walls(canaries: Canaries):
    """What the tests above watch would notice an escape: the same attempts without walls, and only harmless ones."""
    source = """
print(os.environ.get('HOSTILE_CANARY'), read('$secret'), write('$marker'))
os.kill($pid, 0)
print('reached')
"""
    with pytest.warns(UserWarning, match='isolation="none"'):
        finished = run(canaries.fill(source), limits=limits(), isolation="none")
    assert b"reached" in finished.stdout
    assert Canaries.secret.encode() in finished.stdout
    assert (canaries.folder / "marker").read_bytes() == b"hostile"


@needs_walls
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv to become another user")
def test_hostile_programs_are_contained_for_an_ordinary_user_too():
    """Root's sandbox is another user outside, and bubblewrap is for ordinary users alone: one program of each kind as nobody."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        become = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable]
        environment = os.environ | {"HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        tried = [*become, "-c", "import pytest\nfrom exptilt import sandbox\nsandbox.run('')"]
        if trouble := subprocess.run(tried, capture_output=True, text=True, env=environment, cwd=folder).stderr:
            pytest.skip(f"another user has no sandbox with this interpreter and this checkout: {trouble.splitlines()[-1]}")
        kinds = "secret or first or child or shared or fork or mounting or TCP or busy or signals or answers"
        options = ["-q", "-p", "no:cacheprovider", "--basetemp", f"{folder}/pytest", "-k", f"contained and ({kinds})"]
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [*become, "-m", "pytest", *options, str(root / "tests" / "sandbox" / "test_hostile.py")],
            capture_output=True,
            text=True,
            env=environment,
            cwd=root,
        )
    assert done.returncode == 0, done.stdout
    assert set(done.stdout.split()[0]) == {"."}  # all passed, none was skipped
