"""`ltrr learn`: the learner as a process of its own, for an event log that processes can share."""

from __future__ import annotations

import argparse

from app.settings import Settings
from services.errors import SettingsInvalid


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("learn", help="run the learner process", description=__doc__)
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    Settings.load()
    raise SettingsInvalid(
        "learn: the embedded event log belongs to the serving process, and the learner runs inside it; use `ltrr serve`"
    )
