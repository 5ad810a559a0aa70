"""The results file: one JSON line per prompt, written as it finishes, and a first line that says which run it is.

    {"exptilt": 1, "settings": {...}, "hash": "...", ...}     the header: everything that decides what is drawn
    {"id": "<digest of the prompt>-<occurrence>", "prompt": ..., "text": ..., "log_z": ..., ...}
    {"id": ..., "prompt": ..., "error": "RewardError", "message": ...}

A line is on the disk before the next one is begun, so a run that is killed loses only the prompts under way. What the
kill may leave behind is one torn line at the end: it is cut off, and its prompt runs again. A bad line anywhere else
was not left by a kill, so the file is refused and not touched. Where an id occurs twice (a failed prompt that was
tried again) the later line counts. On POSIX systems the file is locked while a run writes to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from exptilt.errors import StoreError
from exptilt.keys import digest
from exptilt.running.lines import decode, encode
from exptilt.running.settings import changes, without_code

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
        hashed = digest(encode(settings, sort=True))
        header = {"exptilt": FORMAT, "settings": decode(encode(settings)), "hash": hashed, "code": "source"}
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
        differences = changes(found.get("settings"), header["settings"]) or "its hash was edited"
        if "code" not in found and changes(without_code(found.get("settings")), without_code(header["settings"])) == "":
            raise StoreError(
                f"{self.path} was begun by a version of exptilt that knew your own functions by their bytecode; this one knows "
                f"them by their source, and cannot tell whether they are the same ({differences}). Finish the file with that "
                "version, or choose another path."
            )
        raise StoreError(
            f"{self.path} holds results of a run with other settings (there → here): {differences}. "
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
