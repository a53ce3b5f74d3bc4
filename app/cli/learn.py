"""`ltrr learn`: the learner as a process of its own, for an event log that processes can share."""

from __future__ import annotations

import argparse

from app.http.application import create_learner_app
from app.process.server import DrainingServer, listening, run_server, uvicorn_config
from app.settings import Settings
from app.system.learner_process import learning
from services.errors import SettingsInvalid


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("learn", help="run the learner process", description=__doc__)
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    if settings.redis_url is None:
        raise SettingsInvalid(
            "learn: the embedded event log belongs to the serving process, and the learner runs inside it;"
            " use `ltrr serve`"
        )
    learn(settings)


def learn(settings: Settings) -> None:
    """Learn until told to stop, with probes and metrics on the learner's port. Raises StartFailed, StorageFailed."""
    with listening(settings.host, settings.learner_port) as listener:
        app = create_learner_app(settings, learning)
        run_server(DrainingServer(uvicorn_config(app), app.state.draining, 0.0), app, listener)
