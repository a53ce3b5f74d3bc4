"""Translates an understood query into index queries: by words, by structure, or by both."""

from __future__ import annotations

from dataclasses import replace

from services.backends.base import Constraint, IndexQuery, SlotMatch, TextMatch
from services.text import normalize
from services.types import Query, Slot, Understanding

NGRAM_WEIGHT = 0.1
"""Weight of character n-grams for a query whose words are known and correctly spelled: among the items with its words,
those whose title resembles the whole query come first."""
DOUBTFUL_NGRAM_WEIGHT = 1.0
"""The same when the spelling is in doubt; then a title that closely resembles the query matches whatever its words."""
MAX_CONSTRAINTS = 8
MIN_CONSTRAINT_WEIGHT = 0.01
"""Constraints of readings less likely than this are dropped."""


def text_match(understanding: Understanding) -> TextMatch:
    """The words of a query with their likely spellings. Uninformative words (stopwords, "movies") are left out when
    others remain; character n-grams weigh more when a word is unknown or looks misspelled."""
    content = _content_tokens(understanding)
    words = [
        alternatives
        for token, alternatives in zip(understanding.tokens, understanding.words, strict=True)
        if token in content
    ]
    doubtful = understanding.corrected is not None or understanding.unknown > 0
    return TextMatch(
        words=tuple(words or understanding.words),
        raw=understanding.normalized,
        ngram_weight=DOUBTFUL_NGRAM_WEIGHT if doubtful else NGRAM_WEIGHT,
        ngrams_match=doubtful,
    )


def slot_match(understanding: Understanding) -> SlotMatch | None:
    """The slots of all readings, each weighted by how likely it is meant; None when there are none. Slots at the same
    place in the query are readings of the same words."""
    weights: dict[Slot, float] = {}
    for interpretation in understanding.interpretations:
        for slot in interpretation.slots:
            key = replace(slot, confidence=0.0)
            weights[key] = weights.get(key, 0.0) + interpretation.likelihood * slot.confidence
    best = sorted(weights.items(), key=lambda entry: (-entry[1], entry[0].start, entry[0].field, entry[0].value))
    kept = [(slot, weight) for slot, weight in best if weight >= MIN_CONSTRAINT_WEIGHT][:MAX_CONSTRAINTS]
    places = list(dict.fromkeys((slot.start, slot.end) for slot, _ in kept))
    constraints = []
    for slot, weight in kept:
        ranged = slot.low is not None or slot.high is not None
        group = places.index((slot.start, slot.end))
        constraints.append(Constraint(slot.field, weight, None if ranged else slot.value, slot.low, slot.high, group))
    return SlotMatch(tuple(constraints)) if constraints else None


def index_query(query: Query, understanding: Understanding) -> IndexQuery:
    """Query for everything that matches lexically or structurally, up to the end of the requested page."""
    browsing = not normalize(query.text)
    return IndexQuery(
        text=None if browsing else text_match(understanding),
        slots=None if browsing else slot_match(understanding),
        filters=query.filters,
        facets=query.facets,
        sort=query.sort,
        limit=query.offset + query.limit,
    )


def _content_tokens(understanding: Understanding) -> frozenset[str]:
    """Informative tokens: those that the reading without slots (the fallback) keeps."""
    plain = next((i for i in understanding.interpretations if not i.slots), None)
    return frozenset(plain.rest if plain is not None else understanding.tokens)
