"""Clients that vanish: their rows leave the engine's batch after the step under way, whether they wait for a stream or not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import httpx2
import pytest

from exptilt.draft import Draft, Prompt
from exptilt.serve.config import Config, Limits
from exptilt.serve.room import Room
from exptilt.serve.runs import Run, Work
from tests.running.test_stream import SlowEngine
from tests.serve.served import Live, catalogue, heads, live, recipe, wait_for

LIMITS = Limits(grace=1.0, threads=8, queue=2)


@pytest.fixture
def slow() -> Iterator[SlowEngine]:
    engine = SlowEngine.made()
    yield engine
    engine.gate.allowed.release(1_000_000)


@pytest.fixture
def server(slow: SlowEngine) -> Iterator[Live]:
    usual = recipe("independent", n=3)
    with live(catalogue(slow, usual=usual), Config(name="table", port=0, limits=LIMITS)) as started:
        yield started
        slow.gate.allowed.release(1_000_000)


def connected(server: Live, **body: Any) -> socket.socket:
    """A connection with a request under way."""
    asked = json.dumps({"model": "table", "messages": [{"role": "user", "content": "long"}], **body}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(asked)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(head.encode() + asked)
    return connection


def rows(slow: SlowEngine) -> int:
    return len(slow.gate.rows)


def give_up(works: Collection[Work], slow: SlowEngine) -> None:
    """Let the step under way come to its end once the server knows that the client of one of these has vanished."""
    wait_for(lambda: any(work.stop.is_set() for work in works))
    slow.gate.allowed.release()


@pytest.mark.parametrize("streamed", [False, True])
def test_the_rows_of_a_client_that_vanished_leave_after_one_step(server: Live, slow: SlowEngine, streamed: bool) -> None:
    """A framework cancels streams at most: a request for a whole answer would decode to its end for nobody."""
    connection = connected(server, stream=streamed)
    wait_for(lambda: rows(slow) == 3)
    [work] = server.desk._works
    connection.close()
    wait_for(work.stop.is_set)
    slow.gate.allowed.release()  # the step that was under way
    wait_for(lambda: rows(slow) == 0)
    assert slow.gate.steps == 1
    wait_for(lambda: server.desk.admission.running == 0)
    assert not server.desk._works


def test_a_reset_connection_is_a_client_that_vanished(server: Live, slow: SlowEngine) -> None:
    connection = connected(server)
    wait_for(lambda: rows(slow) == 3)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    give_up(server.desk._works, slow)
    wait_for(lambda: rows(slow) == 0)


def test_a_client_that_vanishes_while_it_waits_leaves_the_queue(slow: SlowEngine) -> None:
    limits = Limits(grace=1.0, threads=1, queue=2)
    with live(catalogue(slow, usual=recipe("independent", n=3)), Config(name="table", port=0, limits=limits)) as server:
        first = connected(server)
        wait_for(lambda: rows(slow) == 3)
        second, third = connected(server), connected(server, stream=True)
        wait_for(lambda: server.desk.admission.waiting == 2)
        refused = httpx2.post(
            f"{server.url}/v1/chat/completions", json={"model": "table", "messages": [{"role": "user", "content": "long"}]}
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        second.close()
        third.close()
        wait_for(lambda: server.desk.admission.waiting == 0)
        assert slow.gate.steps == 0
        first.close()
        give_up(server.desk._works, slow)
        wait_for(lambda: server.desk.admission.running == 0)
        slow.gate.allowed.release(1_000_000)
        again = httpx2.post(
            f"{server.url}/v1/chat/completions", json={"model": "table", "messages": [{"role": "user", "content": "quick"}]}
        )
        assert again.status_code == 200


def test_requests_wait_for_memory_and_go_on_once_there_is_some(slow: SlowEngine) -> None:
    """Each holds three rows of six tokens: two of them fit into 37 tokens, and not three."""
    config = Config(name="table", port=0, limits=LIMITS)
    with live(catalogue(slow, usual=recipe("independent", n=3)), config, room=Room(tokens=37)) as server:
        connections = [connected(server) for _ in range(2)]
        wait_for(lambda: server.desk.admission.running == 2)
        connections.append(connected(server))  # not before: on a busy machine the first one might be the one that waits
        wait_for(lambda: server.desk.admission.waiting == 1)
        assert server.desk.admission.tokens == 36
        works = [*server.desk._works]  # one that has drawn nothing yet is gone from there as soon as it stops
        connections[0].close()
        give_up(works, slow)
        wait_for(lambda: server.desk.admission.waiting == 0)
        for connection in connections[1:]:
            connection.close()
        slow.gate.allowed.release(1_000_000)
        wait_for(lambda: server.desk.admission.tokens == 0)


def test_a_reward_that_hangs_ends_with_the_deadline_and_keeps_nobody_else(slow: SlowEngine) -> None:
    hanging = threading.Event()

    def hangs(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
        hanging.wait(30)
        return heads(prompt, drafts)

    limits = Limits(grace=0.2, threads=2, deadline=0.4, reward_timeout=20)
    asked: dict[str, Any] = {"model": "table", "messages": [{"role": "user", "content": "hi"}]}
    with live(catalogue(reward=hangs), Config(name="table", port=0, limits=limits)) as server:
        url = f"{server.url}/v1/chat/completions"
        said = httpx2.post(url, json=asked)
        assert (said.status_code, said.json()["error"]["code"]) == (504, "deadline")
        assert httpx2.post(url, json={**asked, "model": "table@plain"}).status_code == 200
        hanging.set()
        wait_for(lambda: server.desk.admission.running == 0)


def test_an_answer_without_a_thread_fails_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is out of threads would otherwise lose the places of the answers for good."""

    def none_left(run: Run) -> None:
        raise RuntimeError("can't start new thread")

    asked = {"model": "table", "n": 2, "messages": [{"role": "user", "content": "hi"}]}
    with live() as server:
        with monkeypatch.context() as patch:
            patch.setattr(Run, "start", none_left)
            assert httpx2.post(f"{server.url}/v1/chat/completions", json=asked).status_code == 500
        wait_for(lambda: server.desk.admission.running == 0)
        assert server.desk.admission.tokens == 0
        assert httpx2.post(f"{server.url}/v1/chat/completions", json=asked).status_code == 200
