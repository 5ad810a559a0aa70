"""Telling model files apart."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

SAMPLED_BYTES, SAMPLED_PLACES = 2**16, 32  # how much of a file goes into its digest


def file_digest(file: Path) -> str:
    """A digest of a file's size and of pieces spread over it: fast for files of gigabytes."""
    size = file.stat().st_size
    digest = blake2b(str(size).encode(), digest_size=8)
    with file.open("rb") as data:
        for place in range(SAMPLED_PLACES):
            data.seek(max(0, size - SAMPLED_BYTES) * place // (SAMPLED_PLACES - 1))
            digest.update(data.read(SAMPLED_BYTES))
    return digest.hexdigest()
