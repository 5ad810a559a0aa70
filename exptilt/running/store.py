"""The results file: one JSON line per prompt, written as it finishes, and a first line that says which run it is.

    {"exptilt": 1, "settings": {...}, "hash": "...", ...}     the header: everything that decides what is drawn, and "made"
    {"id": "<digest of the prompt>-<occurrence>", "prompt": ..., "text": ..., "log_z": ..., ...}
    {"id": ..., "prompt": ..., "error": "RewardError", "message": ...}

A line is on the disk before its prompt is reported as finished; lines of prompts that finish at about the same time wait for the
disk together. So a run that is killed loses only what it had not reported. What the kill may leave behind is one incomplete line
at the end: it is cut off, and its prompt runs again. A bad line anywhere else was not left by a kill, so the file is refused and
not touched. Where an id occurs twice (a failed prompt that was tried again) the later line counts, but no failure replaces an
answer. On POSIX systems the file is locked while a run writes to it. If the file's name is removed meanwhile, it is written again
under that name: the run still holds it open.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from exptilt.errors import StoreError
from exptilt.keys import digest
from exptilt.running.forms import misfit_of_line, misfit_of_made, misfit_of_settings
from exptilt.running.lines import decode, encode
from exptilt.running.settings import changes, without_code

try:
    import fcntl
except ImportError:  # not a POSIX system: no lock, as the overview says
    fcntl = None

_log = logging.getLogger("exptilt")
FORMAT = 1
_HEAD = b'{"exptilt": '
_MARK = b"\xef\xbb\xbf"  # a byte order mark, which some editors write first
_FAILED = {"id", "prompt", "error", "message"}
_ANSWERED = {"id", "prompt", "reward", "log_z", "stopped", "limit", "warnings", "posterior", "usage", "trace", "draft"}


class Store:
    """A results file opened for one run. `lines` maps the id of each prompt it holds to its line, as a dict.

    path: created with its folders where it does not exist.
    settings: JSON values; an existing file must hold the same.
    made: versions, device and date, for a new file; an existing one keeps its own.
    Raises StoreError for a file that cannot be used: other settings, another writer, corrupt, or not a results file.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], made: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        header = new_header(settings, made)
        self._file = self._open()
        try:
            self._lock()
            self.lines = self._read(header)
        except BaseException:
            self._file.close()
            raise

    @property
    def header(self) -> dict[str, Any]:
        """The first line of the file."""
        return self._header

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._keep_name()
        finally:
            self._file.close()

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Write lines, to the disk. Raises StoreError where that fails; what was written before stays, and so do whole lines."""
        self._write(b"".join(encode(line).encode() + b"\n" for line in lines))
        self._keep_name()

    def _write(self, content: bytes) -> None:
        before, done = os.fstat(self._file.fileno()).st_size, 0
        try:
            while done < len(content):
                done += self._file.write(content[done:])
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # an incomplete last line remains, which the next run cuts off
                self._file.truncate(before + content.rfind(b"\n", 0, done) + 1)
            raise StoreError(
                f"the results file {self.path} cannot be written: {error.strerror}. Everything finished before is in it: free "
                "space or fix the permissions, then run again, and the run resumes from there."
            ) from error

    def _keep_name(self) -> None:
        """Check that the file still has its name: restore it if it was removed, refuse if another file has it."""
        try:
            if os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno())):
                return
        except OSError:  # no such file, or no such folder
            _log.warning("%s was removed during the run: it is written again", self.path)
            self._write_anew()
            return
        taken, self.path = self.path, self.path.with_name(f"{self.path.name}.{os.getpid()}")
        self._write_anew()
        raise StoreError(
            f"{taken} was replaced by another file while the run was writing to it. What the run has written is in {self.path}: "
            "put it back under the old name, then run again, and the run resumes from there."
        )

    def _write_anew(self) -> None:
        self._file.seek(0)
        content, removed = self._file.read(), self._file
        self._file = self._open()
        removed.close()
        self._lock()
        self._write(content)

    def _open(self) -> FileIO:
        if self.path.exists() and not (self.path.is_file() or self.path.is_dir()):  # reading /dev/full, or a pipe, has no end
            raise StoreError(f"{self.path} is a device or a pipe, which no run can be resumed from: give the path of a file.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return open(self.path, "a+b", buffering=0)  # a buffer would try to write again, and fail again, when it is closed
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
        """Check the file against this run's header, cut an incomplete last line off, and leave it ready to be appended to."""
        self._file.seek(0)
        content = self._file.read()
        if not (content.removeprefix(_MARK).startswith(_HEAD) or _HEAD.startswith(content)):
            raise StoreError(f"{self.path} is not a results file of exptilt, and was not touched: choose another path.")
        rows, whole = _parse(self.path, content)
        self._header = rows[0] if rows else dict(header)
        if rows:
            self._check_header(rows[0], header)
        if whole < len(content):
            self._file.truncate(whole)
        if not rows:
            self._write(encode(header).encode() + b"\n")
        return _by_id(rows[1:])

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


