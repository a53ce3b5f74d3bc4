"""The stores a search uses, and its state before ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.backends.base import EventLog, IndexQuery, IndexResult, ItemStore, MemoryIndex
from services.types import (
    ArmOption,
    Candidate,
    Context,
    Deadline,
    Decision,
    Degraded,
    Document,
    PolicyMode,
    Pooled,
    Schema,
)


class Matching(Protocol):
    """The part of an index that a search uses beside the arms (services.backends.base.LexicalIndex)."""

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        """All matching items. Raises TimeoutError, or what the engine raises."""
        ...


class Mode(Protocol):
    """The mode that policies decide under (services.policies.modes)."""

    @property
    def value(self) -> PolicyMode:
        """The last mode known to this process."""
        ...

    async def follow(self) -> None:
        """Load the mode, which another process may have set. Raises StorageFailed or TimeoutError."""
        ...


@dataclass(frozen=True, slots=True)
class SearchStores:
    """The stores that a search reads and writes."""

    index: Matching
    items: ItemStore
    memory: MemoryIndex
    log: EventLog


@dataclass(frozen=True, slots=True)
class SearchState:
    """State of a search before its candidates are ranked."""

    context: Context
    deadline: Deadline
    schema: Schema
    features: Mapping[str, float]
    """Features that the policy decided on."""
    options: tuple[ArmOption, ...]
    decision: Decision
    lists: Mapping[str, Sequence[Candidate]]
    """Candidate lists of the arms that answered, by arm."""
    matched: IndexResult
    """Everything that matches: its count, facets, and the first items in static order."""
    pool: list[Pooled]
    """Fused, not yet ranked; every item has a document."""
    documents: Mapping[str, Document]
    degraded: list[Degraded]
