"""Match features of item and query: by the words of the title, by other words, by the values that the query names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from sys import intern

import numpy as np
from numpy.typing import NDArray

from services.schema.priors import newness, prior, quality
from services.schema.values import as_text, scalars, values
from services.text import normalize, tokenize
from services.types import Document, Role, Scalar, Schema, Slot, Understanding

MAX_READINGS = 3
"""Number of readings that are matched; later ones are too unlikely to matter."""
MAX_TOKENS = 32
"""Number of query tokens compared with items, so that a pasted page of text costs no more than a long query."""
MAX_CHARACTERS = 4000
"""Characters of each value that are searched for words."""
_CACHE_SIZE = 10_000
"""Items whose derived values are kept (about 10 kB each)."""


class Item:
    """Query-independent values of one document that features are computed from."""

    __slots__ = ("_values", "document", "keywords", "priors", "schema", "texts", "title", "trigrams", "words")

    def __init__(self, document: Document, schema: Schema) -> None:
        self.document = document
        self.schema = schema
        self.priors = prior(schema, document), quality(schema, document), newness(schema, document)
        name = document.get(schema.title) if schema.title else None
        tokens = tokenize(name) if isinstance(name, str) else []
        self.title = " ".join(tokens)
        self.words = frozenset(tokens)
        """Words of the title."""
        self.keywords = self._words(Role.KEYWORD)
        self.texts = self._words(Role.TEXT)
        """Words of the fields beside the title, by role."""
        self.trigrams = _trigrams(self.title)
        self._values: dict[str, frozenset[Scalar]] = {}

    def meets(self, slot: Slot) -> bool:
        """Whether the item has the slot's value (compared normalised), or a number within its bounds."""
        held = self._values.get(slot.field)
        if held is None:
            held = self._values[slot.field] = self._read(slot.field)
        if slot.low is None and slot.high is None:
            return _normal(slot.value) in held
        low = -np.inf if slot.low is None else slot.low
        high = np.inf if slot.high is None else slot.high
        return any(not isinstance(value, str) and low <= value <= high for value in held)

    def _read(self, name: str) -> frozenset[Scalar]:
        field = self.schema.get(name)
        if field is None:
            return frozenset()
        return frozenset(_normal(value) if isinstance(value, str) else value for value in values(self.document, field))

    def _words(self, role: Role) -> frozenset[str]:
        return frozenset(
            intern(token)
            for field in self.schema.of(role)
            if field.name != self.schema.title
            for value in scalars(self.document.get(field.name))
            for token in tokenize(as_text(value)[:MAX_CHARACTERS])
        )


_cache: dict[str, Item] = {}


def item(object_id: str, document: Document, schema: Schema) -> Item:
    """The document's Item, cached because the same items come up again and again."""
    found = _cache.get(object_id)
    # Compared by value when it is another object: a store may parse the same document again for every search.
    if found is None or found.schema is not schema or (found.document is not document and found.document != document):
        if len(_cache) >= _CACHE_SIZE:
            _cache.clear()
        found = _cache[object_id] = Item(document, schema)
    return found


class QueryTerms:
    """The words of a query, in the form in which items are compared with them."""

    def __init__(self, understanding: Understanding) -> None:
        self.tokens = understanding.tokens[:MAX_TOKENS]
        self.text = " ".join(self.tokens)
        corrected = [word[0].text for word in understanding.words[:MAX_TOKENS] if word and word[0].text]
        self.meant = " ".join(corrected) or self.text
        self.trigrams = _trigrams(self.text)
        self._spellings = _spellings(understanding)
        self.words = frozenset(self._spellings)
        """All words in any spelling."""
        self._rarity = _rarity(understanding)

    def matched(self, words: Iterable[str]) -> dict[int, float]:
        """Index of a query token -> weight of its likeliest spelling among `words`, a subset of its own words."""
        found: dict[int, float] = {}
        for word in words:
            for place, weight in self._spellings[word]:
                if weight > found.get(place, 0.0):
                    found[place] = weight
        return found

    def share(self, matched: Mapping[int, float]) -> float:
        """Share of the query that is matched, weighted by rarity."""
        return sum([self._rarity[place] * weight for place, weight in matched.items()])


