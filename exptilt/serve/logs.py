"""The log: one JSON object per line on standard error.

Prompts, answers and messages that may quote them are left out unless they are asked for.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

LOGGER = logging.getLogger("exptilt.serve")


@dataclass
class Record:
    """What is known of a request when it ends. id: as the header x-request-id has it."""

    id: str
    method: str
    path: str
    client: str | None
    status: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def line(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self.began, 4)
        own = {"id": self.id, "method": self.method, "path": self.path, "client": self.client, "status": self.status}
        return {"event": "request", **own, "seconds": seconds, **self.more}


class JsonLines(logging.Formatter):
    """A line for each record. Of an exception it has the types and where they were raised, and not what they say."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
        }
        line |= record.msg if isinstance(record.msg, dict) else {"event": "message", "said": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            line |= raised(record.exc_info[1])
        return json.dumps(line, default=str)


def raised(error: BaseException) -> dict[str, Any]:
    """The types of an error and its causes, and the last frames it came through, without any of its words."""
    chain: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and len(chain) < 4:
        chain.append(here)
        here = here.__cause__ or here.__context__
    frames = traceback.extract_tb(chain[-1].__traceback__)[-3:]
    return {
        "error": [type(each).__name__ for each in chain],
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def start_log(level: int = logging.INFO) -> None:
    """Send the server's log, and what uvicorn warns of, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, least in ((LOGGER.name, level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(least)
