"""The gateway: one process or several workers that answer HTTP requests until stopped."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from contextlib import nullcontext

from app.http.application import Visit, create_app
from app.process.server import DrainingServer, WorkerServer, listening, run_server, uvicorn_config
from app.process.workers import Place, Supervisor
from app.settings import Settings
from app.system.checks import check_settings
from app.system.ownership import owned
from services.errors import SettingsInvalid

MAX_WORKERS = 64


def check_workers(settings: Settings, workers: int) -> None:
    """Raises SettingsInvalid unless this many gateways can share the configured engines."""
    if not 1 <= workers <= MAX_WORKERS:
        raise SettingsInvalid(f"--workers: from 1 to {MAX_WORKERS}")
    if workers > 1 and settings.embedded:
        raise SettingsInvalid(
            f"--workers {workers}: embedded backends belong to one process;"
            f" set {', '.join(settings.embedded)} or use 1 worker"
        )


def serve(settings: Settings, visit: Visit | None = None) -> None:
    """Serve until stopped; with `visit`, a demo in one process (see create_app). Raises Owned when another process uses
    the data folder, SettingsInvalid, StartFailed."""
    check_workers(settings, settings.workers)
    if visit is not None and settings.workers > 1:
        raise SettingsInvalid(f"LTRR_WORKERS {settings.workers}: a demo is one process")
    url = address(settings)
    check_settings(settings)
    # A service with remote engines only keeps nothing in the data folder.
    folder = owned(settings.data_dir, url) if settings.embedded else nullcontext()
    with folder, listening(settings.host, settings.port) as listener:
        logging.getLogger(__name__).info("serving url=%s console=%s/console docs=%s/docs", url, url, url)
        if settings.workers == 1:
            app = create_app(settings, visit)
            run_server(DrainingServer(uvicorn_config(app), app.state.draining, settings.drain_seconds), app, listener)
        else:
            supervise(settings, listener)


def supervise(settings: Settings, listener: socket.socket) -> None:
    """Run several workers, which read their settings from variables and arguments that this process passes on."""
    os.putenv("LTRR_WORKERS", str(settings.workers))
    os.putenv("LTRR_DATA_DIR", str(settings.data_dir))
    if Supervisor(listener, settings.workers, settings.drain_seconds).run() == signal.SIGINT:
        raise KeyboardInterrupt


def work(settings: Settings, place: Place) -> None:
    """Serve as one of `settings.workers` processes."""
    app = create_app(share(settings))
    listener = socket.socket(fileno=place.listener)
    run_server(WorkerServer(uvicorn_config(app), app.state.draining, settings.drain_seconds, place), app, listener)


def share(settings: Settings) -> Settings:
    """The settings of one worker: its share of the limits that hold for all workers together."""
    return settings.model_copy(update={"max_concurrency": math.ceil(settings.max_concurrency / settings.workers)})


def address(settings: Settings) -> str:
    """The URL of this service for users on this machine."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"
