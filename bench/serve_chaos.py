"""Clients that misbehave: `python bench/serve_chaos.py --requests 10000 --vanish 1000`.

A server with the tiny model in a process of its own is asked by 64 clients at a time over raw connections. Of the requests

    plain, stream       are right, and read to their end
    malformed, wrong    have bodies that are not JSON, or fields of the wrong type
    gone, cut           close the connection after the request, or after the first bytes of a stream
    slow                read a stream one byte at a time, with pauses
    idle                open a connection and send half a request

Then `--vanish` clients ask for long answers, streamed or not, and vanish at a random moment. At the end nothing may be under way,
no request may have had the status 500, and memory must be flat: it is compared from the first fifth of the requests on. With
`--described N`, schemathesis then makes N requests a path from the server's own description. The end is a summary and
bench/results/serve_chaos.json; the exit status says whether every check held. Runs on Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bench.record import RESULTS, record

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("plain", "stream", "malformed", "wrong", "gone", "cut", "slow", "idle")
AT_ONCE = 64
FLAGS = (
    *("--sampler", "bon", "--n", "2", "--max-tokens", "64", "--reward", "arithmetic", "--beta", "0.2", "--port", "0"),
    *("--threads", "32", "--queue", "256"),
)
WRONG: tuple[dict[str, Any], ...] = (
    {"n": "two"}, {"temperature": []}, {"messages": {}}, {"stop": 5}, {"exptilt": {"n": -1}}, {"exptilt": []}, {"model": None},
    {"stream": "yes"}, {"unknown": 1}, {"exptilt": {"sampler": "../x.py:S"}}, {"seed": 1e300}, {"max_tokens": 10**12},
)  # fmt: skip
MALFORMED = (b"{", b"[" * 5000, b"\xff\xfe\x00", b"null", b'{"model": NaN}', b"", b'"' + b"x" * 3000)


class Clients:
    """Requests of every kind to one server. statuses: how often each status came back, by the kind."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.random = random.Random(seed)
        self.statuses: Counter[str] = Counter()

    async def one(self, kind: str) -> None:
        send: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "plain": lambda: self._read(self._asked()),
            "stream": lambda: self._read(self._asked(stream=True)),
            "malformed": lambda: self._read(self.random.choice(MALFORMED)),
            "wrong": lambda: self._read(self._asked(**self.random.choice(WRONG))),
            "gone": lambda: self._leave(self._asked(stream=self.random.random() < 0.5), self.random.uniform(0, 0.3)),
            "cut": lambda: self._leave(self._asked(stream=True), self.random.uniform(0, 0.3), first=True),
            "slow": lambda: self._read(self._asked(stream=True), pause=0.002),
            "idle": lambda: self._leave(b"", self.random.uniform(0, 0.3)),
        }
        said = await send[kind]()
        self.statuses[f"{kind} {said}"] += 1

    def _asked(self, **more: Any) -> bytes:
        tokens = {"model": "tiny@plain", "max_tokens": 2} if self.random.random() < 0.8 else {"model": "tiny", "max_tokens": 8}
        question = f"Tom has {self.random.randint(2, 99)} apples and buys 4 more. How many has he?"
        return json.dumps({**tokens, "messages": [{"role": "user", "content": question}], **more}).encode()

    async def _open(self, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        size = len(body) or 500  # a request that says more than it sends is half a request
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {size}\r\n\r\n".encode() + body)
        return reader, writer

    async def _read(self, body: bytes, pause: float = 0.0) -> str:
        """The status; "cut" where a stream ended without its end."""
        if not body:
            return "nothing sent"
        reader, writer = await self._open(body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split()[1].decode()
            rest = bytearray()
            while part := await reader.read(1 if pause and len(rest) < 200 else 65536):
                rest += part
                await asyncio.sleep(pause)
            streamed = b"text/event-stream" in head
            whole = not streamed or b"[DONE]" in rest or b'"error"' in rest
            return status if whole else "cut"
        finally:
            writer.close()

    async def _leave(self, body: bytes, seconds: float, first: bool = False) -> str:
        reader, writer = await self._open(body)
        try:
            if first:
                await reader.read(1)
            await asyncio.sleep(seconds)
        finally:
            if self.random.random() < 0.5:
                writer.transport.abort()
            writer.close()
        return "left"

    async def vanish(self) -> None:
        """Ask for a long answer and vanish."""
        body = self._asked(model="tiny", max_tokens=256, stream=self.random.random() < 0.5, exptilt={"n": 8})
        self.statuses[f"vanish {await self._leave(body, self.random.uniform(0, 1.0))}"] += 1


async def many(
    count: int, make: Callable[[], Coroutine[Any, Any, None]], each: Callable[[int], None] = lambda done: None
) -> None:
    """`count` of them, AT_ONCE at a time; `each` is called with how many are done."""
    left, done = iter(range(count)), 0

    async def work() -> None:
        nonlocal done
        for _ in left:
            await make()
            done += 1
            each(done)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def health(url: str) -> dict[str, Any]:
    with urlopen(f"{url}/healthz", timeout=60) as said:
        return json.load(said)


def idle_after(url: str, seconds: float) -> float | None:
    """Seconds until nothing was under way; None where that took longer."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        told = health(url)
        if told["running"] == told["waiting"] == 0:
            return time.monotonic() - began
        time.sleep(0.02)
    return None


def described(url: str, examples: int) -> int:
    """The exit status of schemathesis on the server's own description."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    words = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", f"{url}/openapi.json"]
    return subprocess.run(
        [*words, "--checks", checks, "--max-examples", str(examples), "--phases", "fuzzing"], cwd=ROOT
    ).returncode


def run(args: argparse.Namespace, server: subprocess.Popen[Any], url: str) -> dict[str, Any]:
    clients = Clients(int(url.rpartition(":")[2]), args.seed)
    memory: list[float] = []

    def look(done: int) -> None:
        if done % max(1, args.requests // 50) == 0:
            memory.append(resident(server.pid))
            print(f"{done} requests, {memory[-1]:.0f} MiB, {health(url)}", flush=True)

    began = time.monotonic()
    asyncio.run(many(args.requests, lambda: clients.one(clients.random.choice(KINDS)), look))
    seconds = time.monotonic() - began
    idle = idle_after(url, 60)
    asyncio.run(many(args.vanish, clients.vanish))
    vanished = idle_after(url, 60)
    with urlopen(f"{url}/metrics", timeout=60) as said:
        counted = {int(status): float(number) for status, number in re.findall(r'status="(\d+)"} (\S+)', said.read().decode())}
    early, late = memory[len(memory) // 5], memory[-1]
    found = {
        "requests": args.requests,
        "seconds": round(seconds, 1),
        "vanished_clients": args.vanish,
        "load_average": os.getloadavg()[0],
        "statuses": dict(sorted(clients.statuses.items())),
        "server_errors": sum(int(number) for status, number in counted.items() if status == 500),
        "streams_cut": sum(number for name, number in clients.statuses.items() if name.endswith(" cut")),
        "idle_after_seconds": idle,
        "idle_after_vanished_seconds": vanished,
        "resident_mib": {
            "after_a_fifth": round(early, 1),
            "at_the_end": round(late, 1),
            "after_vanished": round(resident(server.pid), 1),
        },
        "described_status": described(url, args.described) if args.described else None,
    }
    found["held"] = (
        idle is not None and vanished is not None and not found["server_errors"] and not found["streams_cut"]
        and late < 1.05 * early + 10 and found["described_status"] in (None, 0)
    )  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--vanish", type=int, default=1_000)
    parser.add_argument("--described", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    words = [sys.executable, "-m", "exptilt", "serve", "tiny", *FLAGS]
    log = Path("runs") / "serve_chaos.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w") as written:
        server = subprocess.Popen(words, cwd=ROOT, stderr=written, text=True)
    try:
        while not (lines := [line for line in log.read_text().splitlines() if line.startswith('{"time"')]):
            time.sleep(0.1)
        found = run(args, server, json.loads(lines[0])["urls"][0])
    finally:
        server.terminate()
        server.wait(60)
    record(RESULTS / "serve_chaos.json", found)
    print(json.dumps(found, indent=1))
    return 0 if found["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
