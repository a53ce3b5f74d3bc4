"""How much a memory keeps: one place for every MemoryIndex, whatever it is kept in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.memory.keys import NEIGHBOURS

NEGLIGIBLE_WEIGHT = 1e-9
"""A weight below this is what rounding left of something that was taken out."""


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Caps of a memory. Beyond them the lightest items and texts go, or the least recently used queries, people and
    names of principals."""

    principal_cap: float = 5.0
    """How much one principal may add to one (query, item), in debiased clicks, and to one text's times asked."""
    items_per_query: int = 50
    texts_per_query: int = 10
    names_per_total: int = 50
    """Principals known by name behind one total; what the others added stays in it, and cannot be taken out again."""
    history: int = 200
    """Entries in one person's history."""
    queries: int = 500_000
    people: int = 500_000
    neighbours: int = NEIGHBOURS
    """Neighbouring queries that one look-up reads."""


DEFAULT_LIMITS = MemoryLimits()
