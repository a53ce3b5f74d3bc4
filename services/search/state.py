"""What a search reads, and what it knows when its candidates are to be ranked."""

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
    """What an index offers to a search beside its arms (services.backends.base.LexicalIndex)."""

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        """Everything that matches. Raises TimeoutError, or what the engine raises."""
        ...


class Mode(Protocol):
    """The mode that policies decide under (services.policies.modes)."""

    @property
    def value(self) -> PolicyMode:
        """The last one known here."""
        ...

    async def follow(self) -> None:
        """Load the one that another process may have set. Raises StorageFailed or TimeoutError."""
        ...


@dataclass(frozen=True, slots=True)
class SearchStores:
    """What a search reads and writes."""

    index: Matching
    items: ItemStore
    memory: MemoryIndex
    log: EventLog


@dataclass(frozen=True, slots=True)
class SearchState:
    """All that is known of a search when its candidates are to be ranked."""

    context: Context
    deadline: Deadline
    schema: Schema
    features: Mapping[str, float]
    """Features that the policy decided on."""
    options: tuple[ArmOption, ...]
    decision: Decision
    lists: Mapping[str, Sequence[Candidate]]
    """By arm, of the arms that answered."""
    matched: IndexResult
    """Everything that matches: its count, facets, and the first items in static order."""
    pool: list[Pooled]
    """Fused, not yet ranked; every item has a document."""
    documents: Mapping[str, Document]
    degraded: list[Degraded]
