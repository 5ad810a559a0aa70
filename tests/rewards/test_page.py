"""docs/rewards.md is true: its Python runs, with small models, a service and a judge in the places it names."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("httpx2")

import exptilt as xt
from exptilt.core import Engine
from tests.rewards.oracle import Oracle
from tests.rewards.reward_models import save

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"


class _Scores(BaseHTTPRequestHandler):
    """The protocol as the page shows it."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        data = json.dumps({"rewards": [float(len(text)) for text in body["responses"]]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Scores)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_python_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], service: str
) -> None:
    real = xt.load

    def load(name: str, **law: Any) -> Engine:
        if name.startswith("openai:"):
            return Oracle(lambda question, key: "Winner: A" if "Response A" in question else "Score: 7")
        return real(name, **law)

    monkeypatch.setattr(xt, "load", load)
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "reward-model")
    save(tmp_path / "process-model", "token", labels=2)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    for block in blocks:
        exec(compile(block.replace("http://localhost:9000", service), PAGE.name, "exec"), names)
    said = capsys.readouterr().out
    assert len(blocks) == 4
    assert "[1.0]" in said  # the service's length of "7"
    reward = float(said.splitlines()[-1].split()[0])
    assert reward == pytest.approx(0.1 * 7 + 0.5)  # this judge likes the first place, so its duels come to one half
