"""Recall from the click memory: items of the query as typed and as corrected, and of neighbouring queries where the
items' own text matches the query."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import lru_cache

from services.backends.base import ItemStore, MemoryIndex
from services.memory.keys import memory_key
from services.memory.scores import joined
from services.schema.filters import matches
from services.text import fold, normalize
from services.types import Deadline, Document, Query, Remembered, Role, Schema, Understanding
from services.understanding.language import ENGLISH_STOPWORDS, stem
from services.understanding.vocabulary import strings

LIMIT = 100
"""Maximum number of items recalled for a query."""
CORRECTED = 0.9
"""Similarity of a misspelled query and its correct spelling."""
MAX_TEXT = 2_000
"""Maximum number of characters of a text that are searched for the query's words."""
MAX_WORDS = 16
MIN_STEM = 3
"""A word whose stem is shorter, or one with a digit, is matched as a whole word, not as the beginning of others."""
SUPPORT = 0.6
"""Share of the query's words, weighted by rarity, that an item must hold to be recalled from another query. Without it
"pirates of the caribbean 4 full movie" brought the films of "toy story 4 full movie" (films, unseen validation queries:
NDCG@10 .657 with, .654 without)."""


async def recall(
    memory: MemoryIndex,
    items: ItemStore,
    query: Query,
    understanding: Understanding,
    schema: Schema,
    deadline: Deadline,
) -> tuple[Remembered, ...]:
    """Items that exist and pass the query's filters, best first. Raises StorageFailed or TimeoutError."""
    key = memory_key(understanding.normalized)
    meant = memory_key(understanding.corrected) if understanding.corrected else key
    if not key:
        return ()
    async with deadline.enforced():
        if meant == key:
            found = await memory.remembered(key, LIMIT, deadline)
        else:
            own, spelled = await asyncio.gather(*(memory.remembered(k, LIMIT, deadline) for k in (key, meant)))
            found = joined(own, spelled, CORRECTED, LIMIT)
        if not found:
            return ()
        documents = await items.get([entry.object_id for entry in found], deadline)
    doubtful = any(entry.similarity < CORRECTED for entry in found)
    words = _search_words(understanding) if doubtful else []
    return tuple(
        entry
        for entry in found
        if (document := documents.get(entry.object_id)) is not None
        and matches(query.filters, document, schema)
        # Items clicked or predicted for the query itself, in either spelling, need no support.
        and (entry.similarity >= CORRECTED or _supported(words, document, schema))
    )


def _search_words(understanding: Understanding) -> list[tuple[re.Pattern[str], float]]:
    """The query's words that the catalogue knows, as patterns with their rarity (0..1): each matches any word that
    begins with their common prefix ("stor" for "stories", whose stem is "stori")."""
    known = [
        (token, rare)
        for token, rare in zip(understanding.tokens, understanding.rarity, strict=False)
        if rare < 1.0 and token not in ENGLISH_STOPWORDS
    ]
    return [(_pattern(token), rare) for token, rare in known[:MAX_WORDS]]


@lru_cache(maxsize=4096)
def _pattern(word: str) -> re.Pattern[str]:
    """Matches any word that begins with the common prefix of the word and its stem, or only the word itself."""
    stemmed = stem(word)
    differing = (place for place, (a, b) in enumerate(zip(word, stemmed, strict=False)) if a != b)
    root = word[: next(differing, min(len(word), len(stemmed)))]
    whole = len(root) < MIN_STEM or any(character.isdigit() for character in word)
    return re.compile(rf"\b{re.escape(word)}\b" if whole else rf"\b{re.escape(root)}")


def _supported(words: Sequence[tuple[re.Pattern[str], float]], document: Document, schema: Schema) -> bool:
    """Whether the item holds enough of `words`, weighted by rarity; true when their total rarity is 0."""
    total = sum(rare for _, rare in words)
    if total <= 0.0:
        return True
    text = _text(document, schema)
    held = sum(rare for word, rare in words if word.search(text))
    return held >= SUPPORT * total


def _text(document: Document, schema: Schema) -> str:
    """The texts, keywords and numbers of the item, folded, for patterns to be searched in."""
    fields = schema.of(Role.TEXT, Role.KEYWORD, Role.NUMBER)
    text = " ".join(text[:MAX_TEXT] for field in fields for text in strings(document.get(field.name)))
    return fold(normalize(text)).replace("'", "").replace("’", "")
