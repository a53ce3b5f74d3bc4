"""Completions before any model: past queries and titles that begin with what was typed, most popular first."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Sequence

from services.backends.base import LexicalIndex, MemoryIndex
from services.text import normalize, tokenize
from services.types import Deadline

logger = logging.getLogger(__name__)

QUERY_SHARE = 0.6
"""Weight of past queries; the rest is that of titles."""


class Autocomplete:
    """Completes what is being typed, from past queries and titles."""

    def __init__(self, index: LexicalIndex, memory: MemoryIndex) -> None:
        self._index = index
        self._memory = memory

    async def suggest(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """At most `limit` (text, score), scores in 0..1 and descending, no two texts with the same words.

        An empty prefix gives the most popular texts. A source that fails or is late is left out; the other is used.
        """
        typed = normalize(prefix)
        wanted = 2 * limit  # some are the same text
        queries, titles = await asyncio.gather(
            self._source("queries", self._memory.popular_queries(typed, wanted, deadline), deadline),
            self._source("titles", self._index.titles(typed, wanted, deadline), deadline),
        )
        texts: dict[str, str] = {}
        scores: dict[str, float] = {}
        for source, share in ((titles, 1.0 - QUERY_SHARE), (queries, QUERY_SHARE)):
            for key, text, score in _scaled(source):
                texts.setdefault(key, text)
                scores[key] = min(1.0, scores.get(key, 0.0) + share * score)
        ranked = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
        return [(texts[key], score) for key, score in ranked[:limit]]

    async def _source(
        self, name: str, answer: Awaitable[list[tuple[str, float]]], deadline: Deadline
    ) -> list[tuple[str, float]]:
        """Completions that the source returns in time; none when it fails."""
        try:
            return await asyncio.wait_for(answer, deadline.remaining())
        except Exception as error:  # whatever a source does, completions from the other are worth having
            logger.warning("completions without %s: %s", name, type(error).__name__)
            return []


def _scaled(source: Sequence[tuple[str, float]]) -> list[tuple[str, str, float]]:
    """(normal form, text, score), each normal form once with its best popularity, on a logarithmic scale of 0..1 within
    the source; popularities that are not finite count as 0."""
    texts: dict[str, str] = {}
    best: dict[str, float] = {}
    for text, score in source:
        key = " ".join(tokenize(text))
        if key:
            texts.setdefault(key, text)
            best[key] = max(best.get(key, 0.0), math.log1p(max(0.0, score)) if math.isfinite(score) else 0.0)
    most = max(best.values(), default=0.0) or 1.0
    return [(key, text, best[key] / most) for key, text in texts.items()]
