"""What takes items and events in without any index: for whoever stores much at once, and opens the service afterwards,
which then gives every index what it lacks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.settings import Settings
from app.system.encoders import current_text_encoder
from app.system.stores import open_stores
from app.system.wiring import agree_on_encoder, check, signer_of
from services.backends.base import ItemStore
from services.catalogue.current_schema import SchemaInForce
from services.catalogue.index_sync import Upkeep
from services.catalogue.writing import Catalogue
from services.learning.feedback import FeedbackService


@dataclass(frozen=True, slots=True)
class Intake:
    """Nothing of it touches an index."""

    items: ItemStore
    catalogue: Catalogue
    upkeep: Upkeep
    """Keeps the schema measured, and nothing else."""
    feedback: FeedbackService


@asynccontextmanager
async def intake(settings: Settings, clock: Callable[[], float] = time.time) -> AsyncIterator[Intake]:
    """The stores of the service, open for writing. Raises SettingsInvalid and StorageFailed as opening the service
    does."""
    check(settings)
    async with open_stores(settings) as stores:
        if settings.encoder is not None:
            told = await asyncio.to_thread(current_text_encoder, settings.encoder, stores.models)
            await agree_on_encoder(settings, stores, told.version, serving=False)
        else:
            await agree_on_encoder(settings, stores, "", serving=False)
        schema = SchemaInForce(stores.items, stores.locks)
        await schema.refresh()
        upkeep = Upkeep(stores.items, schema, stores.locks, own=())
        catalogue = Catalogue(stores.items, schema, upkeep)
        try:
            yield Intake(
                stores.items,
                catalogue,
                upkeep,
                FeedbackService(
                    stores.log, signer_of(settings), settings.query_ttl_seconds, settings.attribution_seconds, clock
                ),
            )
        finally:
            await catalogue.close()
