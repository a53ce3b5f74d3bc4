"""What the memory has for a search: of the query as it was typed and as it is spelled correctly, and of neighbouring
queries as far as the items themselves bear out that they are meant."""

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
"""Items that are remembered of a query at most."""
CORRECTED = 0.9
"""How alike a misspelled query and its correct spelling are."""
LONGEST = 2_000
"""Characters of a text that are looked through."""
MOST_WORDS = 16
SHORTEST = 3
"""A word of fewer letters, or a number, is looked for as it is, not as the beginning of others."""
BORNE_OUT = 0.6
"""Share of what the query's words say that an item must hold to be taken from another query than this one. Without it
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
    """Items that are there and under the query's filters, best first. Raises StorageFailed or TimeoutError."""
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
    words = _telling(understanding) if doubtful else []
    return tuple(
        entry
        for entry in found
        if (document := documents.get(entry.object_id)) is not None
        and matches(query.filters, document, schema)
        # What was done or predicted for this very query, in whatever spelling, needs no proof.
        and (entry.similarity >= CORRECTED or _borne_out(words, document, schema))
    )


def _telling(understanding: Understanding) -> list[tuple[re.Pattern[str], float]]:
    """The query's words that the catalogue knows, as what to look for, with how rare they are: anything that begins as
    the word and its stem do ("stor" for "stories", whose stem is "stori")."""
    known = [
        (token, rare)
        for token, rare in zip(understanding.tokens, understanding.rarity, strict=False)
        if rare < 1.0 and token not in ENGLISH_STOPWORDS
    ]
    return [(_pattern(token), rare) for token, rare in known[:MOST_WORDS]]


@lru_cache(maxsize=4096)
def _pattern(word: str) -> re.Pattern[str]:
    """Anything that begins as the word and its stem do, or the very word."""
    stemmed = stem(word)
    alike = (place for place, (a, b) in enumerate(zip(word, stemmed, strict=False)) if a != b)
    root = word[: next(alike, min(len(word), len(stemmed)))]
    whole = len(root) < SHORTEST or any(sign.isdigit() for sign in word)
    return re.compile(rf"\b{re.escape(word)}\b" if whole else rf"\b{re.escape(root)}")


def _borne_out(words: Sequence[tuple[re.Pattern[str], float]], document: Document, schema: Schema) -> bool:
    """Whether most of what `words` say is in the item; so it is when they say nothing."""
    said = sum(rare for _, rare in words)
    if said <= 0.0:
        return True
    text = _text(document, schema)
    held = sum(rare for word, rare in words if word.search(text))
    return held >= BORNE_OUT * said


def _text(document: Document, schema: Schema) -> str:
    fields = schema.of(Role.TEXT, Role.KEYWORD, Role.NUMBER)
    text = " ".join(text[:LONGEST] for field in fields for text in strings(document.get(field.name)))
    return fold(normalize(text)).replace("'", "").replace("’", "")
