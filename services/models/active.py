"""What a search goes by at this moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from services.rankers.base import Ranker
from services.types import Schema, Understanding


@dataclass(slots=True)
class ActiveModels:
    """What a search reads and what is swapped while searches run: each is replaced whole, never changed in place."""

    schema: Schema
    ranker: Ranker
    understand: Callable[[str], Understanding] = field(init=False)
