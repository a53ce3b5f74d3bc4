"""Size limits of the click memory, shared by every MemoryIndex. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.memory.keys import NEIGHBOURS

NEGLIGIBLE_WEIGHT = 1e-9
"""A weight below this is the rounding error of something that was removed."""


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """Caps of a memory. Beyond them the lightest items and texts are evicted, or the least recently used queries, users
    and names of principals."""

    principal_cap: float = 5.0
    """Maximum that one principal may add to one (query, item), in debiased clicks, and to one text's query count."""
    items_per_query: int = 50
    texts_per_query: int = 10
    names_per_total: int = 50
    """Principals recorded by name behind one total; what others added stays in the total and cannot be removed
    again."""
    history: int = 200
    """Entries in one user's history."""
    queries: int = 500_000
    people: int = 500_000
    neighbours: int = NEIGHBOURS
    """Neighbouring queries that one look-up reads."""


DEFAULT_LIMITS = MemoryLimits()
