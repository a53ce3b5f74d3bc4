"""Generated queries of an item: its title or a part of it, alone or followed by its year, a keyword value or an
everyday word, and keyword values alone. Pure.

Each query has a kind, such as "title", "head+year", "title+=actors", "title+~movie" or "=actors". The query predictor
learns how often users write each kind, and how likely they then mean the item.
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
"""First values of each keyword field that are used: where they are ordered, the most telling ones."""
MAX_CHARS = 200
"""Characters of a title or value that are used; longer queries are unlikely."""
YEAR_KIND = "year"
FIELD_PREFIX = "="
"""Prefix of a field name in a kind."""
WORD_PREFIX = "~"
"""Prefix of an everyday word in a kind."""

_PARTS = re.compile(r"\s*[:(–—]\s*|\s+[-/|]\s+")
"""Separators of a subtitle or an addition in a title."""


class GeneratedQuery(NamedTuple):
    """A query that users may write to find an item."""

    text: str
    key: str
    """Memory key of the query."""
    kind: str


def generate_queries(document: Document, schema: Schema, words: Sequence[str] = ()) -> list[GeneratedQuery]:
    """The item's queries, one per memory key: the simplest one; empty for an item without a title. `words`: everyday
    words that users add to a title."""
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
            yield f"{name} {year}", f"{kind}+{YEAR_KIND}"
        for field, value in named:
            yield f"{name} {value}", f"{kind}+{FIELD_PREFIX}{field}"
        for word in words:
            yield f"{name} {word}", f"{kind}+{WORD_PREFIX}{word}"
    for field, value in named:
        yield value, f"{FIELD_PREFIX}{field}"


def _values(document: Document, schema: Schema) -> Iterator[tuple[str, str]]:
    """(field, value): the first value of every keyword field, then the second …"""
    fields = [(f.name, values(document, f)[:VALUES_PER_FIELD]) for f in schema.of(Role.KEYWORD) if f.name != "id"]
    for index in range(VALUES_PER_FIELD):
        for name, held in fields:
            if index < len(held) and (text := normalize(str(held[index])[:MAX_CHARS])):
                yield name, text


def _year(document: Document, schema: Schema) -> str:
    """The year in which the item was created; "" when unknown."""
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
