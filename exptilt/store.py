"""The results file: one JSON line per prompt, written as it finishes, and a first line that says which run it is.

    {"exptilt": 1, "settings": {...}, "hash": "..."}          the header: everything that decides what is drawn
    {"id": "<digest of the prompt>-<occurrence>", "prompt": ..., "text": ..., "log_z": ..., ...}
    {"id": ..., "prompt": ..., "error": "RewardError", "message": ...}

A line is on the disk before the next one is begun, so a run that is killed loses only the prompts under way. What the
kill may leave behind is one torn line at the end: it is cut off, and its prompt runs again. A bad line anywhere else
was not left by a kill, so the file is refused and not touched. Where an id occurs twice (a failed prompt that was
tried again) the later line counts. On POSIX systems the file is locked while a run writes to it.

JSON has no infinities: they are written as {"float": "-inf"}. Everything else reads back as it was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from exptilt.core import Draft, Sampler
from exptilt.describe import digest
from exptilt.errors import StoreError
from exptilt.population import Population
from exptilt.result import Failure, Outcome, Result
from exptilt.usage import Usage, Work

try:
    import fcntl
except ImportError:  # not a POSIX system: no lock, as the overview says
    fcntl = None

FORMAT = 1
_HEAD = b'{"exptilt": '
_FAILED = {"id", "prompt", "error", "message"}
_ANSWERED = {"id", "prompt", "reward", "log_z", "stopped", "limit", "warnings", "posterior", "usage", "trace", "draft"}


class Store:
    """A results file opened for one run. `lines` maps the id of each prompt it holds to its line, as a dict.

    path: created with its folders where it does not exist. settings: JSON values; an existing file must hold the same.
    Raises StoreError for a file that cannot be used: other settings, another writer, corrupt, or no results file.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        header = {"exptilt": FORMAT, "settings": decode(encode(settings)), "hash": digest(encode(settings, sort=True))}
        self._file = self._open()
        try:
            self._lock()
            self.lines = self._read(header)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line and see it to the disk."""
        self._file.write(encode(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _open(self) -> BinaryIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return open(self.path, "a+b")
        except OSError as error:
            raise StoreError(f"the results file {self.path} cannot be opened: {error.strerror}. Choose another path.") from error

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"another run is writing to {self.path}: wait for it, end it, or give this run another file."
            ) from None

    def _read(self, header: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Check the file against this run's header, cut a torn end off, and leave it ready to be appended to."""
        self._file.seek(0)
        content = self._file.read()
        if not (content.startswith(_HEAD) or _HEAD.startswith(content)):
            raise StoreError(f"{self.path} is no results file of exptilt, and was not touched: choose another path.")
        rows, whole = _parse(self.path, content)
        if rows:
            self._check_header(rows[0], header)
        if whole < len(content):
            self._file.truncate(whole)
        if not rows:
            self.append(header)
        return {row["id"]: row for row in rows[1:]}

    def _check_header(self, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        if found.get("exptilt") != FORMAT:
            raise StoreError(
                f"{self.path} has format {found.get('exptilt')!r} and this version of exptilt writes {FORMAT}: "
                "finish it with the version that began it, or choose another path for the results."
            )
        if found.get("hash") == header["hash"]:
            return
        raise StoreError(
            f"{self.path} holds results of a run with other settings (there → here): "
            f"{changes(found.get('settings'), header['settings']) or 'its hash was edited'}. "
            "Resume with the settings there, or choose another path for these."
        )


def read_store(path: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings and the lines of a results file, by their ids, without writing to it; a run may be adding lines.

    Raises StoreError for a file that cannot be read, is corrupt, or is no results file of this format.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"the results file {path} cannot be read: {error.strerror}. Give the path of one.") from error
    rows = _parse(path, content)[0] if content.startswith(_HEAD) else []
    if not rows or rows[0].get("exptilt") != FORMAT:
        raise StoreError(f"{path} is no results file of format {FORMAT}: give one that exptilt run wrote.")
    return rows[0]["settings"], {row["id"]: row for row in rows[1:]}


def _parse(path: Path, content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The lines as dicts, and the number of bytes of them; a torn last line, without its line break, is in neither."""
    rows, whole = [], 0
    lines = content.split(b"\n")
    ended = content.endswith(b"\n")
    last = len(lines) - (2 if ended else 1)  # the last line that holds anything
    for number, line in enumerate(lines[: last + 1]):
        row = _parse_line(line)
        if number == last and not ended:
            return rows, whole
        if row is None or (number > 0 and not (set(row) >= _FAILED or set(row) >= _ANSWERED)):
            raise StoreError(
                f"line {number + 1} of {path} is corrupt ({line[:40].decode(errors='replace')!r}...). The file was not "
                "touched: restore it, or delete that line, and its prompt will run again."
            )
        rows.append(row)
        whole += len(line) + 1
    return rows, whole


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        row = decode(line.decode())
    except ValueError:  # of JSON or of UTF-8
        return None
    return row if isinstance(row, dict) else None


def changes(before: Any, after: Any) -> str:
    """Where two settings differ, such as "seed: 0 → 1; sampler.n: 4 → 8"; empty where they are equal."""
    old, new = _flat(before), _flat(after)
    return "; ".join(
        f"{name}: {_show(old, name)} → {_show(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, Ellipsis) != new.get(name, Ellipsis)
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings as {"sampler.block": 64}."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    parts = [_flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()]
    return {path: leaf for part in parts for path, leaf in part.items()}


def _show(flat: Mapping[str, Any], name: str) -> str:
    return encode(flat[name]) if name in flat else "(not set)"


# ------------------------------------------------------------------------------------------------------- encoding


def encode(value: Any, *, sort: bool = False) -> str:
    """JSON on one line, in ASCII."""
    return json.dumps(_plain(value), sort_keys=sort, allow_nan=False)


def decode(text: str) -> Any:
    """What `encode` wrote; tuples and arrays come back as lists."""
    return json.loads(text, object_hook=lambda row: float(row["float"]) if row.keys() == {"float"} else row)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


# ------------------------------------------------------------------------------------------------------- outcomes


def to_line(name: str, outcome: Outcome, *, population: bool = True) -> dict[str, Any]:
    """An outcome as the values of its line; without `population` only the chosen draft is kept of it."""
    if isinstance(outcome, Failure):
        return {"id": name, "prompt": outcome.prompt, "error": outcome.error, "message": outcome.message}
    line = {
        "id": name,
        "prompt": outcome.prompt,
        "text": outcome.text,
        "reward": outcome.reward,
        "log_z": outcome.log_z,
        "ess": outcome.population.ess,
        "stopped": outcome.stopped,
        "limit": outcome.limit,
        "warnings": outcome.warnings,
        "posterior": None if outcome.posterior is None else list(outcome.posterior.items()),
        "usage": asdict(outcome.usage),
        "trace": outcome.trace,
        "draft": _draft_line(outcome.draft),
    }
    return line | {"population": _population_line(outcome.population)} if population else line


def from_line(line: Mapping[str, Any], sampler: Sampler, seed: int) -> Outcome:
    """The outcome that a line tells of. Without its population, the chosen draft stands for it alone."""
    prompt = line["prompt"]
    if "error" in line:
        return Failure(prompt, line["error"], line["message"])
    draft = _draft(prompt, line["draft"])
    stats = line["trace"][-1]["stats"]
    return Result(
        prompt=prompt,
        draft=draft,
        population=stored_population(line) or _alone(draft, line, stats),
        usage=stored_usage(line),
        trace=tuple(line["trace"]),
        sampler=sampler,
        seed=seed,
        stopped=line["stopped"],
        limit=line["limit"],
        warnings=tuple(line["warnings"]),
        posterior=None if line["posterior"] is None else dict(line["posterior"]),
    )


def stored_usage(line: Mapping[str, Any]) -> Usage:
    """What a result cost."""
    return Usage(**(line["usage"] | {law: Work(**line["usage"][law]) for law in ("reference", "proposal")}))


def stored_population(line: Mapping[str, Any]) -> Population | None:
    """The weighted drafts of a result's line; None where the file keeps only the chosen ones."""
    if "population" not in line:
        return None
    return _population(line["prompt"], line["population"], line["trace"][-1]["stats"])


def _draft_line(draft: Draft) -> dict[str, Any]:
    line = {"tokens": draft.tokens, "logq": draft.logq, "text": draft.text, "finish": draft.finish}
    return line if draft.order is None else line | {"order": draft.order}


def _draft(prompt: str, line: Mapping[str, Any]) -> Draft:
    logq, order = (None if values is None else tuple(values) for values in (line["logq"], line.get("order")))
    return Draft(prompt, tuple(line["tokens"]), logq, line["text"], line["finish"], order)


def _population_line(population: Population) -> dict[str, Any]:
    """Each different draft once, and for every member which of them it is: a chain repeats its states."""
    places: dict[Draft, int] = {}
    rows = [places.setdefault(draft, len(places)) for draft in population.drafts]
    log_w, rewards = population.log_w, population.rewards
    return {"proper": population.proper, "drafts": [*map(_draft_line, places)], "rows": rows, "log_w": log_w, "rewards": rewards}


def _population(prompt: str, line: Mapping[str, Any], stats: Mapping[str, Any]) -> Population:
    drafts = [_draft(prompt, draft) for draft in line["drafts"]]
    return Population([drafts[row] for row in line["rows"]], line["log_w"], line["rewards"], line["proper"], stats)


def _alone(draft: Draft, line: Mapping[str, Any], stats: Mapping[str, Any]) -> Population:
    rewards: Sequence[float] = [math.nan if line["reward"] is None else line["reward"]]
    if line["log_z"] is None:
        return Population.unweighted([draft], rewards, stats)
    return Population([draft], np.array([line["log_z"]]), np.array(rewards), stats=stats)
