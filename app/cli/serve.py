"""`ltrr serve`: the HTTP service, with the learner inside while the event log is embedded."""

from __future__ import annotations

import argparse
import logging

import uvicorn

from app.main import create_app
from app.ownership import owned
from app.settings import PREFIX, Settings
from services.errors import SettingsInvalid

GRACE_SECONDS = 10


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
    """Serve until told to stop. Raises Owned when another process has the data folder."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    with owned(settings.data_dir, url):
        logging.getLogger(__name__).info("serving url=%s console=%s/console docs=%s/docs", url, url, url)
        uvicorn.run(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )


def settings_help() -> str:
    """One line a setting: name, default, what it does."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines.append(f"{PREFIX + name.upper():32} {field.description}  [{field.default}]")
    return "\n".join(lines)
