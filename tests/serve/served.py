"""Servers for tests: a table for a model, behind uvicorn in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

from exptilt import names
from exptilt.core import Engine, Reward
from exptilt.draft import Draft, Prompt
from exptilt.engines import TableEngine
from exptilt.rewards import Zero
from exptilt.serve.config import Config, Limits
from exptilt.serve.desk import Desk
from exptilt.serve.recipes import Catalogue, Recipe
from exptilt.serve.room import ANY, Room
from exptilt.serve.server import server_of
from exptilt.testing.toys import random_table

TABLE = TableEngine(random_table(3, 4), 5, 3, symbols="1234")
CONFIG = Config(name="table", port=0, limits=Limits(grace=1.0))
USER = [{"role": "user", "content": "hi"}]


def heads(prompt: Prompt, drafts: Sequence[Draft]) -> list[float]:
    return [float(draft.text.count("1")) for draft in drafts]


def recipe(sampler: str = "ets", **settings: Any) -> Recipe:
    given = settings or ({"candidates": 4, "block": 2} if sampler == "ets" else {})
    return Recipe(names.choose_sampler(sampler), given, reward="heads", beta=0.5)


def catalogue(engine: Engine = TABLE, reward: Reward = heads, usual: Recipe | None = None, **more: Recipe) -> Catalogue:
    return Catalogue("table", engine, None, {"none": Zero(), "heads": reward}, usual or recipe(), more)


@dataclass
class Live:
    """A server that listens. url: its base, without /v1."""

    url: str
    desk: Desk
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, **more)


@contextmanager
def live(offered: Catalogue | None = None, config: Config = CONFIG, room: Room = ANY) -> Iterator[Live]:
    """A server, until the end of the block."""
    desk = Desk(offered or catalogue(), config, room)
    server = server_of(desk)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 30)
    [listener] = server.servers
    try:
        yield Live(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", desk)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)
