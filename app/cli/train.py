"""`ltrr train`: train a model on judged queries or on the event log; one that passes its gate goes live at once."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import orjson

from app.operations.indexing import Summary
from app.settings import Settings
from app.system.model_kinds import TASTE, TEXT, kind_named, trainable
from app.system.stores import model_store
from app.telemetry.progress import Progress
from services.errors import ModelInvalid, SettingsInvalid
from services.models.trained import Trained

SEED = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A version that was stored, and whether it went live."""

    kind: str
    version: str
    promoted: bool
    reason: str
    metrics: dict[str, Any]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `ltrr`."""
    parser = subparsers.add_parser("train", help="train a model", description=__doc__)
    parser.add_argument("kind", choices=trainable(), help="what to train")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data set folder (default: this service's log)")
    parser.add_argument("--no-promote", action="store_true", help="store it, but leave the active version as it is")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of all chance in it (default: {SEED})")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train, store, promote if allowed, and print the outcome."""
    settings = Settings.load()
    if args.data is not None and not args.data.is_dir():
        raise SettingsInvalid(f"train: no such folder {args.data}")
    outcome = asyncio.run(train_model(args.kind, settings, args.data, args.seed, promote=not args.no_promote))
    if args.json:
        form = {name: getattr(outcome, name) for name in ("kind", "version", "promoted", "reason", "metrics")}
        print(orjson.dumps(form, option=orjson.OPT_SERIALIZE_NUMPY).decode())
        return
    print(f"{outcome.kind} {outcome.version}: {outcome.reason}")
    print(orjson.dumps(outcome.metrics, option=orjson.OPT_INDENT_2).decode())
    print("active (a running service follows within seconds)" if outcome.promoted else "stored, not active")


async def train_model(kind: str, settings: Settings, data: Path | None, seed: int, promote: bool) -> Outcome:
    """Train a model of `kind` and store it; with `promote` it goes live if it passes its gate.

    Raises what its trainer raises (app/cli/trainers.py), ModelInvalid for a kind that has none.
    """
    trained = await _trainer(kind)(settings, data, seed)
    store = model_store(settings)
    version = store.publish(kind, trained.files, trained.meta)
    promoted = promote and trained.promote
    if promoted:
        store.promote(kind, version, trained.reason)
    return Outcome(kind, version, promoted, trained.reason, trained.meta.get("metrics", {}))


async def train_encoders(settings: Settings, summary: Summary, progress: Progress) -> None:
    """Train and promote the encoders that a freshly indexed catalogue needs. Its items are found without them too, so
    too little to learn from is a note and not a failure."""
    if settings.encoder is None and summary.accepted:
        await _train_or_note(TEXT, "train encoder", summary.accepted, settings, progress)
    if summary.events:
        await _train_or_note(TASTE, "train tastes", summary.events, settings, progress)


async def _train_or_note(kind: str, stage: str, size: int, settings: Settings, progress: Progress) -> None:
    """Train on `size` items or events and promote; too little to learn from is only noted."""
    progress.done(stage, 0, size)
    try:
        await train_model(kind, settings, None, SEED, promote=True)
        progress.done(stage, size, size)
    except ModelInvalid as error:
        progress.note(f"left untrained: {error}")


def _trainer(kind: str) -> Callable[[Settings, Path | None, int], Awaitable[Trained]]:
    """The trainer of the kind's row, imported now: training needs more packages than serving."""
    row = kind_named(kind)
    if row is None or row.trainer is None:
        raise ModelInvalid(f"{kind} is no kind of model that can be trained")
    module, _, function = row.trainer.partition(":")
    return cast(Callable[[Settings, Path | None, int], Awaitable[Trained]], getattr(import_module(module), function))