def new_header(settings: Mapping[str, Any], made: Mapping[str, Any] | None) -> dict[str, Any]:
    """The first line of a results file of these settings."""
    header = {
        "exptilt": FORMAT,
        "settings": decode(encode(settings)),
        "hash": digest(encode(settings, sort=True)),
        "code": "source",
    }
    return header if made is None else header | {"made": dict(made)}


def read_store(path: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings and the lines of a results file, by their ids; otherwise as `read_file`."""
    header, lines = read_file(path)
    return header["settings"], lines


def read_file(path: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The first line of a results file and its other lines by their ids, without writing to it; a run may be adding lines.

    Raises StoreError for a file that cannot be read, is corrupt, or is not a results file of this format.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"the results file {path} cannot be read: {error.strerror}. Give the path of a results file.") from error
    rows = _parse(path, content)[0] if content.removeprefix(_MARK).startswith(_HEAD) else []
    if not rows or rows[0].get("exptilt") != FORMAT or not isinstance(rows[0].get("settings"), dict):
        raise StoreError(f"{path} is not a results file of format {FORMAT}: give one that exptilt run wrote.")
    if misfit := misfit_of_settings(rows[0]["settings"]) or misfit_of_made(rows[0].get("made", {})):
        raise StoreError(f"line 1 of {path} does not hold the settings of a run: {misfit}. Restore it.")
    return rows[0], _by_id(rows[1:])


def _by_id(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The line that counts of each id: the last answer, or the last failure where there is no answer."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not ("error" in row and "error" not in found.get(row["id"], row)):
            found[row["id"]] = row
    return found


def _parse(path: Path, content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The lines as dicts, and the number of bytes of them; an incomplete last line, without its line break, is in neither."""
    rows, whole = [], 0
    for number, line in enumerate(content.rstrip().removeprefix(_MARK).split(b"\n"), 1):
        end = content.find(b"\n", whole) + 1
        if not end:
            return rows, whole
        row = _parse_line(line)
        cure = "The file was not touched: restore it, or delete that line, and its prompt will run again."
        if row is None or not (number == 1 or _is_outcome(row)):
            raise StoreError(f"line {number} of {path} is corrupt ({line[:40].decode(errors='replace')!r}...). {cure}")
        if number > 1 and (misfit := misfit_of_line(row)):
            raise StoreError(f"line {number} of {path} does not have the form of a result: {misfit}. {cure}")
        rows.append(row)
        whole = end
    return rows, whole


def _is_outcome(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("id"), str) and (set(row) >= _FAILED or set(row) >= _ANSWERED)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        row = decode(line.decode())
    except (ValueError, TypeError, RecursionError):  # the error is one of JSON, of UTF-8, or of a wrong infinity
        return None
    return row if isinstance(row, dict) else None
