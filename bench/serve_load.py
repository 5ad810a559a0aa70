"""Throughput of the server against that of a run: `python bench/serve_load.py --requests 200 --clients 32`.

The same word problems are answered by the tiny model under the same sampler, in turns of a process each:

    alone    `exptilt.run`, as many prompts at a time as there are clients
    served   `exptilt serve`, asked by as many clients over the loopback, while /healthz is asked twenty times a second

Both are timed from the first prompt to the last answer, after a warm-up. Answers must be equal: the seed of a request is that of
the run. The clients share the machine with the server and take nothing from a run, so they do no more than to keep a connection
each, write requests and read answers; their processor time stands beside that of the server and of the run. The end is a summary
and bench/results/serve_load.json; the exit status says whether there was an error. Runs on Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import exptilt as xt
from bench.record import RESULTS, record
from exptilt.evaluation.tasks.word_problems import word_problems

ROOT = Path(__file__).resolve().parents[1]
CAP, SEED, BETA = 48, 7, 0.2
PATH = "/v1/chat/completions"


def questions(count: int) -> list[Any]:
    return [[{"role": "user", "content": problem.question}] for problem in word_problems("test", count, SEED)]


def alone(count: int, clients: int) -> None:
    """The child that runs: seconds and texts on standard output."""
    with xt.load("tiny", max_tokens=CAP) as engine:
        target, sampler = xt.Target(engine, xt.rewards.Arithmetic(), BETA), xt.ETS(candidates=4, block=16)
        xt.run(target, questions(count)[:clients], sampler, concurrency=clients, seed=SEED + 1)
        began, busy = time.monotonic(), time.process_time()
        outcomes = xt.run(target, questions(count), sampler, concurrency=clients, seed=SEED)
        found = {"seconds": time.monotonic() - began, "processor": time.process_time() - busy}
    texts = [outcome.text if isinstance(outcome, xt.Result) else None for outcome in outcomes]
    print(json.dumps({**found, "texts": texts}))


def ran(count: int, clients: int) -> dict[str, Any]:
    words = [sys.executable, "-m", "bench.serve_load", "--alone", "--requests", str(count), "--clients", str(clients)]
    return json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def started(clients: int) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and where it listens."""
    flags = ["--candidates", "4", "--block", "16", "--max-tokens", str(CAP), "--reward", "arithmetic", "--beta", str(BETA)]
    words = [sys.executable, "-m", "exptilt", "serve", "tiny", *flags, "--port", "0", "--threads", str(clients)]
    server = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = next(line for line in server.stderr if line.startswith('{"time"'))
    drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)  # nobody else reads the log
    assert drain.pid
    return server, json.loads(line)["urls"][0]


class Client:
    """A connection that is kept, with one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        """The status and the body of the answer. body: none for a GET."""
        if self._ends is None:
            self._ends = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._ends
        sent = b"" if body is None else json.dumps(body).encode()
        head = f"{'POST' if sent else 'GET'} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(sent)}\r\n\r\n".encode() + sent)
        told = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(told.partition(b"content-length:")[2].split()[0])
        return int(told.split()[1]), await reader.readexactly(size)


async def asked(port: int, pid: int, count: int, clients: int) -> dict[str, Any]:
    """All requests from so many clients, and how long /healthz took meanwhile."""
    connections = [Client(port) for _ in range(clients)]
    waiting = [*enumerate(questions(count))]
    texts: list[str | None] = [None] * count
    errors: list[int] = []
    health: list[float] = []

    async def work(client: Client) -> None:
        while waiting:
            number, messages = waiting.pop(0)
            status, said = await client.ask(PATH, {"model": "tiny", "messages": messages, "seed": SEED})
            if status == 200:
                texts[number] = json.loads(said)["choices"][0]["message"]["content"]
            else:
                errors.append(status)

    async def watch() -> None:
        client = Client(port)
        while True:
            began = time.monotonic()
            await client.ask("/healthz")
            health.append(time.monotonic() - began)
            await asyncio.sleep(0.05)

    warm = zip(connections, questions(clients), strict=True)
    await asyncio.gather(*(client.ask(PATH, {"model": "tiny", "messages": messages}) for client, messages in warm))
    watching = asyncio.create_task(watch())
    began, own, server = time.monotonic(), time.process_time(), processor_time(pid)
    await asyncio.gather(*map(work, connections))
    found = {"seconds": time.monotonic() - began, "processor": processor_time(pid) - server}
    watching.cancel()
    return {**found, "clients": time.process_time() - own, "texts": texts, "errors": errors, "health": health}


def processor_time(pid: int) -> float:
    """Seconds that all threads of a process have computed, those that ended too."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def served(count: int, clients: int) -> dict[str, Any]:
    server, url = started(clients)
    try:
        return asyncio.run(asked(int(url.rpartition(":")[2]), server.pid, count, clients))
    finally:
        server.terminate()
        server.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="be the child that runs")
    args = parser.parse_args()
    if args.alone:
        alone(args.requests, args.clients)
        return 0
    runs, serves = [], []
    for _ in range(args.rounds):
        runs.append(ran(args.requests, args.clients))
        serves.append(served(args.requests, args.clients))
        print(f"run {runs[-1]['seconds']:.1f} s, served {serves[-1]['seconds']:.1f} s", flush=True)
    health = np.array([each for served in serves for each in served["health"]])
    found = {
        "requests": args.requests,
        "clients": args.clients,
        "load_average": os.getloadavg()[0],
        "run_seconds": [each["seconds"] for each in runs],
        "served_seconds": [each["seconds"] for each in serves],
        "throughput_of_run": [run["seconds"] / served["seconds"] for run, served in zip(runs, serves, strict=True)],
        "run_processor_seconds": [each["processor"] for each in runs],
        "served_processor_seconds": [each["processor"] for each in serves],
        "clients_processor_seconds": [each["clients"] for each in serves],
        "errors": sum(len(each["errors"]) for each in serves),
        "different_texts": sum(a != b for a, b in zip(runs[0]["texts"], serves[0]["texts"], strict=True)),
        "healthz_asked": len(health),
        "healthz_ms": {f"p{q}": round(1000 * float(np.percentile(health, q)), 2) for q in (50, 99, 100)},
    }
    record(RESULTS / "serve_load.json", found)
    print(json.dumps(found, indent=1))
    return 1 if found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
