"""Files that commands write besides results files: tried before anything is drawn, and an error told in plain words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exptilt.errors import ExptiltError, UsageError


class NotWritten(ExptiltError):
    """A file could not be written once the work was done."""


def check_folder(flag: str, folder: Path, *, new: bool = False) -> None:
    """Refuse a folder that no file can be written to. new: whether it may be made where it is not there."""
    nearest = folder.absolute()
    while new and not nearest.exists():
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest) as trial:
            trial.write(b"\n")
    except OSError as error:
        raise UsageError(f"{flag} {folder} cannot be written to: {error.strerror}. Give a folder that can.") from error


def check_file(flag: str, path: Path) -> None:
    """Refuse the path of a file that cannot be written, as far as that can be known before."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{flag} {path} cannot be written: there is no folder {path.parent}")
    check_folder(flag, path.parent)


@contextmanager
def writing(flag: str, path: Path) -> Iterator[None]:
    """Say in plain words that a file could not be written, as on a full disk."""
    try:
        yield
    except OSError as error:
        raise NotWritten(f"{flag} {path} cannot be written: {error.strerror}. Free space, or give another path.") from error
