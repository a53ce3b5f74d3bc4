"""The catalogue's own names: values of keyword fields and titles, found again in a query's tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from services.understanding.language import stem

LONGEST_NAME = 10
"""Names of more tokens are not looked for."""
CATEGORY_VALUES = 1000
"""A field with at most this many different values may be one of categories (genre, colour, size)..."""
CATEGORY_ITEMS = 3.0
"""...when each of them holds for this many items on average."""
COMMON_PREFIX = 5
LONGEST_ENDING = 3
MOST_NAMESAKES = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """One value that a piece of a query may name."""

    field: str
    value: str
    count: int
    """Items that hold the value."""


class Gazetteer:
    """Names as counts of items, by their tokens joined with spaces."""

    def __init__(self) -> None:
        self._names: dict[str, dict[tuple[str, str], int]] = {}
        self._fields: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._parts: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._stems: dict[str, dict[str, str]] = {}
        """Per field of categories, stemmed key -> key; made when first needed after the field's values changed."""

    def add(self, field: str, value: str, tokens: Sequence[str], sign: int = 1, parts: bool = True) -> None:
        """Count (or with `sign` -1 forget) one item's `value` of `field`; `parts`: single tokens may stand for it."""
        if not tokens or len(tokens) > LONGEST_NAME:
            return
        key = " ".join(tokens)
        readings = self._names.setdefault(key, {})
        readings[field, value] = readings.get((field, value), 0) + sign
        keys = self._fields[field]
        if key not in keys:
            self._stems.pop(field, None)
        keys[key] = keys.get(key, 0) + sign
        if readings[field, value] <= 0:
            del readings[field, value]
        if keys[key] <= 0:
            del keys[key]
            self._stems.pop(field, None)
        if parts and len(tokens) > 1 and sign > 0:
            for token in tokens:
                self._parts[token][key] = None
        if not readings:
            del self._names[key]
            for token in tokens:
                if key in self._parts.get(token, ()):
                    del self._parts[token][key]
                    if not self._parts[token]:
                        del self._parts[token]

    def exact(self, key: str) -> list[Reading]:
        """Values written with exactly these tokens, one a field (its commonest spelling), commonest first."""
        readings = self._names.get(key)
        if not readings:
            return []
        best: dict[str, Reading] = {}
        for (field, value), count in readings.items():
            known = best.get(field)
            if known is None or (-count, value) < (-known.count, known.value):
                best[field] = Reading(field, value, count)
        return sorted(best.values(), key=lambda r: (-r.count, r.field))

    def partial(self, token: str) -> list[tuple[Reading, float]]:
        """Values of several tokens that hold `token`, the commonest a field, each with the share of the field's items of
        that token that it accounts for ("tarantino" -> Quentin Tarantino, 1.0)."""
        keys = self._parts.get(token)
        if not keys or len(keys) > MOST_NAMESAKES:
            return []
        totals: defaultdict[str, int] = defaultdict(int)
        best: dict[str, Reading] = {}
        for key in keys:
            for reading in self.exact(key):
                totals[reading.field] += reading.count
                known = best.get(reading.field)
                if known is None or (-reading.count, reading.value) < (-known.count, known.value):
                    best[reading.field] = reading
        return [(reading, reading.count / totals[field]) for field, reading in sorted(best.items())]

    def is_category(self, field: str) -> bool:
        """Whether the field's values are kinds (few, each of many items) rather than names."""
        keys = self._fields.get(field)
        if not keys or len(keys) > CATEGORY_VALUES:
            return False
        return sum(keys.values()) >= CATEGORY_ITEMS * len(keys)

    def kindred(self, tokens: Sequence[str]) -> list[tuple[Reading, float]]:
        """Category values that are another form of the tokens ("comedies" -> Comedy; "romantic" -> Romance), with how
        close: 1 for the same stem, less for a common beginning."""
        stemmed = " ".join(stem(token) for token in tokens)
        found: list[tuple[Reading, float]] = []
        for field in sorted(self._fields):
            if not self.is_category(field):
                continue
            stems = self._category_stems(field)
            key = stems.get(stemmed)
            if key is not None:
                found.extend((r, 1.0) for r in self.exact(key) if r.field == field)
            elif len(tokens) == 1 and len(stemmed) >= COMMON_PREFIX:
                near = [k for s, k in stems.items() if _same_beginning(s, stemmed)]
                found.extend((r, 0.7) for k in near for r in self.exact(k) if r.field == field)
        return found

    def _category_stems(self, field: str) -> dict[str, str]:
        stems = self._stems.get(field)
        if stems is None:
            stems = {" ".join(stem(token) for token in key.split(" ")): key for key in sorted(self._fields[field])}
            self._stems[field] = stems
        return stems


def _same_beginning(left: str, right: str) -> bool:
    common = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        common += 1
    return common >= COMMON_PREFIX and max(len(left), len(right)) - common <= LONGEST_ENDING
