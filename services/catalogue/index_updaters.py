"""Updaters of the indexes that an item write must reach before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.backends.base import ItemStore, LexicalIndex, Locks, MemoryIndex, StateStore, VectorIndex
from services.catalogue.base import INDEXING
from services.catalogue.current_schema import CurrentSchema
from services.errors import StorageFailed
from services.models.active import ActiveModels
from services.models.query_predictor.model import QueryPredictor
from services.types import Deadline, Document, Schema
from services.understanding.pipeline import Understander

PAST_QUERIES = 5_000
"""Number of most popular past queries that the vocabulary includes."""
PAST_QUERIES_SECONDS = 10.0
ENCODE_BATCH = 500
PREDICT_BATCH = 500
PREDICTED_BY = "predictions_made_by"
"""Key of the shared state that names the predictor whose predictions are stored."""
ABSORB_BATCH = 25
"""Items whose words are added between two yields to the event loop: some milliseconds of work."""


class LexicalUpdater:
    """Updates the lexical index; `name` is the key of its progress in the item store."""

    volatile = False

    def __init__(self, index: LexicalIndex, name: str = "lexical") -> None:
        self.name = name
        self._index = index

    async def stale(self) -> bool:
        """Whether the index has to be rebuilt (see IndexUpdater.stale)."""
        return await self._index.stale()

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Add, replace and remove documents of the index."""
        await self._index.apply(upserts, deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """Replace the whole index."""
        await self._index.rebuild(schema, documents)

    async def refresh(self) -> None:
        """Search the index that another process has rebuilt."""
        await self._index.refresh()


class Encoder(Protocol):
    """Encodes an item as a vector: from its text, or from who liked it."""

    @property
    def version(self) -> str:
        """Two encoders of one version give the same vectors."""
        ...

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        ...

    def encode_documents(self, documents: Sequence[Document], schema: Schema) -> NDArray[np.float32]:
        """float32 [n documents, size]."""
        ...


class EncoderHolder(Protocol):
    """The arm that searches the vectors: it holds the active encoder."""

    encoder: Any


class VectorUpdater:
    """Vectors by the active encoder; another encoder or schema means encoding the whole catalogue again."""

    volatile = False

    def __init__(
        self,
        name: str,
        index: VectorIndex,
        arm: EncoderHolder,
        items: ItemStore,
        state: StateStore,
        schema: CurrentSchema,
        locks: Locks,
        shared: bool = False,
    ) -> None:
        """name: key of its progress in the item store. shared: whether other processes use the same vectors."""
        self.name = name
        self._shared = shared
        self._index = index
        self._arm = arm
        self._items = items
        self._state = state
        self._schema = schema
        self._locks = locks
        self._changing = asyncio.Lock()
        self._index_schema = schema.value
        """The schema that the index was made with."""

    @property
    def _encoded_by(self) -> str:
        return f"{self.name}_encoded_by"

    async def stale(self) -> bool:
        """Whether the index has to be rebuilt. A shared index made with another encoder is not stale: this process may
        be the one that lags (see `adopt`)."""
        stale = await self._index.stale()  # called first: raises while the engine is away
        encoded_by = await self._state.get(self._encoded_by)
        if encoded_by is None:
            return True
        if encoded_by != self._arm.encoder.version:
            return not self._shared
        return stale

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Encode and store changed items. Raises StorageFailed while the index has vectors of another encoder than this
        process."""
        async with self._changing:
            encoded_by = await self._state.get(self._encoded_by)
            if encoded_by != self._arm.encoder.version:
                raise self._encoder_mismatch(encoded_by)
            points = await asyncio.to_thread(_encode, self._arm.encoder, upserts, self._schema.value)
            await self._index.apply(points, deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """Encode the whole catalogue. Raises StorageFailed as `apply` does: only `adopt` changes the encoder."""
        async with self._changing:
            encoded_by = await self._state.get(self._encoded_by)
            if self._shared and encoded_by not in (None, self._arm.encoder.version):
                raise self._encoder_mismatch(encoded_by)
            await self._rebuild(self._arm.encoder, schema, documents)

    async def adopt(self, encoder: Encoder) -> None:
        """Activate another encoder together with its vectors: those that another process has made by now, or else made
        here before this returns."""
        async with self._locks.hold(INDEXING), self._changing:
            if encoder.version == await self._state.get(self._encoded_by):
                self._activate(encoder)
                if not await self._index.stale():
                    return
            documents = [document async for document in self._items.scan()]
            await self._rebuild(encoder, self._schema.value, documents)

    async def refresh(self) -> None:
        """Switch to the schema that another process has rebuilt the index under."""
        if self._index_schema is not self._schema.value and not self._changing.locked():
            self._activate(self._arm.encoder)

    def _encoder_mismatch(self, encoded_by: str | None) -> StorageFailed:
        return StorageFailed(
            f"{self.name}: the vectors are of encoder {encoded_by}, this process has {self._arm.encoder.version};"
            " every process needs the same LTRR_ENCODER"
        )

    def _activate(self, encoder: Encoder) -> None:
        # No await in between: a search never sees one without the other.
        self._index.adopt(self._schema.value, encoder.size, encoder.version)
        self._arm.encoder = encoder
        self._index_schema = self._schema.value

    async def _rebuild(self, encoder: Encoder, schema: Schema, documents: Iterable[Document]) -> None:
        points = await asyncio.to_thread(_encode, encoder, documents, schema)
        await self._index.rebuild(schema, encoder.size, points, encoder.version)
        # No await in between: a search never sees one without the other.
        self._arm.encoder, self._index_schema = encoder, schema
        await self._state.set(self._encoded_by, encoder.version)


class UnderstandingUpdater:
    """Vocabulary and gazetteer, made from items and past queries. In memory alone, so rebuilt at every start."""

    name = "understanding"
    volatile = True

    def __init__(self, active: ActiveModels, memory: MemoryIndex) -> None:
        self._active = active
        self._memory = memory
        self._understander = Understander(active.schema)
        self._documents: dict[str, Document] = {}
        active.understand = self._understander.understand

    async def stale(self) -> bool:
        """Always true: the index does not outlive the process."""
        return True

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Replace the words of changed items, yielding to the event loop every ABSORB_BATCH items."""
        self._replace([self._documents[i] for i in deletes if i in self._documents], ())
        for start in range(0, len(upserts), ABSORB_BATCH):
            part = upserts[start : start + ABSORB_BATCH]
            self._replace([self._documents[d["id"]] for d in part if d["id"] in self._documents], part)
            await asyncio.sleep(0)  # searches share this thread

    def _replace(self, removed: Sequence[Document], added: Sequence[Document]) -> None:
        self._understander.remove(removed)
        for document in removed:
            del self._documents[document["id"]]
        self._understander.add(added)
        self._documents.update((document["id"], document) for document in added)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """Build vocabulary and gazetteer from `documents` and the PAST_QUERIES most popular queries, then activate them
        together with `schema`."""
        known: Mapping[str, Document] = {document["id"]: document for document in documents}
        queries = await self._memory.popular_queries("", PAST_QUERIES, Deadline.after(PAST_QUERIES_SECONDS))
        fresh = await asyncio.to_thread(_understander, schema, known.values(), queries)
        self._understander, self._documents = fresh, dict(known)
        self._active.schema, self._active.understand = schema, fresh.understand


class PredictionUpdater:
    """Predicted queries of every item, so that the memory arm can return items before they have clicks. Another
    predictor or schema means predicting for the whole catalogue again."""

    name = "predictions"
    volatile = False

    def __init__(
        self,
        memory: MemoryIndex,
        items: ItemStore,
        state: StateStore,
        active: ActiveModels,
        locks: Locks,
        predictor: QueryPredictor,
    ) -> None:
        self._memory = memory
        self._items = items
        self._state = state
        self._active = active
        self._locks = locks
        self._predictor = predictor

    async def stale(self) -> bool:
        """Never true: `adopt` predicts again when the predictor has changed."""
        return False

    async def refresh(self) -> None:
        """Nothing to do: predictions are read from the memory each time."""

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Predict queries for `upserts`, and remove everything the memory has of `deletes`."""
        if deletes:
            await self._memory.forget_items(deletes)
        await self._predict(self._active.schema, upserts)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """Predict queries for every document, and record by which predictor."""
        await self._predict(schema, documents)
        await self._state.set(PREDICTED_BY, self._predictor.version)

    async def adopt(self, predictor: QueryPredictor) -> None:
        """Activate another predictor together with its predictions: those that another process has made by now, or else
        they are made here, before this returns. Items that a process with the old predictor writes meanwhile keep its
        predictions until they are written again."""
        async with self._locks.hold(INDEXING):
            self._predictor = predictor
            if await self._state.get(PREDICTED_BY) == predictor.version:
                return
            await self.rebuild(self._active.schema, [document async for document in self._items.scan()])

    async def _predict(self, schema: Schema, documents: Iterable[Document]) -> None:
        left = iter(documents)
        while part := list(islice(left, PREDICT_BATCH)):
            await self._memory.predict(await asyncio.to_thread(_predicted, self._predictor, part, schema))


def _predicted(
    predictor: QueryPredictor, documents: Sequence[Document], schema: Schema
) -> dict[str, list[tuple[str, float]]]:
    return {document["id"]: predictor.predict(document, schema) for document in documents}


def _encode(encoder: Encoder, documents: Iterable[Document], schema: Schema) -> list[tuple[Document, list[float]]]:
    points: list[tuple[Document, list[float]]] = []
    left = iter(documents)
    while part := list(islice(left, ENCODE_BATCH)):
        points += zip(part, encoder.encode_documents(part, schema).tolist(), strict=True)
    return points


def _understander(schema: Schema, documents: Iterable[Document], queries: Iterable[tuple[str, float]]) -> Understander:
    understander = Understander(schema)
    understander.add(documents)
    # A past query that the catalogue's own words would correct only teaches its typo.
    sound = [(text, times) for text, times in queries if understander.understand(text).corrected is None]
    for text, times in sound:
        understander.add_queries([text], times)
    return understander
