"""The HTTP server of a process: one that leaves without failing a request, alone or as one of several workers.

Told to stop, uvicorn closes its listener and all idle connections at once: what was connected but not yet accepted is
reset, and so is a request that was on its way in an idle connection. Here the process first goes on as before, but
not ready (`/readyz` says so), for as long as balancers take to notice; then it lets nobody in any more, answers what
has come so far with `Connection: close`, and only then goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp

from app.http.draining import Draining
from app.process.refuse_connections import refuse_connections
from app.process.uvicorn_internals import raise_at_exit, send_connection_close
from app.process.workers import BEAT_SECONDS, DRAIN, Place
from app.telemetry import metrics_export
from services import metrics
from services.errors import LtrrError

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
"""Longer than what proxies in front keep idle connections for: else they send into one that we just closed."""
GRACE_SECONDS = 8
"""How long answers under way may take once nobody is let in any more."""
SETTLE_SECONDS = 0.05
"""What has connected by now is accepted within this time, twice."""
LINGER_STEPS = 10
"""For how many times that connections that wait for their next request are kept after that: one may be on its way."""


class StartFailed(LtrrError):
    """The service could not begin to listen."""


def configured(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,  # our own is in force: the server's would print beside it
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


class DrainingServer(uvicorn.Server):
    """Drains for `seconds` after the first SIGTERM or SIGINT; a second one ends the process at once."""

    def __init__(self, config: uvicorn.Config, draining: Draining, seconds: float, worker: int = 1) -> None:
        super().__init__(config)
        self._draining = draining
        self._seconds = seconds
        self._worker = worker
        self._leave_at: float | None = None
        self._watch: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._draining.active:
            os._exit(128 + sig)
        raise_at_exit(self, sig)
        self.drain(self._seconds)

    def drain(self, seconds: float) -> None:
        """Leave after `seconds`. May interrupt anything, so it only takes note."""
        self._draining.active = True
        self._leave_at = time.monotonic() + seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watch = asyncio.create_task(metrics_export.watch(self._worker))

    async def on_tick(self, counter: int) -> bool:
        leaving = await super().on_tick(counter)
        if self._leave_at is None:
            return leaving
        self._announce()
        return leaving or time.monotonic() >= self._leave_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What is connected now is still answered; nobody else is let in."""
        self._announce()
        for listener in sockets or []:
            refuse_connections(listener)
        await asyncio.sleep(SETTLE_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)  # the loop has looked at the listener in between, however late it is
        self._close(sockets)
        for _ in range(LINGER_STEPS):
            if self.server_state.connections:
                await asyncio.sleep(SETTLE_SECONDS)
        await super().shutdown(sockets)
        if self._watch is not None:
            self._watch.cancel()

    def _close(self, sockets: list[socket.socket] | None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()

    def _announce(self) -> None:
        """From now on answers say that their connection ends with them."""
        if send_connection_close(self):
            metrics.DRAINING.set(1)


class WorkerServer(DrainingServer):
    """One of several, told what to do by its supervisor alone: signals that reach it as well (from a terminal, or a
    service manager that signals every process) are for the supervisor. It beats while its loop turns, and leaves when
    the supervisor is gone."""

    def __init__(self, config: uvicorn.Config, draining: Draining, seconds: float, place: Place) -> None:
        super().__init__(config, draining, seconds, place.slot)
        self._place = place
        self._link = socket.socket(fileno=place.link)
        self._link.setblocking(False)
        self._orphaned = False
        config.callback_notify = self._beat
        config.timeout_notify = BEAT_SECONDS

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        pass

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().add_reader(self._link, self._told, sockets)
        await super().startup(sockets)
        if self._orphaned:
            self._close(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self._orphaned:
            shutil.rmtree(self._place.folder, ignore_errors=True)

    async def _beat(self) -> None:
        with contextlib.suppress(OSError):  # one that nobody reads is as good as none
            self._link.send(b".")

    def _told(self, sockets: list[socket.socket] | None) -> None:
        if self._receive() == DRAIN:
            self.drain(self._seconds)
            return
        asyncio.get_running_loop().remove_reader(self._link)
        logger.warning("supervisor_gone worker=%d", self._place.slot)
        self._orphaned = True
        if self.started:
            self._close(sockets)  # the port is free for the next supervisor at once
        self.drain(0)

    def _receive(self) -> bytes:
        try:
            return self._link.recv(1)
        except OSError:
            return b""


def run_server(server: uvicorn.Server, app: Starlette, listener: socket.socket) -> None:
    """Serve `app` until told to stop. Raises why it could not start: `app.state.failure`, or StartFailed."""
    # Why it cannot start is said in one line at the end, so the server need not tell it with a traceback.
    told = logging.getLogger("uvicorn.error")

    def untold(_: logging.LogRecord) -> bool:
        return not hasattr(app.state, "failure")

    told.addFilter(untold)
    # The server stops on SIGTERM by itself, then raises it again for whoever handled it before: being told to stop is
    # no failure.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)
    try:
        server.run(sockets=[listener])
    except SystemExit as error:
        if not error.code:
            return
        raise getattr(app.state, "failure", StartFailed("the service did not start")) from error
    finally:
        told.removeFilter(untold)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to the address before anything is opened. Raises StartFailed when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise StartFailed(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        yield listener
