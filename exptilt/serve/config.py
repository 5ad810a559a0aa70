"""What a server is told when it starts: where it listens, what it lets a request take, its rewards and its models by name.

    [server]
    name = "smollm2"
    port = 8000

    [limits]
    threads = 32
    deadline = 300

    [rewards]
    tests = "my_rewards.py:tests"

    [models."smollm2@careful"]
    sampler = "ets"
    candidates = 16
    reward = "tests"
    beta = 0.1

A request names rewards and models as they are called here. It never names code or files.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from exptilt.errors import UsageError, did_you_mean
from exptilt.usage import Budget


@dataclass(frozen=True)
class Limits:
    """What requests may take.

    threads: answers under way at once; each sampler has a thread of its own.
    queue: requests that may wait for one; more are refused with the status 429.
    memory_tokens: key-values that answers under way may hold together, in tokens at their full length; what the model's own
        memory holds where it is not given.
    rows_together: responses that answers under way may draw at once, together; by default twice as many as the engine draws at
        once, where it cannot say what its memory holds.
    deadline: seconds from the arrival of a request to its answer, with waiting and calls of the reward.
    reward_timeout: seconds that one call of the reward may take.
    max_tokens: the most that a request may ask for as the cap of a response.
    rows: the most responses that a sampler may draw at once.
    count: the most for every other whole number among a sampler's settings.
    body: bytes of a request.
    tokens, seconds, reward_calls: the budget of an answer, as `exptilt.Budget`; a request may only lower it.
    keep_alive: seconds without an event after which a stream has a comment, so that nothing between here and the client ends it.
    grace: seconds that answers under way have to come to their end once the server is told to stop.
    """

    threads: int = 32
    queue: int = 64
    memory_tokens: int | None = None
    rows_together: int | None = None
    deadline: float = 600.0
    reward_timeout: float = 120.0
    max_tokens: int = 4096
    rows: int = 256
    count: int = 4096
    body: int = 1_000_000
    tokens: int | None = None
    seconds: float | None = None
    reward_calls: int | None = None
    keep_alive: float = 5.0
    grace: float = 20.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value, whole = getattr(self, item.name), "int" in str(item.type)
            if value is not None and not _counts(value, whole, 0 if item.name == "queue" else 1e-9):
                least = f"a {'whole ' * whole}number{' from 0 on' if item.name == 'queue' else ' above 0'}"
                default = "it has no limit" if item.default is None else f"it is {item.default}"
                raise UsageError(f"{item.name} = {value!r} means nothing: give {least}, or leave it out, and {default}")
            if value is None and item.default is not None:
                raise UsageError(f"{item.name} has no value: give a positive number")

    @property
    def budget(self) -> Budget | None:
        """The budget of an answer; None without one."""
        given = (self.tokens, self.seconds, self.reward_calls)
        return None if given == (None, None, None) else Budget(*given)


def _counts(value: Any, whole: bool, least: float) -> bool:
    """Whether a value is a number that a limit can be."""
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    return number and least <= value < math.inf


@dataclass(frozen=True)
class Config:
    """All that a server is told, but for its model and how it answers by default, which are flags.

    name: what the model is called by clients; None for the last part of its own name.
    host, port: where it listens; other machines are served only where the host is not a loopback address.
    api_key: what clients must send as a bearer token; None where none is asked for.
    log_prompts: whether the log has what clients ask and get.
    rewards: what requests may name, by the name: as `--reward` takes them.
    models: ready-made models by name: each a sampler with its settings, reward, beta, select, answer, utility, until.
    """

    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = field(default=None, repr=False)
    log_prompts: bool = False
    limits: Limits = field(default_factory=Limits)
    rewards: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {"name": str | None, "host": str, "port": int, "api_key": str | None, "log_prompts": bool}
        for key, kind in kinds.items():
            if not isinstance(value := getattr(self, key), kind) or (kind is int and isinstance(value, bool)):
                shown = "..." if key == "api_key" else repr(value)
                raise UsageError(f"{key} = {shown} is of the wrong type: give {_named(kind)}")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError(
                "the API key is empty or has characters that a header of HTTP cannot carry: give letters, digits and signs of "
                "ASCII on one line, or no key at all"
            )
        if not 0 <= self.port < 65536:
            raise UsageError(f"port = {self.port} is not a port: give 0 to 65535; 0 takes a free one")


def _named(kind: Any) -> str:
    return {str | None: "a text", str: "a text", int: "a whole number", bool: "true or false"}[kind]


def read_config(path: str | Path) -> Config:
    """The configuration in a TOML file. Raises UsageError for what cannot be read or means nothing."""
    try:
        text = Path(path).read_text("utf-8")
        given = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        cure = "correct the line" if isinstance(error, tomllib.TOMLDecodeError) else "give --config the path of a file in TOML"
        raise UsageError(f"the configuration {path} cannot be read ({error}): {cure}") from error
    _only(given, ("server", "limits", "rewards", "models"), f"{path}")
    tables = {name: given.get(name, {}) for name in ("server", "limits", "rewards", "models")}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise UsageError(f"{path}: {name} must be a table: write [{name}]")
    own = ("name", "host", "port", "api_key_file", "log_prompts")
    _only(tables["server"], own, f"{path}, [server]")
    _only(tables["limits"], [item.name for item in fields(Limits)], f"{path}, [limits]")
    for name, spec in tables["rewards"].items():
        if not isinstance(spec, str):
            raise UsageError(
                f'{path}: the reward {name} = {spec!r} is not a text: write it as --reward takes it, {name} = "arithmetic" or '
                f'{name} = "my_rewards.py:tests"'
            )
    server = dict(tables["server"])
    key_file = server.pop("api_key_file", None)
    config = Config(**server, limits=Limits(**tables["limits"]), rewards=tables["rewards"], models=tables["models"])
    return config if key_file is None else replace(config, api_key=_key(Path(path).parent / str(key_file)))


def _key(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the file of the API key cannot be read ({error}): write the key into it, or name another as api_key_file, which is "
            "looked for beside the configuration"
        ) from error


def _only(table: Mapping[str, Any], known: Any, where: str) -> None:
    if unknown := sorted(table.keys() - {*known}):
        raise UsageError(
            f"{where} has {unknown[0]!r}, which means nothing: give {', '.join(known)}.{did_you_mean(unknown[0], known)}"
        )
