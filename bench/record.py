"""Keeps what a benchmark found: one JSON file each in bench/results, with the date and the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def record(file: Path, found: Mapping[str, Any]) -> None:
    """Write what was found, after when and where; in place of what the file held."""
    about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**about, **found}, indent=1) + "\n")
