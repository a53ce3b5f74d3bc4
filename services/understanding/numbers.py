"""Finds years, decades, ranges and other numbers in a query."""

from __future__ import annotations

import calendar
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.types import Document, Role, Schema
from services.understanding.language import stem

FIRST_YEAR, LAST_YEAR = 1880, 2100
MIN_YEAR_SHARE = 0.95
"""Share of a field's values that must be years for a field of years."""

_YEAR = re.compile(r"(?:18[89]|19\d|20\d)\d|2100")
_DECADE = re.compile(r"((?:18|19|20)?\d0)s")
_NUMBER = re.compile(r"\d{1,9}")
_SPELLED = {
    "twenties": 20,
    "thirties": 30,
    "forties": 40,
    "fifties": 50,
    "sixties": 60,
    "seventies": 70,
    "eighties": 80,
    "nineties": 90,
    "noughties": 0,
}
_BELOW = {"before": 1, "until": 0, "till": 0, "under": 0, "below": 1, "maximum": 0, "max": 0, "cheaper": 1, "less": 1}
_ABOVE = {"after": 1, "since": 0, "from": 0, "over": 0, "above": 1, "minimum": 0, "min": 0, "more": 1, "newer": 1}
"""Word -> 1 when the range excludes the number itself."""
_TIME_WORDS = frozenset(("before", "until", "till", "after", "since", "from", "newer"))


@dataclass(frozen=True, slots=True)
class NumberSlot:
    """Tokens first..last (exclusive) mean that `field` lies in [low, high]."""

    field: str
    first: int
    last: int
    low: float | None
    high: float | None
    confidence: float


class Numbers:
    """Which number fields hold years, and which years occur."""

    def __init__(self, schema: Schema) -> None:
        self._created = schema.created
        self._dates = frozenset(f.name for f in schema.of(Role.DATE))
        self._numbers = tuple(f.name for f in schema.of(Role.NUMBER))
        self._fields = tuple(dict.fromkeys((*self._numbers, *(f.name for f in schema.of(Role.DATE)))))
        self._years: dict[str, Counter[int]] = {name: Counter() for name in self._fields}
        self._held: Counter[str] = Counter()

    def add(self, document: Document, sign: int = 1) -> None:
        """Count (or with `sign` -1 remove) the years of a document."""
        for name in self._fields:
            value = document.get(name)
            if value is None:
                continue
            self._held[name] += sign
            year = year_of(value, name in self._dates)
            if year is not None:
                self._years[name][year] += sign

    def year_fields(self) -> list[str]:
        """Fields that hold a year: the schema's own first, then those whose name or values look like years."""
        return [
            name
            for name in sorted(self._fields, key=lambda name: (name != self._created, name))
            if name == self._created or "year" in name.casefold() or self._holds_years(name)
        ]

    def _holds_years(self, name: str) -> bool:
        held = self._held[name]
        return held > 0 and self._years[name].total() >= MIN_YEAR_SHARE * held

    def find(self, tokens: Sequence[str]) -> list[NumberSlot]:
        """Slots of number and date fields that the tokens may mean."""
        found: list[NumberSlot] = []
        fields = self.year_fields()
        for i in range(len(tokens)):
            if not (tokens[i][0].isdigit() or tokens[i] in _SPELLED):
                continue
            span = self._decade(tokens, i) or _years(tokens, i)
            if span is not None:
                first, last, low, high, sure = span
                for rank, name in enumerate(fields[:2]):
                    held = self._holds(name, low, high)
                    confidence = sure * (0.95 if held else 0.2) * (0.3 if rank else 1.0)
                    found.append(NumberSlot(name, first, last, *self._bounds(name, low, high), confidence))
            elif _NUMBER.fullmatch(tokens[i]):
                found.extend(self._named(tokens, i))
        return found

    def _decade(self, tokens: Sequence[str], i: int) -> tuple[int, int, int, int, float] | None:
        match = _DECADE.fullmatch(tokens[i])
        start = int(match.group(1)) if match else _SPELLED.get(tokens[i])
        if start is None:
            return None
        if start < 100:  # "20s": the century with more items in the catalogue
            names = self.year_fields()[:1]
            held = [
                sum(self._years[n][y] for n in names for y in range(c + start, c + start + 10)) for c in (1900, 2000)
            ]
            start += 2000 if held[1] > held[0] or (held[0] == held[1] and start < 30) else 1900
        return i, i + 1, start, start + 9, 1.0

    def _holds(self, name: str, low: int | None, high: int | None) -> bool:
        return any(count > 0 and (low or 0) <= year <= (high or LAST_YEAR) for year, count in self._years[name].items())

    def _bounds(self, name: str, low: int | None, high: int | None) -> tuple[float | None, float | None]:
        """Inclusive bounds as the field compares: years, or seconds since the epoch (UTC) for a date."""
        if name not in self._dates:
            return (None if low is None else float(low)), (None if high is None else float(high))
        return (
            None if low is None else float(calendar.timegm((low, 1, 1, 0, 0, 0))),
            None if high is None else float(calendar.timegm((high, 12, 31, 23, 59, 59))),
        )

    def _named(self, tokens: Sequence[str], i: int) -> list[NumberSlot]:
        """A number beside the name of a number field ("size 42", "rating over 8") or with a bound on a price."""
        first = i
        low: float | None = float(tokens[i])
        high = low
        bound = _bound_word(tokens, i)
        if bound is not None:
            first, word = bound
            value = float(tokens[i])
            low, high = (None, value - _BELOW[word] * 0.01) if word in _BELOW else (value + _ABOVE[word] * 0.01, None)
        by_stem = {stem(name.casefold()): name for name in self._numbers}
        for at, edge in ((first - 1, first - 1), (i + 1, first)):
            if 0 <= at < len(tokens) and stem(tokens[at]) in by_stem:
                name = by_stem[stem(tokens[at])]
                return [NumberSlot(name, edge, max(i, at) + 1, low, high, 0.8)]
        price = next((name for name in self._numbers if stem(name.casefold()) in ("price", "cost")), None)
        if bound is not None and price is not None and bound[1] not in _TIME_WORDS:
            return [NumberSlot(price, first, i + 1, low, high, 0.7)]
        return []


