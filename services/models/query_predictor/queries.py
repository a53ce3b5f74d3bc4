"""Which queries people may look for an item by: its name or a part of it, alone or with its year, a keyword value or an
everyday word beside it, and keyword values alone. Pure.

Each query has a kind, as "title", "head+year", "title+=actors", "title+~movie" or "=actors": how often people use a
kind, and how likely they mean the item then, is what is learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from services.memory.keys import memory_key
from services.schema.values import first_number, values
from services.text import normalize
from services.types import Document, Role, Schema
from services.understanding.vocabulary import strings

VALUES_PER_FIELD = 3
"""Values of each keyword field that are tried: the first ones are the most telling where there is an order."""
MAX_CHARS = 200
"""Characters of a name or value that are read: nobody writes longer queries."""
YEAR = "year"
FIELD = "="
"""What stands before the name of a field in the name of a kind."""
WORD = "~"
"""What stands before an everyday word in the name of a kind."""

_PARTS = re.compile(r"\s*[:(–—]\s*|\s+[-/|]\s+")
"""Where a name has a subtitle or an addition."""


class GeneratedQuery(NamedTuple):
    """A query that people may look for an item by."""

    text: str
    key: str
    """Under which the memory has it."""
    kind: str


def generate_queries(document: Document, schema: Schema, words: Sequence[str] = ()) -> list[GeneratedQuery]:
    """Each memory key once, the plainest query for it first; nothing for an item without a name. `words`: everyday
    words that people write beside a name."""
    found: dict[str, GeneratedQuery] = {}
    for text, kind in _texts(document, schema, words):
        key = memory_key(text)
        if key and key not in found:
            found[key] = GeneratedQuery(text, key, kind)
    return list(found.values())


def _texts(document: Document, schema: Schema, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    title = normalize(next(iter(strings(document.get(schema.title))), "")[:MAX_CHARS]) if schema.title else ""
    if not title:
        return
    head, *rest = [part for part in _PARTS.split(title) if part.strip(" )]")] or [title]
    names = [("title", title)] if not rest else [("title", title), ("head", head)]
    yield from ((name, kind) for kind, name in names)
    if rest:
        yield rest[0].strip(" )]"), "tail"
    named = list(_values(document, schema))
    year = _year(document, schema)
    for kind, name in names:
        if year:
            yield f"{name} {year}", f"{kind}+{YEAR}"
        for field, value in named:
            yield f"{name} {value}", f"{kind}+{FIELD}{field}"
        for word in words:
            yield f"{name} {word}", f"{kind}+{WORD}{word}"
    for field, value in named:
        yield value, f"{FIELD}{field}"


def _values(document: Document, schema: Schema) -> Iterator[tuple[str, str]]:
    """(field, value): the first value of every keyword field, then the second …"""
    fields = [(f.name, values(document, f)[:VALUES_PER_FIELD]) for f in schema.of(Role.KEYWORD) if f.name != "id"]
    for place in range(VALUES_PER_FIELD):
        for name, held in fields:
            if place < len(held) and (text := normalize(str(held[place])[:MAX_CHARS])):
                yield name, text


def _year(document: Document, schema: Schema) -> str:
    """In which the item was made, "" when it does not say."""
    field = schema.get(schema.created) if schema.created else None
    made = first_number(document, field)
    if field is None or made is None:
        return ""
    if field.role is not Role.DATE:
        return str(int(made)) if float(made).is_integer() and 1000 <= made <= 2999 else ""
    try:
        return str(datetime.fromtimestamp(made, UTC).year)
    except (ValueError, OverflowError, OSError):
        return ""
