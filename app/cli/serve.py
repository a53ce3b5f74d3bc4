"""`ltrr serve`: the HTTP service, including the learner when the event log is embedded."""

from __future__ import annotations

import argparse

from app.process.gateway import serve, work
from app.process.workers import Place
from app.settings import PREFIX, Settings


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("serve", help="run the service", description=__doc__)
    parser.add_argument("--workers", type=int, metavar="N", help="gateway processes (default: LTRR_WORKERS, 1)")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)  # one of them, started by their supervisor
    parser.add_argument("--settings", action="store_true", help="list every setting with its default, and exit")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the service, or print the settings."""
    if args.settings:
        print(settings_help())
        return
    settings = Settings.load()
    if args.worker:
        work(settings, Place.parse(args.worker))
        return
    if args.workers is not None:
        settings = settings.model_copy(update={"workers": args.workers})
    serve(settings)


def settings_help() -> str:
    """One line per setting: name, description and default."""
    lines = []
    for name, field in Settings.model_fields.items():
        lines.append(f"{PREFIX + name.upper():32} {field.description}  [{field.default}]")
    return "\n".join(lines)
