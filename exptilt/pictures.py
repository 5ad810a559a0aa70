"""Pictures as files: PNG without any package, thumbnails for results files and reports, sheets of many."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
DATA = "data:image/png;base64,"
THUMBNAIL = 64  # pixels of the longer side of a picture in a results file
SHOWN = 128  # pixels that the shorter side has at the least in files for people


@dataclass(frozen=True)
class StoredPicture:
    """A picture as a results file keeps it: a thumbnail. address: a PNG as a data: address.

    The engine draws the picture itself again from the draft: `engine.drawn_again([draft])`.
    """

    address: str

    def __post_init__(self) -> None:
        if not self.address.startswith(DATA):
            raise ValueError(f"{self.address[:40]!r} is not a PNG as a data: address")


def pixels(output: object) -> Bytes | None:
    """A draft's output as whole numbers from 0 to 255, [height, width] or [height, width, 3]; None where it is not a picture.

    Pictures are arrays of numbers from 0 (black) to 1 (white).
    """
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.ndim not in (2, 3) or 0 in output.shape:
        return None
    flat = output[:, :, 0] if output.ndim == 3 and output.shape[2] == 1 else output
    if flat.ndim == 3 and flat.shape[2] != 3:
        return None
    return np.round(np.clip(np.nan_to_num(flat), 0.0, 1.0) * 255).astype(np.uint8)


def png(image: Bytes) -> bytes:
    """A PNG file of whole numbers from 0 to 255, grey [height, width] or coloured [height, width, 3]."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = image.shape[:2]
    rows = np.ascontiguousarray(image).reshape(height, -1)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # each line begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def thumbnail(image: Bytes) -> str:
    """A picture as a data: address, made smaller by means of blocks where a side is longer than `THUMBNAIL`."""
    factor = -(-max(image.shape[:2]) // THUMBNAIL)
    if factor > 1:
        height, width = (max(1, side // factor) for side in image.shape[:2])
        cut = image[: height * factor, : width * factor].reshape(height, -1, width, factor, *image.shape[2:])
        image = np.round(cut.mean(axis=(1, 3))).astype(np.uint8) if cut.shape[1] == factor else image[::factor, ::factor]
    return DATA + base64.b64encode(png(image)).decode()


def enlarged(image: Bytes) -> Bytes:
    """A picture of few pixels with each of them as a square, large enough to be looked at."""
    factor = max(1, -(-SHOWN // min(image.shape[:2])))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def sheet(images: Sequence[Bytes], across: int = 8) -> Bytes:
    """Pictures of one size side by side, `across` of them in a row, with a white line between them."""
    height, width = images[0].shape[:2]
    columns = min(across, len(images))
    rows = -(-len(images) // columns)
    found = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *images[0].shape[2:]), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        found[top : top + height, left : left + width] = image
    return found
