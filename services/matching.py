"""From what a query means to what the index is asked: by its words, by its structure, or by both."""

from __future__ import annotations

from services.backends.base import Constraint, IndexQuery, SlotMatch, TextMatch
from services.text import normalize
from services.types import Query, Understanding

NGRAMS = 0.3
"""Weight of character n-grams for a query whose words are all known and rightly spelt."""
NGRAMS_DOUBTFUL = 1.0
"""The same when the spelling is in doubt."""
MOST_CONSTRAINTS = 5


def text_match(understanding: Understanding) -> TextMatch:
    """The words of a query with their likely spellings. Words that say nothing of what is wanted (stopwords, "movies")
    are left out when others remain; character n-grams weigh more the more the spelling is in doubt."""
    telling = _telling(understanding)
    words = [
        alternatives
        for token, alternatives in zip(understanding.tokens, understanding.words, strict=True)
        if token in telling
    ]
    doubtful = understanding.corrected is not None or understanding.unknown > 0
    return TextMatch(
        words=tuple(words or understanding.words),
        raw=understanding.normalized,
        ngram_weight=NGRAMS_DOUBTFUL if doubtful else NGRAMS,
    )


def slot_match(understanding: Understanding) -> SlotMatch | None:
    """The slots of all readings, each weighted by how likely it is meant; None when there are none."""
    weights: dict[tuple[str, str, float | None, float | None], float] = {}
    for interpretation in understanding.interpretations:
        for slot in interpretation.slots:
            key = (slot.field, "" if slot.low is not None or slot.high is not None else slot.value, slot.low, slot.high)
            weights[key] = weights.get(key, 0.0) + interpretation.likelihood * slot.confidence
    if not weights:
        return None
    best = sorted(weights.items(), key=lambda entry: (-entry[1], str(entry[0])))[:MOST_CONSTRAINTS]
    return SlotMatch(tuple(Constraint(f, w, v or None, low, high) for (f, v, low, high), w in best if w > 0))


def index_query(query: Query, understanding: Understanding) -> IndexQuery:
    """Everything that matches lexically or structurally, from the first hit to the end of the page asked for."""
    browsing = not normalize(query.text)
    return IndexQuery(
        text=None if browsing else text_match(understanding),
        slots=None if browsing else slot_match(understanding),
        filters=query.filters,
        facets=query.facets,
        sort=query.sort,
        limit=query.offset + query.limit,
    )


def _telling(understanding: Understanding) -> frozenset[str]:
    """Tokens that say what is wanted: those the reading without slots (the last resort) is left with."""
    plain = next((i for i in understanding.interpretations if not i.slots), None)
    return frozenset(plain.rest if plain is not None else understanding.tokens)
