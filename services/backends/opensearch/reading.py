"""Parses and validates OpenSearch's responses. Nothing in a response is trusted: an unexpected form raises
StorageFailed, and an incomplete response is a failure. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from services.backends.base import IndexQuery, IndexResult
from services.backends.lexical_rules import DIGEST_PREFIX, MAX_FACET_VALUES, MAX_START_CHARS, SHOWN, starts_with
from services.backends.opensearch.layout import ITEM, Layout
from services.errors import StorageFailed
from services.types import Candidate, Document, FacetCount, Role, Scalar

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Garbage(StorageFailed):
    """An answer that does not have the expected form."""

    def __init__(self, where: str) -> None:
        super().__init__(f"OpenSearch answered with something else than {where}")


class Incomplete(Exception):
    """Some shards did not answer."""


def result(query: IndexQuery, layout: Layout, answer: Any) -> IndexResult:
    """The result in a search response. Raises TimeoutError when the engine ran out of time, Incomplete, Garbage."""
    hits = _hits(answer)
    if query.sort is None and (query.text is not None or query.slots is not None):
        candidates = tuple(Candidate(_id(hit), _key(hit)) for hit in hits)
    else:
        candidates = tuple(Candidate(_id(hit), -float(query.offset + i)) for i, hit in enumerate(hits))
    if len(candidates) > query.limit or len({c.object_id for c in candidates}) < len(candidates):
        raise Garbage("a list of hits")
    facets = {name: _facet(f"f{i}", name, layout, answer) for i, name in enumerate(query.facets)}
    return IndexResult(candidates, _total(answer, len(candidates)), facets)


def titles(key: str, limit: int, answer: Any) -> list[tuple[str, float]]:
    """Titles of which a word sequence begins with `key`, each once, in the order of the hits."""
    found: dict[str, float] = {}
    for hit in _hits(answer):
        source = hit.get("_source")
        title = source.get(SHOWN) if isinstance(source, dict) else None
        if not isinstance(title, str):
            raise Garbage("titles")
        if title not in found and (len(key) <= MAX_START_CHARS or starts_with(title, key)):
            found[title] = _key(hit)
    return list(found.items())[:limit]


def documents(answer: Any) -> dict[str, Document]:
    """The items of a multi-get that were there, by id."""
    entries = answer.get("docs") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        raise Garbage("items")
    found: dict[str, Document] = {}
    for entry in entries:
        if not isinstance(entry, dict) or "error" in entry:
            raise Garbage("items")
        if entry.get("found"):
            source = entry.get("_source")
            item = source.get(ITEM) if isinstance(source, dict) else None
            if not isinstance(item, dict) or "id" not in item:
                raise Garbage("items")
            found[_id(entry)] = item
    return found


def written(answer: Any, wanted: int) -> None:
    """Raises StorageFailed unless every one of the `wanted` writes of a bulk request was done; deleting a missing item
    counts as done."""
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list) or len(items) != wanted:
        raise Garbage("the outcome of writes")
    failed = sum(not _done(item) for item in items)
    if failed:
        raise StorageFailed(f"OpenSearch did not take {failed} of {wanted} writes")


def built_from(answer: Any) -> tuple[str | None, Mapping[str, Any] | None]:
    """(fingerprint, schema) of the index whose mappings these are; None where it has none."""
    if not isinstance(answer, dict) or len(answer) != 1:
        return None, None
    (index,) = answer.values()
    meta = index.get("mappings", {}).get("_meta") if isinstance(index, dict) else None
    if not isinstance(meta, dict):
        return None, None
    schema = meta.get("schema")
    return meta.get("fingerprint"), schema if isinstance(schema, dict) else None


def _done(item: Any) -> bool:
    if not isinstance(item, dict) or len(item) != 1:
        return False
    ((action, outcome),) = item.items()
    if not isinstance(outcome, dict) or "error" in outcome:
        return False
    status = outcome.get("status")
    return status in (200, 201) or (action == "delete" and status == 404)


def _hits(answer: Any) -> list[dict[str, Any]]:
    if not isinstance(answer, dict):
        raise Garbage("hits")
    if answer.get("timed_out") is True:
        raise TimeoutError
    shards = answer.get("_shards")
    if not isinstance(shards, dict) or shards.get("failed") != 0:
        raise Incomplete
    outer = answer.get("hits")
    hits = outer.get("hits") if isinstance(outer, dict) else None
    if not isinstance(hits, list) or not all(isinstance(hit, dict) for hit in hits):
        raise Garbage("hits")
    return hits


def _total(answer: Any, shown: int) -> int:
    total = answer["hits"].get("total")
    value = total.get("value") if isinstance(total, dict) and total.get("relation") == "eq" else None
    if not isinstance(value, int) or isinstance(value, bool) or value < shown:
        raise Garbage("a total")
    return value


def _id(hit: Mapping[str, Any]) -> str:
    object_id = hit.get("_id")
    if not isinstance(object_id, str) or not object_id:
        raise Garbage("ids")
    return object_id


def _key(hit: Mapping[str, Any]) -> float:
    """The first sort key of a hit; finite, as strict JSON has no other numbers."""
    order = hit.get("sort")
    key = order[0] if isinstance(order, list) and order else None
    if isinstance(key, bool) or not isinstance(key, (int, float)):
        raise Garbage("scores")
    return float(key)


def _facet(part: str, name: str, layout: Layout, answer: Any) -> tuple[FacetCount, ...]:
    if name not in layout.keywords and name not in layout.numbers:
        return ()
    counted = answer.get("aggregations")
    values = counted.get(part) if isinstance(counted, dict) else None
    buckets = values.get("buckets") if isinstance(values, dict) else None
    if not isinstance(buckets, list):
        raise Garbage("counts")
    field = layout.schema.get(name)
    is_date = field is not None and field.role is Role.DATE
    counts = []
    for bucket in buckets:
        key, count = (bucket.get("key"), bucket.get("doc_count")) if isinstance(bucket, dict) else (None, None)
        if not isinstance(count, int) or not isinstance(key, str if name in layout.keywords else (int, float)):
            raise Garbage("counts")
        if not str(key).startswith(DIGEST_PREFIX):
            counts.append(FacetCount(_value(key, is_date), count))
    counts.sort(key=lambda c: (-c.count, c.value if isinstance(c.value, str) else "", c.value))
    return tuple(counts[:MAX_FACET_VALUES])


def _value(key: str | float, is_date: bool) -> Scalar:
    """A facet value as a filter takes it: whole numbers without a fraction, dates in ISO 8601."""
    if isinstance(key, str):
        return key
    if is_date:
        moment = _EPOCH + timedelta(seconds=float(key))
        midnight = (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
        return moment.date().isoformat() if midnight else moment.isoformat()
    return int(key) if float(key).is_integer() else float(key)
