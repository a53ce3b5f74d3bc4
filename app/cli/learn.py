"""`ltrr learn`: the learner as a separate process, for a shared event log."""

from __future__ import annotations

import argparse

from app.http.application import create_learner_app
from app.process.server import DrainingServer, listening, run_server, uvicorn_config
from app.settings import Settings
from app.system.learner_process import learning
from services.errors import SettingsInvalid


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("learn", help="run the learner process", description=__doc__)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the learner until it is stopped. Raises SettingsInvalid with an embedded event log."""
    settings = Settings.load()
    if settings.redis_url is None:
        raise SettingsInvalid(
            "learn: the embedded event log belongs to the serving process, and the learner runs inside it;"
            " use `ltrr serve`"
        )
    learn(settings)


def learn(settings: Settings) -> None:
    """Run the learner until it is stopped, with probes and metrics on its port. Raises StartFailed, StorageFailed."""
    with listening(settings.host, settings.learner_port) as listener:
        app = create_learner_app(settings, learning)
        run_server(DrainingServer(uvicorn_config(app), app.state.draining, 0.0), app, listener)
