"""Trainers of `ltrr train`, one for each kind of model that it trains (see MODEL_KINDS in app/system/model_kinds.py):
training data is read here, the training itself is in `services/models/<kind>/train.py`.

Every trainer takes the settings, a data set folder (None: the log and the catalogue of this service) and a seed. It
raises InvalidRequest or ModelInvalid when there is too little data, and SettingsInvalid when it cannot train on the
given source.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from app.cli.train import train_encoders
from app.offline.sandbox import PolicySearch, open_sandbox
from app.settings import Settings
from app.system.policies import fixed_policy
from app.system.stores import open_items, open_log
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset
from services.errors import InvalidRequest, SettingsInvalid
from services.models.trained import Trained
from services.rewards.rewards import gain
from services.types import Interaction, Schema


async def train_ranker(settings: Settings, data: Path | None, seed: int) -> Trained:
    """Train a ranker on the judged queries of `data`, or on the log of this service."""
    try:
        from services.models.ranker import rows, train
    except ImportError as error:
        raise SettingsInvalid(
            f"train ranker: {error.name} is not installed; it comes with the extra `train`"
        ) from error
    except OSError as error:
        raise SettingsInvalid(
            f"train ranker: LightGBM needs OpenMP of the system: libgomp1 on Debian, libomp by Homebrew ({error})"
        ) from error
    if data is not None:
        training, validation = await _judged(settings, data)
        return await asyncio.to_thread(train.train, training, validation, source="labels", seed=seed)
    async with open_log(settings) as log:
        training, validation = await rows.from_log(
            log, settings.action_weights, settings.attribution_seconds, settings.principal_cap
        )
    return await asyncio.to_thread(train.train_on_clicks, [*training, *validation], seed=seed)


async def train_text_encoder(settings: Settings, data: Path | None, seed: int) -> Trained:
    """Train a text encoder on the catalogue of `data`, or on that of this service."""
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
    return Trained(encoder.to_files(), meta, True, f"trained on {len(documents)} items")


async def train_taste(settings: Settings, data: Path | None, seed: int) -> Trained:
    """Train a taste encoder on the history of `data`, or on the users' actions in the log of this service."""
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
    return Trained(taste.to_files(), meta, True, f"trained on {len(history)} actions")


async def train_query_predictor(settings: Settings, data: Path | None, seed: int) -> Trained:
    """Train a query predictor on the catalogue and the clicks of this service. Uses no random draws."""
    from services.models.query_predictor import rows, train

    if data is not None:
        raise SettingsInvalid(
            "train query-predictor: it learns from clicks, which a data set folder has not; leave --data out"
        )
    documents, schema = await _catalogue(settings)
    async with open_log(settings) as log:
        queries = await rows.from_log(
            log, settings.action_weights, settings.attribution_seconds, settings.principal_cap
        )
    return await asyncio.to_thread(train.train, queries, documents, schema)


async def _judged(settings: Settings, data: Path) -> tuple[list[Any], list[Any]]:
    """Groups of the train and of the validation queries, retrieved by a temporary system over the catalogue of `data`:
    a ranker must be trained on pools like those in serving."""
    from services.models.ranker import rows

    labels = rows.read_labels(data)
    with Progress() as progress:
        async with open_sandbox(settings, data, train_encoders, progress, "train") as system:
            searched = PolicySearch(system, fixed_policy(settings), progress)
            schema = system.search.active.schema
            training = [query for query in labels if query.split == "train"]
            validation = [query for query in labels if query.split == "validation"]
            return (
                await rows.from_labels(training, searched, schema),
                await rows.from_labels(validation, searched, schema),
            )


async def _catalogue(settings: Settings) -> tuple[list[Any], Schema]:
    """The items of this service, and its schema."""
    async with open_items(settings) as items:
        return [document async for document in items.scan()], await items.schema() or Schema()
