"""Throughput of the server against that of a run: `python bench/serve_load.py --requests 200 --clients 32`.

The same word problems are answered by the tiny model under the same sampler, in turns of a process each:

    alone    `exptilt.run`, as many prompts at a time as there are clients
    served   `exptilt serve`, asked by as many clients over the loopback, while /healthz is asked a hundred times a second

Both are timed from the first prompt to the last answer, after a warm-up. Answers must be equal: the seed of a request is that of
the run. The end is a summary and bench/results/serve_load.json; the exit status says whether there was an error.
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

import httpx2
import numpy as np

import exptilt as xt
from bench.record import RESULTS, record
from exptilt.evaluation.tasks.word_problems import word_problems

ROOT = Path(__file__).resolve().parents[1]
CAP, SEED, BETA = 48, 7, 0.2


def questions(count: int) -> list[Any]:
    return [[{"role": "user", "content": problem.question}] for problem in word_problems("test", count, SEED)]


def alone(count: int, clients: int) -> None:
    """The child that runs: seconds and texts on standard output."""
    with xt.load("tiny", max_tokens=CAP) as engine:
        target, sampler = xt.Target(engine, xt.rewards.Arithmetic(), BETA), xt.ETS(candidates=4, block=16)
        xt.run(target, questions(count)[:clients], sampler, concurrency=clients, seed=SEED + 1)
        began = time.monotonic()
        outcomes = xt.run(target, questions(count), sampler, concurrency=clients, seed=SEED)
        seconds = time.monotonic() - began
    texts = [outcome.text if isinstance(outcome, xt.Result) else None for outcome in outcomes]
    print(json.dumps({"seconds": seconds, "texts": texts}))


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


async def asked(url: str, count: int, clients: int) -> dict[str, Any]:
    """All requests from so many clients, and how long /healthz took meanwhile."""
    limits = httpx2.Limits(max_connections=clients + 4)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        waiting = [*enumerate(questions(count))]
        texts: list[str | None] = [None] * count
        errors: list[int] = []
        health: list[float] = []

        async def work() -> None:
            while waiting:
                number, messages = waiting.pop(0)
                said = await client.post("/v1/chat/completions", json={"model": "tiny", "messages": messages, "seed": SEED})
                if said.status_code == 200:
                    texts[number] = said.json()["choices"][0]["message"]["content"]
                else:
                    errors.append(said.status_code)

        async def watch() -> None:
            while True:
                began = time.monotonic()
                await client.get("/healthz")
                health.append(time.monotonic() - began)
                await asyncio.sleep(0.01)

        warm = [client.post("/v1/chat/completions", json={"model": "tiny", "messages": each}) for each in questions(clients)]
        await asyncio.gather(*warm)
        watching = asyncio.create_task(watch())
        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(clients)))
        seconds = time.monotonic() - began
        watching.cancel()
    return {"seconds": seconds, "texts": texts, "errors": errors, "health": health}


def served(count: int, clients: int) -> dict[str, Any]:
    server, url = started(clients)
    try:
        return asyncio.run(asked(url, count, clients))
    finally:
        server.terminate()
        server.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
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
