"""The slate: the page of results as shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.search.highlight import highlights
from services.types import Document, Found, Hit, Schema, Understanding


@dataclass(frozen=True, slots=True)
class Entry:
    """One position of the list, before its document is known."""

    object_id: str
    score: float
    arms: Mapping[str, Found] = field(default_factory=dict)
    tail: bool = False
    """Whether it comes after the ranked list (services/search/paging.py)."""
    explanation: Mapping[str, float] | None = None
    """Feature name -> contribution to the score."""


def slate(
    entries: Sequence[Entry],
    documents: Mapping[str, Document],
    offset: int,
    understanding: Understanding,
    schema: Schema,
) -> tuple[Hit, ...]:
    """Hits of `entries`, the first at position offset + 1. An item without a document leaves its position empty."""
    return tuple(
        Hit(
            object_id=entry.object_id,
            position=offset + place,
            score=entry.score,
            document=documents[entry.object_id],
            arms=entry.arms,
            highlights=highlights(understanding.words, documents[entry.object_id], schema),
            tail=entry.tail,
            explanation=entry.explanation,
        )
        for place, entry in enumerate(entries, 1)
        if entry.object_id in documents
    )
