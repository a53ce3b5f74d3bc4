"""`ltrr demo`: a catalogue to play with, indexed once and served with learner and pages, and with simulated visitors if
you like."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from app.cli.index import index, text
from app.process.gateway import address, serve
from app.settings import Settings
from app.simulation.visitors import RATE, visitors
from app.telemetry import logs
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset, state
from services.datasets.sample.generate import generate
from services.errors import SettingsInvalid

READY = "indexed"
"""File that says which state of the source is indexed."""
IMPATIENT: dict[str, Any] = {"attribution_seconds": 20.0, "snapshot_seconds": 2.0, "survey_share": 1.0}
"""Settings of a demo where the operator set none: learning shows within a minute or two instead of hours. The evidence
needed before the policy leaves the static mix stays the same."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `demo`."""
    parser = subparsers.add_parser(
        "demo", help="index the sample catalogue or a folder, and serve it", description=__doc__
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data set folder (default: a generated music catalogue)"
    )
    parser.add_argument(
        "--traffic",
        action="store_true",
        help="let simulated visitors search and click from the start (the console can start and stop them, too)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prepare the data folder of the demo and serve it until the process is stopped. Raises SettingsInvalid when the
    folder given does not exist."""
    settings = Settings.load()
    if args.data is not None and not args.data.exists():
        raise SettingsInvalid(f"demo: no such folder {args.data}")
    settings = impatient(settings).model_copy(update={"data_dir": settings.data_dir / _name(args.data)})
    source = args.data or settings.data_dir / "sample"
    with logs.logging_to():  # no lines between the bars except warnings
        _prepare(settings, source, generated=args.data is None)
    logs.configure(settings)
    print(f"search {address(settings)}/   console /console   API /docs   (Ctrl-C stops)", flush=True)
    if args.traffic:
        print(f"Simulated visitors: {RATE:.0f} searches a second. Stop them on the console.", flush=True)
    serve(settings, partial(visitors, source=source, running=args.traffic))


def impatient(settings: Settings) -> Settings:
    """`settings` with those of a demo in place of unchanged defaults."""
    untouched = {name: value for name, value in IMPATIENT.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=untouched)


def _prepare(settings: Settings, source: Path, generated: bool) -> None:
    """Index `source` into the data folder unless it is up to date; the sample is generated first."""
    ready = settings.data_dir / READY
    if generated and not ready.exists():
        with Progress() as progress:
            progress.done("sample items", 0)
            progress.end("sample items", sum(generate(source).items.values()))
    now = state(source)
    if not ready.exists() or ready.read_text() != now:
        schema = Dataset.open(source).schema
        print(text(asyncio.run(index(settings, source, schema, rebuild=True, train=True))), flush=True)
        ready.write_text(now)


def _name(data: Path | None) -> str:
    """Name of the catalogue's data folder: each catalogue has its own, so that they do not mix."""
    if data is None:
        return "demo"
    path = data.resolve()
    return f"demo-{path.name}-{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
