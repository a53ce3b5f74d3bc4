"""What is derived from the catalogue: every index that an item write reaches before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.backends.base import ItemStore, MemoryIndex, StateStore
from services.backends.qdrant_edge import QdrantEdgeIndex
from services.backends.tantivy import TantivyIndex
from services.memory import predicted_queries
from services.search import Knowledge
from services.types import Deadline, Document, Schema
from services.understanding.pipeline import Understander

PAST_QUERIES = 5_000
PATIENCE = 10.0
ENCODED_AT_ONCE = 500


class LexicalDerived:
    name = "lexical"

    def __init__(self, index: TantivyIndex) -> None:
        self._index = index

    async def stale(self) -> bool:
        return self._index.needs_rebuild

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        await self._index.apply(upserts, deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        await self._index.rebuild(schema, documents)


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

    def __init__(
        self,
        name: str,
        index: QdrantEdgeIndex,
        arm: Encoding,
        items: ItemStore,
        state: StateStore,
        schema: Schema,
    ) -> None:
        self.name = name
        self._index = index
        self._arm = arm
        self._items = items
        self._state = state
        self._schema = schema
        self._lock = asyncio.Lock()

    @property
    def _encoded_by(self) -> str:
        return f"{self.name}_encoded_by"

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        async with self._lock:
            points = await asyncio.to_thread(_encode, self._arm.encoder, upserts, self._schema)
            await self._index.apply(points, deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        async with self._lock:
            await self._rebuild(self._arm.encoder, schema, documents)

    async def stale(self) -> bool:
        return self._index.needs_rebuild or await self._state.get(self._encoded_by) != self._arm.encoder.version

    async def adopt(self, encoder: Encoder) -> None:
        """Encode the catalogue with another encoder, then put it in force together with its vectors."""
        async with self._lock:
            if encoder.version == await self._state.get(self._encoded_by):
                self._arm.encoder = encoder
                return
            documents = [document async for document in self._items.scan()]
            await self._rebuild(encoder, self._schema, documents)

    async def _rebuild(self, encoder: Encoder, schema: Schema, documents: Iterable[Document]) -> None:
        points = await asyncio.to_thread(_encode, encoder, list(documents), schema)
        await self._index.rebuild(schema, encoder.size, points)
        # No await in between: a search never meets the one without the other.
        self._arm.encoder = encoder
        self._schema = schema
        await self._state.set(self._encoded_by, encoder.version)


class UnderstandingDerived:
    """Vocabulary and gazetteer. In memory alone, so rebuilt at every start, past queries with it."""

    name = "understanding"

    def __init__(self, knowledge: Knowledge, memory: MemoryIndex) -> None:
        self._knowledge = knowledge
        self._memory = memory
        self._understander = Understander(knowledge.schema)
        self._documents: dict[str, Document] = {}
        knowledge.understand = self._understander.understand

    async def stale(self) -> bool:
        return True

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        gone = [self._documents.pop(i) for i in (*deletes, *(d["id"] for d in upserts)) if i in self._documents]
        self._understander.remove(gone)
        self._understander.add(upserts)
        self._documents.update((document["id"], document) for document in upserts)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        known: Mapping[str, Document] = {document["id"]: document for document in documents}
        queries = await self._memory.popular_queries("", PAST_QUERIES, Deadline.after(PATIENCE))
        fresh = await asyncio.to_thread(_understander, schema, known.values(), queries)
        self._understander, self._documents = fresh, dict(known)
        self._knowledge.schema, self._knowledge.understand = schema, fresh.understand


class PredictionDerived:
    """Predicted queries of every item, so that the memory arm knows items before anybody took them."""

    name = "predictions"

    def __init__(self, memory: MemoryIndex, knowledge: Knowledge) -> None:
        self._memory = memory
        self._knowledge = knowledge

    async def stale(self) -> bool:
        return False

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        if deletes:
            await self._memory.forget_items(deletes)
        await self._predict(self._knowledge.schema, upserts)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        await self._predict(schema, documents)

    async def _predict(self, schema: Schema, documents: Iterable[Document]) -> None:
        await self._memory.predict({document["id"]: predicted_queries(document, schema) for document in documents})


def _encode(encoder: Encoder, documents: Sequence[Document], schema: Schema) -> list[tuple[Document, list[float]]]:
    points: list[tuple[Document, list[float]]] = []
    for start in range(0, len(documents), ENCODED_AT_ONCE):
        part = documents[start : start + ENCODED_AT_ONCE]
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
