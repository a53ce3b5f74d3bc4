"""What makes two requests the same search: later pages must carry it unchanged. Pure."""

from __future__ import annotations

import hashlib

from services.text import normalize
from services.types import Query


def signature(query: Query) -> str:
    """Digest of normalised text, filters (in any order) and sort; facets, limit and offset may differ between pages."""
    filters = sorted(repr(condition) for condition in query.filters)
    canonical = "\x1f".join([normalize(query.text), *filters, repr(query.sort)])
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]
