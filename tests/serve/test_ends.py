"""`exptilt serve` as a program: flags, the log, curl, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.conftest import Program

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from exptilt import names
from exptilt.cli import main
from exptilt.engines import TableEngine
from exptilt.testing.toys import random_table
names.targets.load = lambda name, **options: TableEngine(random_table(3, 4), 5, 3, symbols="1234", name=name)
sys.exit(main())
"""
REWARDS = """
import time

def heads(text):
    return float(text.count("1"))

def slow(text):
    time.sleep(1.0)
    return heads(text)
"""
FLAGS = ("--sampler", "bon", "--n", "4", "--reward", "mine.py:heads", "--beta", "0.5", "--port", "0")


@contextmanager
def started(folder: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program, and where it listens."""
    (folder / "mine.py").write_text(REWARDS)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", "toy", *flags],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert program.stderr is not None
        line = next(line for line in program.stderr if line.startswith("{"))
        yield program, json.loads(line)["urls"][0]
    finally:
        program.kill()
        program.wait()


def ask(url: str, **more: Any) -> httpx2.Response:
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "seed": 1, **more}
    return httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=30)


def test_sigterm_ends_an_idle_server_at_once_with_status_0(tmp_path: Path) -> None:
    with started(tmp_path, *FLAGS) as (program, url):
        assert url.startswith("http://127.0.0.1:")
        said = ask(url)
        assert said.status_code == 200
        assert said.json()["exptilt"]["drafts"] == 4
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 0


@pytest.mark.parametrize(("grace", "status"), [("15", 200), ("0.3", 503)])
def test_sigterm_lets_answers_end_within_the_grace(tmp_path: Path, grace: str, status: int) -> None:
    """Four drafts take four seconds to rate: longer than the shorter grace."""
    flags = ("--sampler", "bon", "--n", "4", "--reward", "mine.py:slow", "--beta", "0.5", "--port", "0", "--grace", grace)
    with started(tmp_path, *flags) as (program, url):
        body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "seed": 1, "stream": status != 200}
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as said:
            program.send_signal(signal.SIGTERM)
            text = "".join(said.iter_text())
        if status == 200:
            assert json.loads(text)["choices"][0]["message"]["content"]
        else:
            [*_, last] = [line for line in text.splitlines() if line.startswith("data: ")]
            assert json.loads(last[6:])["error"]["code"] == "stopping"
        assert program.wait(20) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_interrupt_ends_the_grace_and_clients_are_told(tmp_path: Path, stream: bool) -> None:
    """uvicorn drops the connections at once: clients saw a bare status 500, or a stream that broke off."""
    flags = ("--sampler", "bon", "--n", "4", "--reward", "mine.py:slow", "--beta", "0.5", "--port", "0")
    with started(tmp_path, *flags) as (program, url):
        body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "seed": 1, "stream": stream}
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=body, timeout=30)
            time.sleep(0.8)
            for _ in range(2):
                program.send_signal(signal.SIGINT)
                time.sleep(0.3)
            said = answer.result()
        assert program.wait(20) == 0
        assert program.stderr is not None
        log = [json.loads(line) for line in program.stderr]
    told = json.loads(said.text.strip().split("data: ")[-1]) if stream else said.json()
    assert told["error"]["code"] == "stopping"
    assert said.status_code == (200 if stream else 503)
    assert not [line for line in log if line["event"] == "message"]


def test_no_new_requests_are_taken_while_it_stops(tmp_path: Path) -> None:
    flags = ("--sampler", "bon", "--n", "2", "--reward", "mine.py:slow", "--beta", "0.5", "--port", "0")
    with started(tmp_path, *flags) as (program, url), httpx2.Client() as client:
        assert client.get(f"{url}/healthz").status_code == 200
        body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as said:
            program.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(httpx2.TransportError):
                httpx2.get(f"{url}/healthz")
            assert "[DONE]" in "".join(said.iter_text())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_reads_answers_and_streams(tmp_path: Path) -> None:
    with started(tmp_path, *FLAGS, env={"EXPTILT_API_KEY": "abc"}) as (_, url):
        body = json.dumps({"model": "toy@bon2", "messages": [{"role": "user", "content": "hi"}], "seed": 1})
        curl = [
            "curl",
            "-sN",
            f"{url}/v1/chat/completions",
            "-H",
            "content-type: application/json",
            "-H",
            "authorization: Bearer abc",
        ]
        whole = json.loads(subprocess.run([*curl, "-d", body], capture_output=True, check=True).stdout)
        streamed = subprocess.run([*curl, "-d", body[:-1] + ', "stream": true}'], capture_output=True, check=True).stdout.decode()
        events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        text = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
        assert text == whole["choices"][0]["message"]["content"]
        assert ask(url).status_code == 401


def test_the_extra_is_named_where_it_is_not_installed() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from exptilt.cli import main; sys.exit(main(sys.argv[1:]))"
    ended = subprocess.run(
        [sys.executable, "-c", code, "serve", "x", "--reward", "none"], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == 2
    assert "[serve]'" in " ".join(ended.stderr.split())


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded(program: Program) -> None:
    """The model was loaded first, and the end was a line of the log with the number of an error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = program("serve", "toy", "--reward", "none", "--port", str(port))
    assert (code, out) == (2, "")
    assert f"port = {port}" in err
    assert "in use" in err
    assert "0 for a free one" in " ".join(err.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--reward heads --beta 1", "there is no reward 'heads'"),
        ("--reward none --port 99999", "port = 99999"),
        ("--reward none --threads 0", "threads = 0"),
        ("--reward none --candidates 0", "candidates"),
        ("--reward none --select bst", "bst"),
        ("--reward none --until soon", "soon"),
        ("--reward none --config nothing.toml", "give --config the path of a file"),
        ("--reward none --host ::zz", "is not an address"),
        ("--reward none --host 192.0.2.1", "an address of this machine"),
        ("--reward none --prot 1", "Did you mean --port"),
        ("--reward arithmetic", "--beta"),
    ],
)
def test_flags_that_mean_nothing_are_refused_before_the_model_is_loaded(program: Program, flags: str, said: str) -> None:
    code, out, err = program("serve", "toy", *flags.split())
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
