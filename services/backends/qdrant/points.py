"""Representation of an item in Qdrant, embedded or remote: the point's id, its payload, and filters on it.

payload  id         the object id
         f<hex>     values of a filterable field, its name in hexadecimal: texts, or numbers (dates as Unix seconds)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from services.schema.filters import FILTERABLE
from services.schema.values import values
from services.types import Candidate, Condition, Document, Field, Filters, Role, Schema

Point = tuple[Document, Sequence[float]]

ID = "id"
EXTRA_NEIGHBOURS = 8
"""Neighbours requested beyond the limit at first, in case ties cross it."""
INDEXED_BYTES = 40_000_000
"""Vectors of more bytes than this get an HNSW graph (20,000 of 512 dimensions; reading them one by one takes 2 ms)."""
M, EF_CONSTRUCT = 16, 100
"""Parameters of the HNSW graph: links per node, and neighbours examined when a node is added."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number; None: unbounded on that side."""

    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


@dataclass(frozen=True, slots=True)
class Clause:
    """Payload values under `key` that are one of `texts` or lie within one of `ranges`; one of the two is empty."""

    key: str
    texts: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()


def filterable(schema: Schema) -> dict[str, Field]:
    """Name -> field, of those that filters may use."""
    return {field.name: field for field in schema.of(*FILTERABLE)}


def point_id(object_id: str) -> str:
    """The engine's id of an item: a UUID (version 5) of its object id."""
    return str(uuid5(NAMESPACE_URL, object_id))


def key(field: Field) -> str:
    """Payload key of a field: any name is possible in a catalogue, but not in the engine's path language."""
    return "f" + field.name.encode("utf-8", "surrogatepass").hex()


def payload(document: Document, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The payload that the engine stores beside an item's vector."""
    held: dict[str, Any] = {ID: document["id"]}
    for field in fields.values():
        held[key(field)] = [_clean(value) if isinstance(value, str) else value for value in values(document, field)]
    return held


def clauses(filters: Filters, fields: Mapping[str, Field]) -> list[Clause] | None:
    """services.schema.filters.matches for the engine: clauses that an item must all meet; None when no item can."""
    found = [_clause(condition, fields) for condition in filters]
    wanted = [clause for clause in found if clause is not None]
    return wanted if len(wanted) == len(found) else None


def checked(vector: Sequence[float], size: int) -> list[float]:
    """The vector as a list. Raises ValueError for a vector of another size."""
    if len(vector) != size:
        raise ValueError(f"a vector of {size} numbers is wanted, not {len(vector)}")
    return list(map(float, vector))


def more(found: Sequence[Any], requested: int, limit: int) -> bool:
    """Whether ties may cross the edge of what was found for `requested` neighbours: object ids decide which of them
    come first, not the engine's order."""
    return len(found) >= requested and bool(found[-1].score >= found[limit - 1].score)


def ranked(found: Sequence[Any], limit: int, name: Callable[[Any], str]) -> list[Candidate]:
    """The best of the engine's scored points, ties by object id."""
    candidates = [Candidate(name(point), point.score) for point in found]
    candidates.sort(key=lambda candidate: (-candidate.score, candidate.object_id))
    return candidates[:limit]


def _clause(condition: Condition, fields: Mapping[str, Field]) -> Clause | None:
    field = fields.get(condition.field)
    if field is None:
        return None
    if condition.any_of is None:
        if field.role is Role.KEYWORD:
            return None
        return Clause(key(field), ranges=(Range(condition.gte, condition.gt, condition.lte, condition.lt),))
    if field.role is Role.KEYWORD:
        texts = tuple(_clean(value) for value in condition.any_of if isinstance(value, str))
        return Clause(key(field), texts=texts) if texts else None
    numbers = [float(value) for value in condition.any_of if not isinstance(value, str)]
    return Clause(key(field), ranges=tuple(Range(gte=n, lte=n) for n in numbers)) if numbers else None


def _clean(text: str) -> str:
    """JSON may hold half of a surrogate pair, the engine's text may not."""
    return text.encode("utf-8", "backslashreplace").decode()
