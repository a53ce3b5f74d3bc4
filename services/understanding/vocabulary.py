"""The words of the catalogue and of past queries, as counts, so that removing an item exactly undoes adding it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from services.text import tokenize
from services.types import Document, Role, Schema

TEXT_MASS = 0.3
QUERY_MASS = 1.0
MIN_QUERY_COUNT = 3.0
"""A word found only in past queries counts as a word from this many on: logs are full of typos."""
MAX_WORD_CHARS = 40


def strings(value: Any) -> list[str]:
    """The strings of a document's field, nested lists flattened; numbers and booleans as text, objects left out."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [text for entry in value for text in strings(entry)]
    if isinstance(value, Mapping):
        return []
    return [value if isinstance(value, str) else str(value)]


class Vocabulary:
    """Word and word-pair counts.

    `frequency`: items that hold the word anywhere; `named`: items with the word in the title or a keyword value;
    `query_counts`: past queries with the word; `pairs`: items and past queries with two neighbouring words.
    """

    def __init__(self, schema: Schema) -> None:
        self._title = schema.title
        self._popularity = schema.popularity
        self._texts = tuple(f.name for f in schema.of(Role.TEXT) if f.name != schema.title)
        self.items = 0
        self.frequency: Counter[str] = Counter()
        self.named: Counter[str] = Counter()
        self.query_counts: Counter[str] = Counter()
        self.pairs: Counter[str] = Counter()
        self._mass: dict[str, float] = {}

    def prior(self, document: Document) -> float:
        """1 for an unpopular item, growing with the logarithm of its popularity."""
        popularity = document.get(self._popularity) if self._popularity else None
        if not isinstance(popularity, (int, float)) or not math.isfinite(popularity):
            return 1.0
        return 1.0 + math.log1p(max(0.0, popularity))

    def add(self, document: Document, names: Iterable[list[str]], sign: int = 1) -> set[str]:
        """Count (or with `sign` -1 remove) a document whose title and keyword values have the tokens `names`.

        Returns its words.
        """
        prior = self.prior(document) * sign
        self.items += sign
        named: set[str] = set()
        pairs: set[str] = set()
        for tokens in names:
            named.update(tokens)
            pairs.update(f"{left} {right}" for left, right in pairwise(tokens))
        words = set(named)
        words.update(tokenize("\n".join(text for name in self._texts for text in strings(document.get(name)))))
        _count(self.frequency, words, sign)
        _count(self.named, named, sign)
        _count(self.pairs, pairs, sign)
        for word in named:
            if word in self.named:
                self._mass[word] = self._mass.get(word, 0.0) + prior
            else:
                self._mass.pop(word, None)
        return words

    def add_query(self, tokens: list[str], weight: float) -> None:
        """Count a past query, `weight` times."""
        for word in tokens:
            self.query_counts[word] += weight  # type: ignore[assignment]
        for left, right in pairwise(tokens):
            self.pairs[f"{left} {right}"] += weight  # type: ignore[assignment]

    def mass(self, word: str) -> float:
        """How likely the word is in a search: its weight in titles and names, other text and past queries; 0 when
        unseen."""
        elsewhere = self.frequency.get(word, 0) - self.named.get(word, 0)
        return self._mass.get(word, 0.0) + TEXT_MASS * elsewhere + QUERY_MASS * self.query_counts.get(word, 0)

    def spellable(self, word: str) -> bool:
        """Whether a misspelled word may be corrected into this one."""
        if len(word) < 3 or len(word) > MAX_WORD_CHARS or not word.isalpha():
            return False
        return (
            word in self.named or self.frequency.get(word, 0) >= 2 or self.query_counts.get(word, 0) >= MIN_QUERY_COUNT
        )

    def rarity(self, word: str) -> float:
        """Inverse document frequency scaled to 0..1: log((N + 1) / (df + 1)) / log(N + 1)."""
        if self.items <= 0:
            return 1.0
        frequency = min(self.frequency.get(word, 0), self.items)
        return math.log((self.items + 1) / (frequency + 1)) / math.log(self.items + 1)


def _count(counter: Counter[str], words: set[str], sign: int) -> None:
    if sign > 0:
        counter.update(words)
        return
    for word in words:
        left = counter.get(word, 0) - 1
        if left > 0:
            counter[word] = left
        else:
            counter.pop(word, None)
