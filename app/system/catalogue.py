"""Opens the catalogue: its indexes, the arms over them, and the updaters that keep the indexes in sync."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.settings import Settings
from app.system.arms import Arms, assemble_arms
from app.system.indexes import Indexes, open_indexes
from app.system.model_kinds import QUERY_PREDICTOR, TASTE, TEXT, current_model
from app.system.stores import Stores
from app.system.surroundings import Surroundings
from services.catalogue.base import IndexUpdater, SharedIndexUpdater
from services.catalogue.current_schema import CurrentSchema
from services.catalogue.index_sync import IndexSync, OnProgress
from services.catalogue.index_updaters import LexicalUpdater, PredictionUpdater, UnderstandingUpdater, VectorUpdater
from services.catalogue.writing import Catalogue
from services.errors import SettingsInvalid
from services.models.active import ActiveModels
from services.rankers.passthrough import PassthroughRanker

ENCODER_KEY = "gateways_encoder"
"""Key of the shared state under which gateways record the sentence encoder in their settings."""


@dataclass(frozen=True, slots=True)
class CatalogueParts:
    """An open catalogue with its indexes, its arms and the synchronisation of the indexes."""

    catalogue: Catalogue
    sync: IndexSync
    indexes: Indexes
    arms: Arms
    active: ActiveModels
    updaters: Updaters


@dataclass(frozen=True, slots=True)
class Updaters:
    """The updater of each index."""

    lexical: LexicalUpdater
    texts: VectorUpdater
    tastes: VectorUpdater
    understanding: UnderstandingUpdater
    predictions: PredictionUpdater


async def open_catalogue(
    settings: Settings, stores: Stores, around: Surroundings, stack: AsyncExitStack, serving: bool
) -> CatalogueParts:
    """Open and repair the catalogue; it is closed with `stack`. serving: whether this is a gateway rather than a
    command beside gateways.

    Raises SettingsInvalid for a command with a different encoder from that of the gateways.
    """
    schema = CurrentSchema(stores.items, stores.locks)
    await schema.refresh()
    text_encoder, taste, predictor = [
        await asyncio.to_thread(current_model, kind, settings, stores.models) for kind in (TEXT, TASTE, QUERY_PREDICTOR)
    ]
    await agree_on_encoder(settings, stores, text_encoder.version, serving)
    indexes = await open_indexes(settings, schema.value, text_encoder, taste, stack)
    arms = assemble_arms(settings, indexes, text_encoder, taste, around)
    active = ActiveModels(schema.value, PassthroughRanker())
    predictions = PredictionUpdater(stores.memory, stores.items, stores.state, active, stores.locks, predictor)
    updaters = _updaters(stores, indexes, arms, schema, active, predictions)
    sync = _index_sync(stores, indexes, schema, updaters, around.on_progress)
    catalogue = Catalogue(stores.items, schema, sync)
    stack.push_async_callback(sync.close)
    stack.push_async_callback(catalogue.close)
    await sync.recover()
    return CatalogueParts(catalogue, sync, indexes, arms, active, updaters)


def _updaters(
    stores: Stores,
    indexes: Indexes,
    arms: Arms,
    schema: CurrentSchema,
    active: ActiveModels,
    predictions: PredictionUpdater,
) -> Updaters:
    shared_vectors = indexes.qdrant is not None
    suffix = "" if shared_vectors else indexes.suffix
    rest = (stores.items, stores.state, schema, stores.locks, shared_vectors)
    return Updaters(
        lexical=LexicalUpdater(indexes.lexical, f"lexical{indexes.suffix if indexes.opensearch is None else ''}"),
        texts=VectorUpdater(f"vector{suffix}", indexes.texts, arms.vector, *rest),
        tastes=VectorUpdater(f"taste{suffix}", indexes.tastes, arms.personal, *rest),
        understanding=UnderstandingUpdater(active, stores.memory),
        predictions=predictions,
    )


def _index_sync(
    stores: Stores, indexes: Indexes, schema: CurrentSchema, updaters: Updaters, on_progress: OnProgress
) -> IndexSync:
    """The updaters, sorted into those of this process and those of indexes that others share."""
    own: list[IndexUpdater] = [updaters.understanding]
    shared: list[SharedIndexUpdater] = []
    (own if indexes.opensearch is None else shared).append(updaters.lexical)
    (own if indexes.qdrant is None else shared).extend((updaters.texts, updaters.tastes))
    (own if stores.redis is None else shared).append(updaters.predictions)
    return IndexSync(stores.items, schema, stores.locks, own, shared, on_progress)


async def agree_on_encoder(settings: Settings, stores: Stores, version: str, serving: bool) -> None:
    """Check that a command uses the encoder of the gateways, which they record here: shared vectors are made by one
    encoder, and a command with another one would replace the gateways' vectors. Raises SettingsInvalid."""
    if stores.redis is None or settings.qdrant_url is None:
        return
    mine = None if settings.encoder is None else version
    if serving:
        await stores.state.set(ENCODER_KEY, {"version": mine})
        return
    recorded = await stores.state.get(ENCODER_KEY)
    if recorded is not None and recorded["version"] != mine:
        raise SettingsInvalid("LTRR_ENCODER: not the one that the gateways have; set it, or leave it out, as they do")
