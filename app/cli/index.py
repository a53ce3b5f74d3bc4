"""`ltrr index`: put a catalogue, or a whole data set folder with its history, into the service.

Beside a running service it works through that service's API; otherwise it opens the data folder itself.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
from pathlib import Path

import orjson
from services.datasets.folder import Dataset

from app.cli.progress import Progress
from app.cli.train import train_encoder
from app.client import Client
from app.indexing import OpenedTarget, ServedTarget, Summary, index
from app.ownership import owned, owner
from app.settings import Settings
from app.wiring import opened
from services.errors import SettingsInvalid
from services.schema import describe, load_schema
from services.types import Schema

SHOWN_PROBLEMS = 20
DERIVED = ("items.sqlite3", "items.sqlite3-wal", "items.sqlite3-shm", "lexical", "vectors")
"""What `--rebuild` removes; the event log, the memory and the models stay."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("index", help="index a catalogue or a data set folder", description=__doc__)
    parser.add_argument("source", type=Path, metavar="CATALOGUE_OR_DIR", help="JSONL file (may be .gz) or folder")
    parser.add_argument(
        "--schema", type=Path, metavar="FILE", help="TOML with the role of each field (default: inferred)"
    )
    parser.add_argument("--rebuild", action="store_true", help="start from an empty catalogue")
    parser.add_argument("--no-train", action="store_true", help="leave the text encoder as it is")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    settings = Settings.load()
    schema = load_schema(asked.schema) if asked.schema else Dataset.open(asked.source).schema
    running = owner(settings.data_dir)
    if running is None:
        summary = asyncio.run(index_offline(settings, asked.source, schema, asked.rebuild, not asked.no_train))
    elif running.url is None:
        raise SettingsInvalid(f"index: process {running.pid} is at work on {settings.data_dir}; wait for it to end")
    elif asked.rebuild or asked.schema:
        raise SettingsInvalid("index: --rebuild and --schema need the service stopped; without them, items are updated")
    else:
        summary = asyncio.run(index_served(settings, running.url, asked.source, not asked.no_train))
    print(orjson.dumps(view(summary)).decode() if asked.json else text(summary))
    return 0 if summary.accepted or not summary.problems else 1


async def index_offline(settings: Settings, source: Path, schema: Schema | None, rebuild: bool, train: bool) -> Summary:
    """Into the data folder itself, which nobody serves at the moment."""
    with owned(settings.data_dir):
        if rebuild:
            _remove(settings.data_dir)
        with Progress() as progress:
            async with opened(settings, learning=False) as system:
                if schema is not None:
                    await system.catalogue.set_schema(schema)
                summary = await index(OpenedTarget(system), source, progress.more)
                progress.note(f"schema ({'inferred' if schema is None else 'given'}):")
                progress.note(describe(system.search.knowledge.schema))
                if train and settings.encoder is None and summary.accepted:
                    progress.note("training the text encoder on the catalogue")
                    await train_encoder(settings, None, 0, promote=True)
                    progress.note("encoding the catalogue with it")
                    await system.models.take_up()
                progress.note("catching up with the history")
                await system.learner.catch_up()
                await system.learner.publish()
    return summary


async def index_served(settings: Settings, url: str, source: Path, train: bool) -> Summary:
    """Through the API of the service that owns the data folder; it takes up a new text encoder by itself."""
    key = settings.admin_key.get_secret_value() if settings.admin_key else None
    with Progress() as progress:
        summary = await index(ServedTarget(Client(url, key)), source, progress.more)
        if train and settings.encoder is None and summary.accepted:
            progress.note("training the text encoder on the catalogue")
            await train_encoder(settings, None, 0, promote=True)
    return summary


def view(summary: Summary) -> dict[str, object]:
    return {"accepted": summary.accepted, "events": summary.events, "problems": summary.problems}


def text(summary: Summary) -> str:
    lines = [f"{summary.accepted} items indexed, {summary.events} events of history"]
    lines += [f"  {problem}" for problem in summary.problems[:SHOWN_PROBLEMS]]
    if len(summary.problems) > SHOWN_PROBLEMS:
        lines.append(f"  and {len(summary.problems) - SHOWN_PROBLEMS} more problems; --json lists all")
    return "\n".join(lines)


def _remove(folder: Path) -> None:
    for name in DERIVED:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
