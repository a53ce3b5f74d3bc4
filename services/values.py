"""What a catalogue field holds, as every index reads it: strings, numbers or times, whatever the owner wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from services.types import Document, Field, Role, Scalar

_MILLISECONDS = 1e11
"""Epoch numbers from here on are milliseconds: as seconds they would lie after the year 5138."""


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
    """A finite number, or None; strings and booleans are none."""
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
    return number / 1000 if abs(number) >= _MILLISECONDS else number


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


def values(document: Document, name: str) -> list[Scalar]:
    """The scalars of a field as written; [] when there are none."""
    return list(scalars(document.get(name)))


def keywords(document: Document, name: str) -> list[str]:
    """The values of a KEYWORD or TEXT field as stripped strings, none twice."""
    return list(dict.fromkeys(as_text(entry) for entry in scalars(document.get(name))))


def numbers(document: Document, field: Field) -> list[float]:
    """The values of a NUMBER, POPULARITY or DATE field (Unix seconds); what is none of that is left out."""
    read = date_seconds if field.role is Role.DATE else as_number
    return [number for entry in scalars(document.get(field.name)) if (number := read(entry)) is not None]


def first_number(document: Document, field: Field | None) -> float | None:
    """The first of the field's numbers; None when there is none."""
    found = numbers(document, field) if field is not None else []
    return found[0] if found else None
