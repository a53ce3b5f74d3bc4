"""`ltrr index`: put a catalogue, or a whole data set folder with its history, into the service.

Beside a running service it works through that service's API; otherwise it opens the data folder itself.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import orjson

from app.cli.train import train_encoders
from app.operations.client import Client
from app.operations.indexing import Summary, index_served, indexed
from app.settings import Settings
from app.system.checks import check_settings
from app.system.ownership import owned, owner
from app.telemetry.progress import Progress
from services.datasets.folder import SCHEMA, Dataset
from services.errors import SettingsInvalid, Unavailable
from services.schema.schema import load_schema
from services.types import Schema

SHOWN_PROBLEMS = 20
DERIVED = ("items.sqlite3", "items.sqlite3-wal", "items.sqlite3-shm", "lexical", "vectors", "taste")
"""Files of an embedded service that `--rebuild` removes; the event log, the memory and the models stay."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `index`."""
    parser = subparsers.add_parser("index", help="index a catalogue or a data set folder", description=__doc__)
    parser.add_argument("source", type=Path, metavar="CATALOGUE_OR_DIR", help="JSONL file (may be .gz) or folder")
    parser.add_argument("--schema", type=Path, metavar="FILE", help="TOML with each field's role (default: inferred)")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="replace the catalogue: what is not in the source goes, and every index is rebuilt",
    )
    parser.add_argument("--no-train", action="store_true", help="leave the models of the catalogue as they are")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Index the source and print a summary. Returns the exit status: 1 when every item was invalid. Raises
    SettingsInvalid when the source is missing, or the running service does not allow what was requested."""
    settings = Settings.load()
    if not args.source.exists():
        raise SettingsInvalid(f"index: no such file or folder {args.source}")
    # A catalogue in remote engines belongs to no single process: several may write.
    running = owner(settings.data_dir) if settings.embedded else None
    if running is None:
        schema = load_schema(args.schema) if args.schema else Dataset.open(args.source).schema
        summary = asyncio.run(index(settings, args.source, schema, args.rebuild, not args.no_train))
    elif running.url is None:
        raise SettingsInvalid(f"index: process {running.pid} is at work on {settings.data_dir}; wait for it to end")
    elif args.rebuild or args.schema:
        raise SettingsInvalid("index: --rebuild and --schema need the service stopped; without them, items are updated")
    else:
        summary = asyncio.run(beside(settings, running.url, args.source, not args.no_train))
    print(orjson.dumps(asdict(summary)).decode() if args.json else text(summary))
    return 0 if summary.accepted or not summary.invalid else 1


async def index(settings: Settings, source: Path, schema: Schema | None, rebuild: bool, train: bool) -> Summary:
    """Index into the data folder itself, which no process is serving, or into remote engines, beside running
    gateways."""
    check_settings(settings)
    with owned(settings.data_dir) if settings.embedded else nullcontext(), Progress() as progress:
        if rebuild and settings.redis_url is None:
            _remove(settings.data_dir)
        encoders = train_encoders if train else None
        async with indexed(settings, source, schema, progress, encoders, replace=rebuild) as (system, summary):
            try:
                await system.learner.catch_up()
            except Unavailable:
                progress.note("the history is in the log; the learner (ltrr learn) takes it in when it runs")
            await system.learner.publish()
    return summary


async def beside(settings: Settings, url: str, source: Path, train: bool) -> Summary:
    """Index through the API of the service that owns the data folder; it activates new encoders by itself."""
    with Progress() as progress:
        if Dataset.open(source).schema is not None:
            progress.note(f"{SCHEMA} is ignored: the schema of a running service stays (see --rebuild)")
        summary = await index_served(Client.of(settings, url), source, progress)
        if train:
            await train_encoders(settings, summary, progress)
    return summary


def text(summary: Summary) -> str:
    """The summary for a terminal, with at most SHOWN_PROBLEMS problems."""
    lines = [f"{summary.accepted} items indexed, {summary.invalid} refused, {summary.events} events of history"]
    lines += [f"  {problem}" for problem in summary.problems[:SHOWN_PROBLEMS]]
    if len(summary.problems) > SHOWN_PROBLEMS:
        lines.append(f"  and {len(summary.problems) - SHOWN_PROBLEMS} more problems; --json lists them")
    return "\n".join(lines)


def _remove(folder: Path) -> None:
    for name in DERIVED:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
