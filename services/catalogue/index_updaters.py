"""What is derived from the catalogue: every index that an item write reaches before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.backends.base import ItemStore, LexicalIndex, Locks, MemoryIndex, StateStore, VectorIndex
from services.catalogue.current_schema import SchemaInForce
from services.catalogue.index_sync import INDEXING
from services.errors import StorageFailed
from services.models.active import ActiveModels
from services.models.query_predictor.model import QueryPredictor
from services.types import Deadline, Document, Schema
from services.understanding.pipeline import Understander

PAST_QUERIES = 5_000
PATIENCE = 10.0
ENCODED_AT_ONCE = 500
PREDICTED_AT_ONCE = 500
PREDICTED_BY = "predictions_made_by"
"""Where the predictor in force is written down."""
TAKEN_AT_ONCE = 25
"""Items whose words are taken in at a time: some milliseconds."""


class LexicalDerived:
    volatile = False

    def __init__(self, index: LexicalIndex, name: str = "lexical") -> None:
        self.name = name
        self._index = index

    async def stale(self) -> bool:
        return await self._index.stale()

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        await self._index.apply(upserts, deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        await self._index.rebuild(schema, documents)

    async def refresh(self) -> None:
        """Search what another process has put in force."""
        await self._index.refresh()


class Encoder(Protocol):
    """What makes a vector of an item: of its text, or of who liked it."""

    @property
    def version(self) -> str: ...

    @property
    def size(self) -> int: ...

    def encode_documents(self, documents: Sequence[Document], schema: Schema) -> NDArray[np.float32]: ...


class Encoding(Protocol):
    """The arm that searches the vectors: it holds the encoder in force."""

    encoder: Any


class VectorDerived:
    """Vectors by the encoder in force; another encoder or schema means encoding the whole catalogue again."""

    volatile = False

    def __init__(
        self,
        name: str,
        index: VectorIndex,
        arm: Encoding,
        items: ItemStore,
        state: StateStore,
        schema: SchemaInForce,
        locks: Locks,
        shared: bool = False,
    ) -> None:
        self.name = name
        self._shared = shared
        self._index = index
        self._arm = arm
        self._items = items
        self._state = state
        self._schema = schema
        self._locks = locks
        self._lock = asyncio.Lock()
        self._under = schema.value
        """The schema that the index goes by."""

    @property
    def _encoded_by(self) -> str:
        return f"{self.name}_encoded_by"

    async def stale(self) -> bool:
        """Where the index is shared, another encoder than ours is not: we may be the one that is behind (see adopt)."""
        stale = await self._index.stale()  # asked first: raises while the engine is away
        encoded_by = await self._state.get(self._encoded_by)
        if encoded_by is None:
            return True
        if encoded_by != self._arm.encoder.version:
            return not self._shared
        return stale

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Raises StorageFailed while another process has put another encoder in force than this one has."""
        async with self._lock:
            encoded_by = await self._state.get(self._encoded_by)
            if encoded_by != self._arm.encoder.version:
                raise self._out_of_step(encoded_by)
            points = await asyncio.to_thread(_encode, self._arm.encoder, upserts, self._schema.value)
            await self._index.apply(points, deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """Raises StorageFailed as `apply` does: an encoder is changed by `adopt` alone."""
        async with self._lock:
            encoded_by = await self._state.get(self._encoded_by)
            if self._shared and encoded_by not in (None, self._arm.encoder.version):
                raise self._out_of_step(encoded_by)
            await self._rebuild(self._arm.encoder, schema, documents)

    async def adopt(self, encoder: Encoder) -> None:
        """Put another encoder in force together with its vectors: those that another process has made by now, or else
        the catalogue is encoded here and now."""
        async with self._locks.hold(INDEXING), self._lock:
            if encoder.version == await self._state.get(self._encoded_by):
                self._adopt(encoder)
                if not await self._index.stale():
                    return
            documents = [document async for document in self._items.scan()]
            await self._rebuild(encoder, self._schema.value, documents)

    async def refresh(self) -> None:
        """Use the fields that another process has rebuilt the index with."""
        if self._under is not self._schema.value and not self._lock.locked():
            self._adopt(self._arm.encoder)

    def _out_of_step(self, encoded_by: str | None) -> StorageFailed:
        return StorageFailed(
            f"{self.name}: the vectors are of encoder {encoded_by}, this process has {self._arm.encoder.version};"
            " every process needs the same LTRR_ENCODER"
        )

    def _adopt(self, encoder: Encoder) -> None:
        # No await in between: a search never meets the one without the other.
        self._index.adopt(self._schema.value, encoder.size, encoder.version)
        self._arm.encoder = encoder
        self._under = self._schema.value

    async def _rebuild(self, encoder: Encoder, schema: Schema, documents: Iterable[Document]) -> None:
        points = await asyncio.to_thread(_encode, encoder, documents, schema)
        await self._index.rebuild(schema, encoder.size, points, encoder.version)
        # No await in between: a search never meets the one without the other.
        self._arm.encoder, self._under = encoder, schema
        await self._state.set(self._encoded_by, encoder.version)


class UnderstandingDerived:
    """Vocabulary and gazetteer. In memory alone, so rebuilt at every start, past queries with it."""

    name = "understanding"
    volatile = True

    def __init__(self, knowledge: ActiveModels, memory: MemoryIndex) -> None:
        self._knowledge = knowledge
        self._memory = memory
        self._understander = Understander(knowledge.schema)
        self._documents: dict[str, Document] = {}
        knowledge.understand = self._understander.understand

    async def stale(self) -> bool:
        return True

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        self._take([self._documents[i] for i in deletes if i in self._documents], ())
        for start in range(0, len(upserts), TAKEN_AT_ONCE):
            part = upserts[start : start + TAKEN_AT_ONCE]
            self._take([self._documents[d["id"]] for d in part if d["id"] in self._documents], part)
            await asyncio.sleep(0)  # searches share this thread

    def _take(self, gone: Sequence[Document], new: Sequence[Document]) -> None:
        self._understander.remove(gone)
        for document in gone:
            del self._documents[document["id"]]
        self._understander.add(new)
        self._documents.update((document["id"], document) for document in new)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        known: Mapping[str, Document] = {document["id"]: document for document in documents}
        queries = await self._memory.popular_queries("", PAST_QUERIES, Deadline.after(PATIENCE))
        fresh = await asyncio.to_thread(_understander, schema, known.values(), queries)
        self._understander, self._documents = fresh, dict(known)
        self._knowledge.schema, self._knowledge.understand = schema, fresh.understand


class PredictionDerived:
    """Predicted queries of every item, so that the memory arm knows items before anybody took them; by the predictor in
    force, another one or another schema means predicting for the whole catalogue again."""

    name = "predictions"
    volatile = False

    def __init__(
        self,
        memory: MemoryIndex,
        items: ItemStore,
        state: StateStore,
        knowledge: ActiveModels,
        locks: Locks,
        predictor: QueryPredictor,
    ) -> None:
        self._memory = memory
        self._items = items
        self._state = state
        self._knowledge = knowledge
        self._locks = locks
        self._predictor = predictor

    async def stale(self) -> bool:
        return False

    async def refresh(self) -> None:
        """Nothing: predictions are asked of the memory each time."""

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        if deletes:
            await self._memory.forget_items(deletes)
        await self._predict(self._knowledge.schema, upserts)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        await self._predict(schema, documents)
        await self._state.set(PREDICTED_BY, self._predictor.version)

    async def adopt(self, predictor: QueryPredictor) -> None:
        """Put another predictor in force together with its predictions: those that another process has made by now, or
        else they are made here and now. What a process that has not heard of it yet writes meanwhile keeps the
        predictions of the one before until it is written again."""
        async with self._locks.hold(INDEXING):
            self._predictor = predictor
            if await self._state.get(PREDICTED_BY) == predictor.version:
                return
            await self.rebuild(self._knowledge.schema, [document async for document in self._items.scan()])

    async def _predict(self, schema: Schema, documents: Iterable[Document]) -> None:
        left = iter(documents)
        while part := list(islice(left, PREDICTED_AT_ONCE)):
            await self._memory.predict(await asyncio.to_thread(_predicted, self._predictor, part, schema))


def _predicted(
    predictor: QueryPredictor, documents: Sequence[Document], schema: Schema
) -> dict[str, list[tuple[str, float]]]:
    return {document["id"]: predictor.predict(document, schema) for document in documents}


def _encode(encoder: Encoder, documents: Iterable[Document], schema: Schema) -> list[tuple[Document, list[float]]]:
    points: list[tuple[Document, list[float]]] = []
    left = iter(documents)
    while part := list(islice(left, ENCODED_AT_ONCE)):
        points += zip(part, encoder.encode_documents(part, schema).tolist(), strict=True)
    return points


def _understander(schema: Schema, documents: Iterable[Document], queries: Iterable[tuple[str, float]]) -> Understander:
    understander = Understander(schema)
    understander.add(documents)
    # A past query that the catalogue's own words would correct teaches nothing but its slip.
    sound = [(text, times) for text, times in queries if understander.understand(text).corrected is None]
    for text, times in sound:
        understander.add_queries([text], times)
    return understander
