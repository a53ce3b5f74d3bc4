"""The schema, the vocabulary and the models that searches use now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.rankers.base import Ranker
from services.types import Schema, Understanding


@dataclass(slots=True)
class ActiveModels:
    """Swapped while searches run: each value is replaced as a whole, never changed in place."""

    schema: Schema
    ranker: Ranker
    understand: Callable[[str], Understanding] = field(init=False)
    """Query text -> its meaning in this catalogue."""
