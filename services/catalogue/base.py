"""Protocols of indexes that are kept in sync with the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from services.types import Document, Schema

INDEXING = "indexing"
"""Name of the lock under which shared indexes change."""


class IndexUpdater(Protocol):
    """Keeps one index in sync with the catalogue: a search index, a vocabulary, predicted queries."""

    @property
    def name(self) -> str:
        """The key of the index's progress in the item store; never renamed."""
        ...

    @property
    def volatile(self) -> bool:
        """Whether the index lives in this process's memory alone, so that it is rebuilt at every start."""
        ...

    async def stale(self) -> bool:
        """Whether the index needs a rebuild whatever it had confirmed (its files are gone, it was made with another
        encoder). Not called for volatile indexes. Raises StorageFailed or TimeoutError while the engine is away."""
        ...

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Add or replace `upserts`, remove the ids in `deletes`; searches see it when this returns. Idempotent."""
        ...

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """Replace the whole index by `documents` under `schema`, while searches go on with the old one."""
        ...


class SharedIndexUpdater(IndexUpdater, Protocol):
    """Updater of an index that several processes search and, under the lock INDEXING, change."""

    async def refresh(self) -> None:
        """Switch this process to an index that another process has rebuilt."""
        ...
