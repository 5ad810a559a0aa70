"""The server as a program: it listens until it is told to stop, and then lets what is under way come to its end."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import time
from contextlib import suppress
from ipaddress import ip_address
from types import FrameType

import uvicorn

from exptilt.errors import UsageError
from exptilt.serve.app import create_app
from exptilt.serve.config import Config
from exptilt.serve.desk import Desk
from exptilt.serve.logs import LOGGER, start_log
from exptilt.serve.recipes import Catalogue
from exptilt.serve.room import room_of

_LOOK = 0.05  # seconds between two looks at whether the server is to stop
_SPARE = 5.0  # seconds beyond the grace, for errors to be sent


def check_address(config: Config) -> None:
    """Raises UsageError where nobody can listen, before a model is loaded. A name may have several addresses: one is enough."""
    errors: list[OSError] = []
    try:
        places = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(f"host = {config.host!r} is not an address ({error}): give 127.0.0.1 or one of this machine") from error
    for family, _, _, _, place in places:
        try:
            socket.create_server(place, family=family).close()
        except OSError as error:
            errors.append(error)
    taken = [error for error in errors if error.errno in (errno.EADDRINUSE, errno.EACCES)]
    if taken or len(errors) == len(places):
        why = os.strerror([*taken, *errors][0].errno or 0)
        raise UsageError(
            f"nobody can listen at host = {config.host!r}, port = {config.port} ({why}): give another port, 0 for a free one, "
            "or an address of this machine"
        )


def serve(catalogue: Catalogue, config: Config) -> None:
    """Answer requests until SIGTERM or Ctrl-C; those under way then have `grace` seconds to come to their end.

    A second Ctrl-C ends these, with an error for each; a third one drops the connections.
    """
    start_log()
    gc.collect()
    gc.freeze()  # what the model is made of stays: a collection that looked through it again would halt every request
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has stopped
        asyncio.run(_served(catalogue, config))


class Server(uvicorn.Server):
    """uvicorn's server drops all connections at the second Ctrl-C. hurried: whether that has come."""

    hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        super().handle_exit(sig, frame)
        if self.force_exit and not self.hurried:
            self.force_exit, self.hurried = False, True


async def _served(catalogue: Catalogue, config: Config) -> None:
    engines = (catalogue.engine, catalogue.proposal)
    desk = Desk(catalogue, config, room_of(engine for engine in engines if engine is not None))
    server = server_of(desk)
    closing = asyncio.create_task(_close_in_time(server, desk, config.limits.grace))
    await server.serve()
    await closing


def server_of(desk: Desk) -> Server:
    """The HTTP server of a desk, not started yet."""
    config = desk.config
    return Server(
        uvicorn.Config(
            create_app(desk, int(time.time())),
            host=config.host,
            port=config.port,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=int(config.limits.grace + _SPARE) + 1,
        )
    )


async def _close_in_time(server: Server, desk: Desk, grace: float) -> None:
    """Say where the server listens; once it is to stop, close the desk."""
    while not (server.started or server.should_exit):
        await asyncio.sleep(_LOOK)
    if server.started:
        places = [listener.getsockname() for each in server.servers for listener in each.sockets]
        urls = [f"http://{f'[{host}]' if ':' in host else host}:{port}" for host, port, *_ in places]
        LOGGER.info({"event": "start", "urls": urls, "models": desk.catalogue.models})
        if desk.config.api_key is None and any(not ip_address(host.partition("%")[0]).is_loopback for host, *_ in places):
            LOGGER.warning({"event": "open", "said": "other machines are served, and no API key is asked for"})
    while not server.should_exit:
        await asyncio.sleep(_LOOK)
    LOGGER.info({"event": "stop", "running": desk.admission.running, "waiting": desk.admission.waiting, "grace": grace})
    await desk.close(_grace(server, grace))


async def _grace(server: Server, seconds: float) -> None:
    """Wait for so long, or until somebody is in a hurry."""
    until = time.monotonic() + seconds
    while not server.hurried and (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(_LOOK, left))
