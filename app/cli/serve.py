"""`ltrr serve`: the HTTP service, with the learner inside while the event log is embedded."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from app.main import create_app
from app.ownership import owned
from app.settings import PREFIX, Settings
from app.wiring import check
from services.errors import LtrrError, SettingsInvalid

GRACE_SECONDS = 10
KEEP_ALIVE_SECONDS = 75
"""Longer than what proxies in front keep idle connections for: else they send into one that we just closed."""


class StartFailed(LtrrError):
    """The service could not begin to listen."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("serve", help="run the service", description=__doc__)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="gateway processes (default 1)")
    parser.add_argument("--settings", action="store_true", help="list every setting with its default, and exit")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    if asked.settings:
        print(settings_help())
        return
    settings = Settings.load()
    check_workers(settings, asked.workers)
    serve(settings)


def check_workers(settings: Settings, workers: int) -> None:
    """Raises SettingsInvalid unless this many gateways can share what is configured."""
    if workers < 1:
        raise SettingsInvalid("--workers: at least 1")
    embedded = [
        name
        for name, url in (
            ("LTRR_OPENSEARCH_URL", settings.opensearch_url),
            ("LTRR_QDRANT_URL", settings.qdrant_url),
            ("LTRR_REDIS_URL", settings.redis_url),
        )
        if url is None
    ]
    if workers > 1 and embedded:
        raise SettingsInvalid(
            f"--workers {workers}: embedded backends belong to one process; set {', '.join(embedded)} or use 1 worker"
        )


def serve(settings: Settings) -> None:
    """Serve until told to stop. Raises Owned when another process has the data folder, SettingsInvalid, StartFailed."""
    url = address(settings)
    check(settings)
    with owned(settings.data_dir, url), listening(settings.host, settings.port) as listener:
        logging.getLogger(__name__).info("serving url=%s console=%s/console docs=%s/docs", url, url, url)
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        # Why it cannot start is said in one line at the end, so the server need not tell it with a traceback.
        logging.getLogger("uvicorn.error").addFilter(lambda record: not hasattr(app.state, "failure"))
        # The server stops on SIGTERM by itself, then raises it again for whoever handled it before: being told to stop
        # is no failure.
        signal.signal(signal.SIGTERM, _exit)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except SystemExit as error:
            if not error.code:
                return
            raise getattr(app.state, "failure", StartFailed("the service did not start")) from error


def address(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


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


def settings_help() -> str:
    """One line a setting: name, default, what it does."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines.append(f"{PREFIX + name.upper():32} {field.description}  [{field.default}]")
    return "\n".join(lines)