def _bound_word(tokens: Sequence[str], i: int) -> tuple[int, str] | None:
    """(place, word) of "under", "less than", "over"... right before token i."""
    at = i - 2 if i > 1 and tokens[i - 1] == "than" else i - 1
    if at >= 0 and (tokens[at] in _BELOW or tokens[at] in _ABOVE):
        return at, tokens[at]
    return None


def _years(tokens: Sequence[str], i: int) -> tuple[int, int, int | None, int | None, float] | None:
    """(first, last, low, high, confidence) of a year or range of years whose first year is token i."""
    if not _YEAR.fullmatch(tokens[i]):
        return None
    year = int(tokens[i])
    for step in (1, 2):  # "1990-2000", "1990 to 2000", "between 1990 and 2000"
        if i + step < len(tokens) and _YEAR.fullmatch(tokens[i + step]) and int(tokens[i + step]) > year:
            between = i > 0 and tokens[i - 1] == "between"
            if step == 1 or tokens[i + 1] in ("to", "until", "till") or (between and tokens[i + 1] == "and"):
                first = i - 1 if i > 0 and tokens[i - 1] in ("between", "from") else i
                return first, i + step + 1, year, int(tokens[i + step]), 1.0
    bound = _bound_word(tokens, i)
    if bound is not None and bound[1] in _BELOW:
        return bound[0], i + 1, None, year - _BELOW[bound[1]], 1.0
    if bound is not None:
        return bound[0], i + 1, year + _ABOVE[bound[1]], None, 0.95
    return i, i + 1, year, year, 0.85


def year_of(value: Any, date: bool) -> int | None:
    """The year in a number field's whole number, or in a date (ISO 8601 text or seconds since the epoch)."""
    if isinstance(value, bool):
        return None
    year: int | None = None
    if date and isinstance(value, str) and len(value) >= 4 and value[:4].isdecimal():
        year = int(value[:4])
    elif date and isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < 1e11:
        year = datetime.fromtimestamp(value, UTC).year
    elif not date and isinstance(value, (int, float)) and math.isfinite(value) and value == int(value):
        year = int(value)
    return year if year is not None and FIRST_YEAR <= year <= LAST_YEAR else None
