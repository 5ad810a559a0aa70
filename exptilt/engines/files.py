"""Model files: where they are, and digests that identify them."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from exptilt.errors import ModelError

MODELS = Path(__file__).resolve().parents[1] / "models"  # the models that ship with exptilt
SAMPLED_BYTES, SAMPLED_PLACES = 2**16, 32  # so much of a file goes into its digest


def file_digest(file: Path) -> str:
    """A digest of a file's size and of pieces spread over it: fast for files of gigabytes."""
    size = file.stat().st_size
    digest = blake2b(str(size).encode(), digest_size=8)
    with file.open("rb") as data:
        for place in range(SAMPLED_PLACES):
            data.seek(max(0, size - SAMPLED_BYTES) * place // (SAMPLED_PLACES - 1))
            digest.update(data.read(SAMPLED_BYTES))
    return digest.hexdigest()


def find_source(rest: str, name: str) -> str | Path:
    """A folder where there is one of this name, else a hub id."""
    path = Path(rest).expanduser()
    if path.is_dir():
        return path
    if rest.startswith(("/", ".", "~")):
        raise ModelError(f"{name!r}: there is no folder {path}. Give a folder as save_pretrained writes it, or a hub id.")
    return rest


def model_file(rest: str, name: str) -> Path:
    """A GGUF file."""
    path = Path(rest).expanduser()
    if not path.is_file():
        raise ModelError(f"{name!r}: there is no file {path}. Give the path of a GGUF file after the colon.")
    return path


def shipped(name: str) -> Path:
    """The folder of a model that ships with exptilt."""
    folder = MODELS / name
    if not folder.is_dir():
        raise ModelError(f"{name!r} is missing from this installation: there is no folder {folder}. Install exptilt again.")
    return folder
