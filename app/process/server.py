"""The HTTP server of a process, alone or as one of several workers: it stops without failing a request.

On a stop signal, uvicorn closes its listener and all idle connections at once: connections that were not yet accepted
are reset, and so are requests under way on idle connections. Here the process first continues, but reports through
`/readyz` that it is not ready, for as long as load balancers take to notice; then it refuses new connections, answers
what has arrived with `Connection: close`, and only then ends.
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
"""Longer than proxies in front keep idle connections: else they would send on one that was just closed."""
GRACE_SECONDS = 8
"""How long answers under way may take once new connections are refused."""
SETTLE_SECONDS = 0.05
"""Pending connections are accepted within twice this time."""
LINGER_STEPS = 10
"""Number of such steps that idle connections are kept after that: a request may be on its way."""


class StartFailed(LtrrError):
    """The service could not start to listen."""


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    """uvicorn's configuration for `app`, without its own logs and headers."""
    return uvicorn.Config(
        app,
        access_log=False,
        log_config=None,  # the application configures logging
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
        """Begin to drain; on a second signal end the process at once."""
        if self._draining.active:
            os._exit(128 + sig)
        raise_at_exit(self, sig)
        self.drain(self._seconds)

    def drain(self, seconds: float) -> None:
        """Stop after `seconds`. Called from a signal handler, so it only sets flags."""
        self._draining.active = True
        self._leave_at = time.monotonic() + seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and begin to measure the process."""
        await super().startup(sockets)
        self._watch = asyncio.create_task(metrics_export.watch(self._worker))

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now; called ten times a second."""
        leaving = await super().on_tick(counter)
        if self._leave_at is None:
            return leaving
        self._announce_close()
        return leaving or time.monotonic() >= self._leave_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is connected now; refuse new connections."""
        self._announce_close()
        for listener in sockets or []:
            refuse_connections(listener)
        await asyncio.sleep(SETTLE_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)  # the loop has polled the listener in between, however late it is
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

    def _announce_close(self) -> None:
        """Make every response from now on close its connection."""
        if send_connection_close(self):
            metrics.DRAINING.set(1)


class WorkerServer(DrainingServer):
    """One of several workers, controlled by its supervisor alone: it ignores signals that also reach it (from a
    terminal, or a service manager that signals every process). It sends heartbeats while its event loop turns, and
    stops when the supervisor is gone."""

    def __init__(self, config: uvicorn.Config, draining: Draining, seconds: float, place: Place) -> None:
        super().__init__(config, draining, seconds, place.slot)
        self._place = place
        self._link = socket.socket(fileno=place.link)
        self._link.setblocking(False)
        self._orphaned = False
        config.callback_notify = self._beat
        config.timeout_notify = BEAT_SECONDS

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ignore the signal: signals are for the supervisor."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen to the supervisor, then to clients."""
        asyncio.get_running_loop().add_reader(self._link, self._on_supervisor_message, sockets)
        await super().startup(sockets)
        if self._orphaned:
            self._close(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain; without a supervisor, also remove the metrics folder."""
        await super().shutdown(sockets)
        if self._orphaned:
            shutil.rmtree(self._place.folder, ignore_errors=True)

    async def _beat(self) -> None:
        with contextlib.suppress(OSError):  # a lost heartbeat does no harm
            self._link.send(b".")

    def _on_supervisor_message(self, sockets: list[socket.socket] | None) -> None:
        if self._receive() == DRAIN:
            self.drain(self._seconds)
            return
        asyncio.get_running_loop().remove_reader(self._link)
        logger.warning("supervisor_gone worker=%d", self._place.slot)
        self._orphaned = True
        if self.started:
            self._close(sockets)  # so that the next supervisor can bind the port at once
        self.drain(0)

    def _receive(self) -> bytes:
        try:
            return self._link.recv(1)
        except OSError:
            return b""


def run_server(server: uvicorn.Server, app: Starlette, listener: socket.socket) -> None:
    """Serve `app` until stopped. Raises the reason when it cannot start: `app.state.failure`, or StartFailed."""
    # The reason is logged in one line at the end, so the server need not log it with a traceback.
    server_log = logging.getLogger("uvicorn.error")

    def not_reported(_: logging.LogRecord) -> bool:
        return not hasattr(app.state, "failure")

    server_log.addFilter(not_reported)
    # uvicorn stops on SIGTERM, then raises it again for the handler before it; the default one would end the process
    # with a failure, but a requested stop is none.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)
    try:
        server.run(sockets=[listener])
    except SystemExit as error:
        if not error.code:
            return
        raise getattr(app.state, "failure", StartFailed("the service did not start")) from error
    finally:
        server_log.removeFilter(not_reported)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket bound to the address, before anything else is opened. Raises StartFailed when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise StartFailed(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        yield listener