def titles(terms: QueryTerms, items: Sequence[Item]) -> NDArray[np.float64]:
    """[items, 6]: share of the query's tokens in the title, the same by rarity, share of the title's words in the
    query, whether the title equals the query, whether it begins with it, and their trigram similarity."""
    table = []
    for each in items:
        covered = each.words & terms.words
        matched = terms.matched(covered)
        table.append(
            (
                sum(matched.values()) / len(terms.tokens) if matched else 0.0,
                terms.share(matched),
                len(covered) / len(each.words) if covered else 0.0,
                bool(terms.text) and each.title in (terms.text, terms.meant),
                bool(terms.text) and each.title.startswith((terms.text, terms.meant)),
                2 * len(terms.trigrams & each.trigrams) / (len(terms.trigrams) + len(each.trigrams)),
            )
        )
    return np.array(table, dtype=np.float64)


def words(terms: QueryTerms, items: Sequence[Item]) -> NDArray[np.float64]:
    """[items, 3]: share of the query, by rarity, in the item's keywords, in its texts beside the title, and in any of
    its words, the title's included."""
    shares: dict[frozenset[str], float] = {frozenset(): 0.0}

    def share(found: frozenset[str]) -> float:
        known = shares.get(found)
        if known is None:
            known = shares[found] = terms.share(terms.matched(found))
        return known

    table = []
    for each in items:
        keywords, texts = each.keywords & terms.words, each.texts & terms.words
        table.append((share(keywords), share(texts), share(keywords | texts | (each.words & terms.words))))
    return np.array(table, dtype=np.float64)


def slots(understanding: Understanding, items: Sequence[Item], schema: Schema) -> NDArray[np.float64]:
    """[items, 5]: degree to which each item meets the slots of the first reading, the maximum and the sum over readings
    weighted by likelihood, and the degree for the title slots and for the range slots of the first reading."""
    table = np.zeros((len(items), 5))
    readings = [reading for reading in understanding.interpretations[:MAX_READINGS] if reading.slots]
    met = {
        slot: np.array([each.meets(slot) for each in items], dtype=np.float64)
        for slot in dict.fromkeys(slot for reading in readings for slot in reading.slots)
    }
    for reading in readings:
        total = sum(slot.confidence for slot in reading.slots) or 1.0
        share = sum((met[slot] * (slot.confidence / total) for slot in reading.slots), np.zeros(len(items)))
        np.maximum(table[:, 1], share * reading.likelihood, out=table[:, 1])
        table[:, 2] += share * reading.likelihood
        if reading is understanding.interpretations[0]:
            table[:, 0] = share
            table[:, 3] = _mean(met, [slot for slot in reading.slots if slot.field == schema.title])
            table[:, 4] = _mean(met, [slot for slot in reading.slots if not (slot.low is None and slot.high is None)])
    return table


def _mean(met: Mapping[Slot, NDArray[np.float64]], those: Sequence[Slot]) -> NDArray[np.float64] | float:
    return sum((met[slot] for slot in those), np.float64(0)) / len(those) if those else 0.0


def _spellings(understanding: Understanding) -> dict[str, list[tuple[int, float]]]:
    """Word -> (index in the query, weight) of the tokens it is a spelling of; a token itself weighs 1, as it may be
    correct as typed."""
    found: dict[str, list[tuple[int, float]]] = {}
    for place, token in enumerate(understanding.tokens[:MAX_TOKENS]):
        found.setdefault(token, []).append((place, 1.0))
    for place, word in enumerate(understanding.words[:MAX_TOKENS]):
        for alternative in word:
            found.setdefault(alternative.text, []).append((place, min(alternative.weight, 1.0)))
    return found


def _rarity(understanding: Understanding) -> list[float]:
    """Per token its share of the query's rarity (sums to 1): "the matrix" is about "matrix"."""
    rarity = (understanding.rarity or (1.0,) * len(understanding.tokens))[:MAX_TOKENS]
    total = sum(rarity)
    return [r / total if total > 0 else 1.0 / len(rarity) for r in rarity]


def _trigrams(text: str) -> frozenset[str]:
    padded = f"  {text} "
    return frozenset(intern(padded[i : i + 3]) for i in range(len(padded) - 2))


@lru_cache(_CACHE_SIZE)
def _normal(text: str) -> str:
    return normalize(text)
