"""Stores items and events without any index, for bulk loads: the service that is opened afterwards brings every index
up to date."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.settings import Settings
from app.system.catalogue import agree_on_encoder
from app.system.checks import check_settings
from app.system.model_kinds import TEXT, current_model
from app.system.stores import open_stores
from app.system.wiring import signer_of
from services.backends.base import ItemStore
from services.catalogue.current_schema import CurrentSchema
from services.catalogue.index_sync import IndexSync
from services.catalogue.writing import Catalogue
from services.learning.feedback import FeedbackService


@dataclass(frozen=True, slots=True)
class Intake:
    """Writes to the stores alone, never to an index."""

    items: ItemStore
    catalogue: Catalogue
    sync: IndexSync
    """Without any index; it only keeps the schema's constants up to date."""
    feedback: FeedbackService


@asynccontextmanager
async def intake(settings: Settings, clock: Callable[[], float] = time.time) -> AsyncIterator[Intake]:
    """The stores of the service, open for writing. Raises SettingsInvalid and StorageFailed as opening the service
    does."""
    check_settings(settings)
    async with open_stores(settings) as stores:
        version = ""
        if settings.encoder is not None:
            version = (await asyncio.to_thread(current_model, TEXT, settings, stores.models)).version
        await agree_on_encoder(settings, stores, version, serving=False)
        schema = CurrentSchema(stores.items, stores.locks)
        await schema.refresh()
        sync = IndexSync(stores.items, schema, stores.locks, own=())
        catalogue = Catalogue(stores.items, schema, sync)
        feedback = FeedbackService(
            stores.log, signer_of(settings), settings.query_ttl_seconds, settings.attribution_seconds, clock
        )
        try:
            yield Intake(stores.items, catalogue, sync, feedback)
        finally:
            await catalogue.close()
