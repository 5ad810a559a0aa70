"""Real servers and engines with the bundled tiny model, for tests under the marker `servers` (`make test-servers`)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from exptilt.core import Engine
from exptilt.engines.files import MODELS
from exptilt.engines.loading import load

pytest.register_assert_rewrite("tests.servers.contract")

MODEL = MODELS / "tiny"
CAP = 24
PATIENCE = 400  # seconds until a server must answer
FOR_VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="session", autouse=True)
def environment() -> None:
    """What vLLM reads from the environment, unless it is set already; before vLLM is imported."""
    for name, value in FOR_VLLM.items():
        os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def reference() -> Engine:
    """The same law from transformers."""
    return load(f"hf:{MODEL}", max_tokens=CAP)


@contextmanager
def server(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """A server's process, from its first healthy answer until the block is left; with all that it started, it is ended."""
    with log.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(2 * PATIENCE):
        if process.poll() is not None:
            break
        try:
            if urlopen(url, timeout=5).status == 200:
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start; the end of its log:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a vLLM server, started as docs/servers.md says."""
    pytest.importorskip("vllm")
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64"]
    command += ["--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details"]
    command += ["--no-enable-chunked-prefill", "--block-size", "32"]
    with server(command, port, tmp_path_factory.mktemp("vllm") / "log"):
        yield f"http://127.0.0.1:{port}/v1"
