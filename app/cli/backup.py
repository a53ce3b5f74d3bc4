"""`ltrr backup` and `ltrr restore`: everything that cannot be made anew, in one file.

In it are schema and items, the event log and what counts every event once, memory and histories, models with every
version and promotion, and the switches. Indexes are not: they are built from the items at the next start.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import orjson

from app.operations.backups import back_up, put_back
from app.settings import Settings
from app.telemetry.progress import Progress
from services.backup.archive import Archive
from services.errors import SettingsInvalid

BACKUP = """Write a backup of the stores that the settings name, beside whatever is running on them: learning waits
for some seconds where the memory is in Redis, nothing else does. The file is there whole or not at all, for its owner
alone to read. It holds everything that was acknowledged before the command began."""
RESTORE = """Put a backup into the empty stores that the settings name: files from Redis, Redis from files, or the same
as before. The whole file is checked first; a file that is cut or damaged changes nothing. Stop the service (gateways
and learner) before, start it after: it builds its indexes by itself."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    backup = subparsers.add_parser("backup", help="save everything to one file", description=BACKUP)
    backup.add_argument(
        "target",
        type=Path,
        metavar="FILE_OR_DIR",
        help="a file that does not exist yet, or a folder to put ltrr-NAMESPACE-TIME.tar into",
    )
    backup.add_argument(
        "--with-keys",
        action="store_true",
        help="with the signing keys of the data folder: without them, answers given so far take no feedback after a"
        " restore elsewhere; with them, the file is a secret",
    )
    backup.set_defaults(run=run_backup)
    restore = subparsers.add_parser("restore", help="put a backup into empty stores", description=RESTORE)
    restore.add_argument("file", type=Path, metavar="FILE", help="what `ltrr backup` wrote")
    restore.add_argument("--force", action="store_true", help="remove what is in the stores, once the file is checked")
    restore.set_defaults(run=run_restore)
    for parser in (backup, restore):
        parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run_backup(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    path = asked.target
    if path.is_dir():
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = path / f"ltrr-{settings.namespace}-{stamp}.tar"
    if path.exists():
        raise SettingsInvalid(f"backup: {path} is there already; name another file, or a folder")
    if not path.parent.is_dir():
        raise SettingsInvalid(f"backup: there is no folder {path.parent}")
    with Progress() as progress:
        manifest, notes = asyncio.run(back_up(settings, path, asked.with_keys, progress.done))
    summary = {"file": str(path), "bytes": path.stat().st_size, **_summary(manifest)}
    _print(asked, f"{path}: {summary['bytes']} bytes", summary | {"notes": notes})


def run_restore(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    if not asked.file.is_file():
        raise SettingsInvalid(f"restore: no such file {asked.file}")
    with Archive(asked.file) as archive, Progress() as progress:
        archive.check(lambda size: progress.done("checked bytes", size))
        notes = asyncio.run(put_back(settings, archive, asked.force, progress.done))
        summary = {"file": str(asked.file), **_summary(archive.manifest)}
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(archive.manifest["created"]))
    notes.append(f"who asked to be forgotten since {made} is back: ask for it again")
    _print(asked, f"restored what {asked.file} held; indexes are built at the next start", summary | {"notes": notes})


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: manifest[name] for name in ("version", "created", "source", "counts", "log")} | {
        "memory": manifest["memory"]["offset"]
    }


def _print(asked: argparse.Namespace, first: str, summary: dict[str, Any]) -> None:
    if asked.json:
        print(orjson.dumps(summary).decode())
        return
    counts, log = summary["counts"], summary["log"]
    print(first)
    print(
        f"{counts['items']} items, {counts['records']} log records ({log['first']} to {log['last']}),"
        f" {counts['events']} event ids, memory up to record {summary['memory']},"
        f" {counts['model_versions']} model versions"
    )
    for note in summary["notes"]:
        print(f"note: {note}")
