"""`ltrr train`: train a model on judged queries or on the event log; one that passes its gate goes live at once."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app.offline.sandbox import PolicySearch, open_sandbox
from app.operations.indexing import Summary
from app.settings import Settings
from app.system.encoders import TASTE, TEXT
from app.system.policies import fixed_policy
from app.system.query_predictor import QUERY_PREDICTOR
from app.system.stores import model_store, open_items, open_log
from app.system.wiring import RANKER
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset
from services.errors import InvalidRequest, ModelInvalid, SettingsInvalid
from services.rewards.rewards import gain
from services.types import Interaction, Schema

KINDS = (RANKER, TEXT, TASTE, QUERY_PREDICTOR)
SEED = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: str
    version: str
    promoted: bool
    reason: str
    metrics: dict[str, Any]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("train", help="train a model", description=__doc__)
    parser.add_argument("kind", choices=KINDS, help="what to train")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data set folder (default: this service's log)")
    parser.add_argument("--no-promote", action="store_true", help="store it, but leave in force what is in force")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of all chance in it (default: {SEED})")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    if asked.data is not None and not asked.data.is_dir():
        raise SettingsInvalid(f"train: no such folder {asked.data}")
    train = {
        RANKER: train_ranker,
        TEXT: train_text_encoder,
        TASTE: train_taste,
        QUERY_PREDICTOR: train_query_predictor,
    }[asked.kind]
    outcome = asyncio.run(train(settings, asked.data, asked.seed, not asked.no_promote))
    if asked.json:
        form = {name: getattr(outcome, name) for name in ("kind", "version", "promoted", "reason", "metrics")}
        print(orjson.dumps(form, option=orjson.OPT_SERIALIZE_NUMPY).decode())
        return
    print(f"{outcome.kind} {outcome.version}: {outcome.reason}")
    print(orjson.dumps(outcome.metrics, option=orjson.OPT_INDENT_2).decode())
    print("in force (a running service follows within seconds)" if outcome.promoted else "stored, not in force")


async def train_ranker(settings: Settings, data: Path | None, seed: int, promote: bool) -> Outcome:
    """From the judged queries of `data`, or from the log of this service."""
    try:
        from services.models.ranker import rows, train
    except ImportError as error:
        raise SettingsInvalid(
            f"train ranker: {error.name} is not installed; it comes with the extra `train`"
        ) from error
    if data is not None:
        training, validation = await _judged(settings, data)
        trained = await asyncio.to_thread(train.train, training, validation, source="labels", seed=seed)
    else:
        async with open_log(settings) as log:
            training, validation = await rows.from_log(
                log, settings.action_weights, settings.attribution_seconds, settings.principal_cap
            )
        trained = await asyncio.to_thread(train.train_on_clicks, [*training, *validation], seed=seed)
    return _store(settings, RANKER, trained.files, trained.meta, promote and trained.promote, trained.reason)


async def _judged(settings: Settings, data: Path) -> tuple[list[Any], list[Any]]:
    """Groups of the train and validation queries, found by a system of their own over the catalogue of `data`: what a
    ranker learns from is what it will meet."""
    from services.models.ranker import rows

    labels = rows.read_labels(data)
    with Progress() as progress:
        async with open_sandbox(settings, data, train_encoders, progress, "train") as system:
            searched = PolicySearch(system, fixed_policy(settings), progress)
            schema = system.search.knowledge.schema
            training = [query for query in labels if query.split == "train"]
            validation = [query for query in labels if query.split == "validation"]
            return (
                await rows.from_labels(training, searched, schema),
                await rows.from_labels(validation, searched, schema),
            )


async def train_encoders(settings: Settings, summary: Summary, progress: Progress) -> None:
    """Put in force the encoders that a freshly indexed catalogue needs; without them its items are found all the same,
    so too little to learn from is a note and not a failure."""
    if settings.encoder is None and summary.accepted:
        progress.note("training the text encoder on the catalogue")
        try:
            await train_text_encoder(settings, None, SEED, promote=True)
        except ModelInvalid as error:
            progress.note(f"left untrained: {error}")
    if summary.events:
        progress.note("training the taste model on the history")
        try:
            await train_taste(settings, None, SEED, promote=True)
        except ModelInvalid as error:
            progress.note(f"left untrained: {error}")


async def train_text_encoder(settings: Settings, data: Path | None, seed: int, promote: bool) -> Outcome:
    """On the catalogue of `data`, or on the one of this service."""
    from services.models.text_encoder.train import train
    from services.schema.inference import infer

    if data is not None:
        dataset = Dataset.open(data)
        documents: list[Any] = list(dataset.documents())
        schema = dataset.schema or infer(documents)
    else:
        documents, schema = await _catalogue(settings)
    if not documents:
        raise InvalidRequest("there are no items to train on; see `ltrr index --help`")
    encoder = await asyncio.to_thread(train, documents, schema, seed)
    meta = {"items": len(documents), "seed": seed, "encoder": encoder.version}
    reason = f"trained on {len(documents)} items"
    return _store(settings, TEXT, encoder.to_files(), meta, promote, reason)


async def train_taste(settings: Settings, data: Path | None, seed: int, promote: bool) -> Outcome:
    """On the history of `data`, or on what people did with the answers of this service and elsewhere."""
    from services.models.clicks import records
    from services.models.taste.train import train

    history: list[tuple[str, str, float]] = []
    if data is not None:
        weights = settings.action_weights
        history = [(e.user_id, e.object_id, weights.get(e.action_name, 0.0)) for e in Dataset.open(data).history()]
    else:
        async with open_log(settings) as log:
            async for record in records(log):
                if isinstance(record, Interaction) and record.user_id and record.object_id:
                    history.append((record.user_id, record.object_id, gain(record, settings.action_weights)))
    taste = await asyncio.to_thread(train, history, seed)
    meta = {"actions": len(history), "people": len({person for person, _, _ in history}), "seed": seed}
    return _store(settings, TASTE, taste.to_files(), meta, promote, f"trained on {len(history)} actions")


async def train_query_predictor(settings: Settings, data: Path | None, seed: int, promote: bool) -> Outcome:
    """On the catalogue of this service and what people took by which queries. There is no chance in it."""
    from services.models.query_predictor import rows, train

    if data is not None:
        raise SettingsInvalid(
            "train query-predictor: it learns from clicks, which a data set folder has not; leave --data out"
        )
    documents, schema = await _catalogue(settings)
    async with open_log(settings) as log:
        asked = await rows.from_log(log, settings.action_weights, settings.attribution_seconds, settings.principal_cap)
    trained = await asyncio.to_thread(train.train, asked, documents, schema)
    return _store(settings, QUERY_PREDICTOR, trained.files, trained.meta, promote and trained.promote, trained.reason)


async def _catalogue(settings: Settings) -> tuple[list[Any], Schema]:
    """The items of this service, and its schema."""
    async with open_items(settings) as items:
        return [document async for document in items.scan()], await items.schema() or Schema()


def _store(
    settings: Settings, kind: str, files: dict[str, bytes], meta: dict[str, Any], promote: bool, reason: str
) -> Outcome:
    store = model_store(settings)
    version = store.publish(kind, files, meta)
    if promote:
        store.promote(kind, version, reason)
    return Outcome(kind, version, promote, reason, meta.get("metrics", {}))
