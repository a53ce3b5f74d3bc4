"""What is derived from the catalogue and follows it: every index that an item write must reach before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from services.arms.vector import VectorArm
from services.backends.base import LexicalIndex, MemoryIndex, VectorIndex
from services.memory import predicted_queries
from services.search import Knowledge
from services.types import Document, Schema
from services.understanding.pipeline import Understander


class LexicalDerived:
    name = "lexical"

    def __init__(self, index: LexicalIndex) -> None:
        self._index = index

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        await self._index.apply(upserts, deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        await self._index.rebuild(schema, documents)


class VectorDerived:
    """Vectors of the encoder in force; a new encoder or schema means encoding the whole catalogue again."""

    name = "vector"

    def __init__(self, index: VectorIndex, arm: VectorArm, schema: Schema) -> None:
        self._index = index
        self._arm = arm
        self._schema = schema

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        vectors = await asyncio.to_thread(self._arm.encoder.encode_documents, upserts, self._schema)
        await self._index.apply(list(zip(upserts, vectors.tolist(), strict=True)), deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        self._schema = schema
        encoder = self._arm.encoder
        items = list(documents)
        vectors = await asyncio.to_thread(encoder.encode_documents, items, schema)
        await self._index.rebuild(schema, encoder.size, zip(items, vectors.tolist(), strict=True))


class UnderstandingDerived:
    """The vocabulary and gazetteer, in memory alone: rebuilt at every start."""

    name = "understanding"

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._understander = Understander(knowledge.schema)
        knowledge.understand = self._understander.understand

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        self._understander.replace(upserts, deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        fresh = Understander(schema)
        await asyncio.to_thread(fresh.add, documents)
        self._understander = fresh
        self._knowledge.schema = schema
        self._knowledge.understand = fresh.understand


class PredictionDerived:
    """Predicted queries of every item, so that the memory arm knows items before anybody clicked them."""

    name = "predictions"

    def __init__(self, memory: MemoryIndex, knowledge: Knowledge) -> None:
        self._memory = memory
        self._knowledge = knowledge

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        schema = self._knowledge.schema
        await self._memory.predict({str(d["id"]): predicted_queries(d, schema) for d in upserts})
        if deletes:
            await self._memory.forget_items(deletes)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        await self._memory.predict({str(d["id"]): predicted_queries(d, schema) for d in documents})
