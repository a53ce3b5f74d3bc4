"""`ltrr backup` and `ltrr restore`: everything that cannot be rebuilt, in one file.

It contains schema and items, the event log with its deduplication state, memory and histories, models with all versions
and promotions, and the switches. It does not contain indexes: they are rebuilt from the items at the next start.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import orjson

from app.operations.backups import create_backup, restore_backup
from app.settings import Settings
from app.telemetry.progress import Progress
from services.backup.archive import Archive
from services.errors import SettingsInvalid

BACKUP = """Write a backup of the configured stores while the service runs: with the memory in Redis, learning pauses
for some seconds; nothing else is interrupted. The file is written completely or not at all, and only its owner can read
it. It contains everything that was acknowledged before the command began."""
RESTORE = """Restore a backup into the configured stores, which must be empty. A backup of Redis can be restored to
files and vice versa. The whole file is checked first; a truncated or damaged file changes nothing. Stop the service
(gateways and learner) before, and start it afterwards: it rebuilds its indexes."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands to the command line."""
    backup = subparsers.add_parser("backup", help="save everything to one file", description=BACKUP)
    backup.add_argument(
        "target",
        type=Path,
        metavar="FILE_OR_DIR",
        help="a new file, or a folder in which to create ltrr-NAMESPACE-TIME.tar",
    )
    backup.add_argument(
        "--with-keys",
        action="store_true",
        help="include the signing keys of the data folder: without them, feedback on earlier answers is rejected after"
        " a restore elsewhere; with them, the file is a secret",
    )
    backup.set_defaults(run=run_backup)
    restore = subparsers.add_parser("restore", help="restore a backup into empty stores", description=RESTORE)
    restore.add_argument("file", type=Path, metavar="FILE", help="a file written by `ltrr backup`")
    restore.add_argument(
        "--force", action="store_true", help="delete the contents of the stores once the file is checked"
    )
    restore.set_defaults(run=run_restore)
    for parser in (backup, restore):
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run_backup(args: argparse.Namespace) -> None:
    """Write a backup and print its summary. Raises SettingsInvalid, NotFound, StorageFailed."""
    settings = Settings.load()
    path = args.target
    if path.is_dir():
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = path / f"ltrr-{settings.namespace}-{stamp}.tar"
    if path.exists():
        raise SettingsInvalid(f"backup: {path} already exists; name another file, or a folder")
    if not path.parent.is_dir():
        raise SettingsInvalid(f"backup: there is no folder {path.parent}")
    with Progress() as progress:
        manifest, notes = asyncio.run(create_backup(settings, path, args.with_keys, progress.done))
    summary = {"file": str(path), "bytes": path.stat().st_size, **_summary(manifest)}
    _print(args, f"{path}: {summary['bytes']} bytes", summary | {"notes": notes})


def run_restore(args: argparse.Namespace) -> None:
    """Check the file, restore it and print a summary. Raises SettingsInvalid, StorageFailed."""
    settings = Settings.load()
    if not args.file.is_file():
        raise SettingsInvalid(f"restore: no such file {args.file}")
    with Archive(args.file) as archive, Progress() as progress:
        archive.check(lambda size: progress.done("checked bytes", size))
        notes = asyncio.run(restore_backup(settings, archive, args.force, progress.done))
        summary = {"file": str(args.file), **_summary(archive.manifest)}
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(archive.manifest["created"]))
    notes.append(f"users who were deleted since {made} are back: delete them again")
    _print(args, f"restored {args.file}; indexes are rebuilt at the next start", summary | {"notes": notes})


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: manifest[name] for name in ("version", "created", "source", "counts", "log")} | {
        "memory": manifest["memory"]["offset"]
    }


def _print(args: argparse.Namespace, first: str, summary: dict[str, Any]) -> None:
    if args.json:
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
