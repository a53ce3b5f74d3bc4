"""Field values in the form that every index reads: strings, numbers or times, however they were written. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from services.types import Document, Field, Role, Scalar

_MIN_EPOCH_MILLISECONDS = 1e11
"""Epoch numbers from here on are milliseconds: as seconds they would lie after the year 5138."""
NUMERIC_ROLES = (Role.NUMBER, Role.POPULARITY)


def scalars(value: Any) -> Iterator[Scalar]:
    """The scalars of a field's value: itself, or those of a list; None, empty strings and objects left out."""
    if isinstance(value, str):
        if value and not value.isspace():
            yield value
    elif isinstance(value, (bool, int, float)):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from scalars(entry)


def as_text(value: Scalar) -> str:
    """A scalar as a keyword or text value: booleans as JSON writes them, whole floats without the ".0"."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def as_number(value: Any) -> float | None:
    """`value` as a finite float, or None; strings and booleans are not numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def date_seconds(value: Any) -> float | None:
    """Unix seconds of an ISO 8601 date or time ("2010", "2010-06", "2010-06-18", "2010-06-18T12:00:00Z"; without an
    offset it is UTC), of a year as a number, or of epoch seconds or milliseconds; None when it is none of these."""
    if isinstance(value, str):
        return _iso_seconds(value.strip())
    number = as_number(value)
    if number is None:
        return None
    if number.is_integer() and 1000 <= number <= 2999:
        return _iso_seconds(str(int(number)))
    return number / 1000 if abs(number) >= _MIN_EPOCH_MILLISECONDS else number


def _iso_seconds(text: str) -> float | None:
    if len(text) == 4 and text.isdecimal():
        text += "-01-01"
    elif len(text) == 7 and text[4] == "-":
        text += "-01"
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def values(document: Document, field: Field) -> list[Scalar]:
    """The field's values in the form its role compares: KEYWORD and TEXT as stripped strings (as written; no KEYWORD
    twice), NUMBER and POPULARITY as floats, DATE as Unix seconds; STORED has none. Values of another type are left
    out."""
    raw = document.get(field.name)
    if raw is None or field.role is Role.STORED:
        return []
    if field.role in NUMERIC_ROLES or field.role is Role.DATE:
        return list(_numbers(raw, field))
    texts = (as_text(entry) for entry in scalars(raw))
    return list(dict.fromkeys(texts)) if field.role is Role.KEYWORD else list(texts)


def first_number(document: Document, field: Field | None) -> float | None:
    """The first value of a NUMBER, POPULARITY or DATE field (seconds); None when there is none."""
    return next(_numbers(document.get(field.name), field), None) if field is not None else None


def _numbers(raw: Any, field: Field) -> Iterator[float]:
    read = date_seconds if field.role is Role.DATE else as_number
    return (number for entry in scalars(raw) if (number := read(entry)) is not None)
