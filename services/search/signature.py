"""Signature of a search, by which a later page is checked to belong to the same search. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from services.text import normalize
from services.types import Condition, Query


def signature(query: Query) -> str:
    """32 hex digits of a digest of normalised text, filters (in any order) and sort; facets, limit and offset may
    differ between pages."""
    filters = sorted(repr(_ordered(condition)) for condition in query.filters)
    canonical = "\x1f".join([normalize(query.text), *filters, repr(query.sort)])
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _ordered(condition: Condition) -> Condition:
    if condition.any_of is None:
        return condition
    return replace(condition, any_of=tuple(sorted(condition.any_of, key=repr)))
