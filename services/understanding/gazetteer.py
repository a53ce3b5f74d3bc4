"""Looks up values of keyword fields and titles in a query's tokens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from services.understanding.language import stem

MAX_NAME_TOKENS = 10
"""Maximum length of a name that is looked up, in tokens."""
MAX_CATEGORY_VALUES = 1000
"""A field with at most this many different values may hold categories (genre, colour, size) ..."""
MIN_CATEGORY_ITEMS = 3.0
"""... when each of them has this many items on average."""
MIN_COMMON_PREFIX = 5
MAX_ENDING_CHARS = 3
PREFIX_CLOSENESS = 0.5
MAX_NAMESAKES = 64


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
        self._totals: Counter[str] = Counter()
        self._forms: dict[str, _CategoryForms] = {}
        """Per category field; built when first needed after the field's values changed."""

    def add(self, field: str, value: str, tokens: Sequence[str], sign: int = 1, parts: bool = True) -> None:
        """Count (or with `sign` -1 remove) one item's `value` of `field`; `parts`: whether single tokens may name
        it."""
        if not tokens or len(tokens) > MAX_NAME_TOKENS:
            return
        key = " ".join(tokens)
        readings = self._names.setdefault(key, {})
        readings[field, value] = readings.get((field, value), 0) + sign
        keys = self._fields[field]
        if key not in keys:
            self._forms.pop(field, None)
        keys[key] = keys.get(key, 0) + sign
        self._totals[field] += sign
        if readings[field, value] <= 0:
            del readings[field, value]
        if keys[key] <= 0:
            del keys[key]
            self._forms.pop(field, None)
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

    def knows(self, key: str) -> bool:
        """Whether these tokens (joined with spaces) are a value."""
        return key in self._names

    def exact(self, key: str) -> list[Reading]:
        """Values written with exactly these tokens, one per field (its commonest spelling), commonest first."""
        readings = self._names.get(key)
        if not readings:
            return []
        if len(readings) == 1:
            (((field, value), count),) = readings.items()
            return [Reading(field, value, count)]
        best: dict[str, Reading] = {}
        for (field, value), count in readings.items():
            known = best.get(field)
            if known is None or (-count, value) < (-known.count, known.value):
                best[field] = Reading(field, value, count)
        return sorted(best.values(), key=lambda r: (-r.count, r.field))

    def partial(self, token: str) -> list[tuple[Reading, float]]:
        """Values of several tokens that hold `token`, the commonest one of each field, with the share that it has among
        the field's items of that token ("tarantino" -> Quentin Tarantino, 1.0)."""
        keys = self._parts.get(token)
        if not keys or len(keys) > MAX_NAMESAKES:
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
        """Whether the field's values are categories (few, each with many items) rather than names."""
        keys = self._fields.get(field)
        if not keys or len(keys) > MAX_CATEGORY_VALUES:
            return False
        return self._totals[field] >= MIN_CATEGORY_ITEMS * len(keys)

    def category_forms(self, tokens: Sequence[str]) -> list[tuple[Reading, float]]:
        """Category values that are another form of the tokens ("comedies" -> Comedy; "romantic" -> Romance), with their
        closeness: 1 for the same stem, PREFIX_CLOSENESS for a common beginning."""
        stemmed = " ".join(stem(token) for token in tokens)
        found: list[tuple[Reading, float]] = []
        for field in self._fields:
            if not self.is_category(field):
                continue
            forms = self._forms.get(field)
            if forms is None:
                forms = self._forms[field] = _CategoryForms(self._fields[field])
            key = forms.stems.get(stemmed)
            if key is not None:
                found.extend((r, 1.0) for r in self.exact(key) if r.field == field)
            elif len(tokens) == 1:
                near = [
                    k for s, k in forms.beginnings.get(stemmed[:MIN_COMMON_PREFIX], ()) if _share_beginning(s, stemmed)
                ]
                found.extend((r, PREFIX_CLOSENESS) for k in near for r in self.exact(k) if r.field == field)
        return found


class _CategoryForms:
    """The values of a category field by their stems, and by the beginnings of the stems."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.stems = {" ".join(stem(token) for token in key.split(" ")): key for key in sorted(keys)}
        self.beginnings: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for stemmed, key in self.stems.items():
            if len(stemmed) >= MIN_COMMON_PREFIX:
                self.beginnings[stemmed[:MIN_COMMON_PREFIX]].append((stemmed, key))


def _share_beginning(left: str, right: str) -> bool:
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
    return common >= MIN_COMMON_PREFIX and max(len(left), len(right)) - common <= MAX_ENDING_CHARS
