"""Reading one state of the tantivy index: hits in one exact order, totals, facets, completions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tantivy import DocAddress, Occur, Order, Query, Searcher, SearchResult

from services.backends.base import IndexQuery, IndexResult
from services.backends.lexical_rules import (
    DIGEST_PREFIX,
    ID,
    MAX_FACET_VALUES,
    MAX_START_CHARS,
    NEWNESS,
    PRIOR,
    PRIOR_WEIGHT,
    QUALITY_WEIGHT,
    SHOWN,
    STARTS,
    prefix_key,
    starts_with,
)
from services.backends.tantivy.layout import Layout
from services.backends.tantivy.query import Translator
from services.types import Candidate, Deadline, FacetCount, Role, Scalar

MAX_COUNTED_VALUES = 1000
"""Number of values counted for a facet, so that equal counts can be ordered by value."""
MAX_TIES = 10_000
"""Hits of equal score that are ordered by id; beyond these, the engine's own order remains."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Hit:
    key: Any
    """Score, or value of the field sorted by (None: it has none)."""
    object_id: str
    address: DocAddress


class Reading:
    """One request's view: everything it reads comes from the same state. Raises TimeoutError between its steps."""

    def __init__(self, searcher: Searcher, layout: Layout, deadline: Deadline) -> None:
        self._searcher = searcher
        self._layout = layout
        self._translator = Translator(layout)
        self._deadline = deadline

    def search(self, query: IndexQuery) -> IndexResult:
        """One page of hits with the total and facets. Raises TimeoutError."""
        matching = self._translator.query(query)
        last = query.offset + query.limit
        if query.sort is not None:
            place = self._layout.orders.get(query.sort.field)
            order = Order.Desc if query.sort.descending else Order.Asc
            hits, total = self._ordered(matching, last, place or ID, order)
            scored = [Candidate(hit.object_id, -float(i)) for i, hit in enumerate(hits)]
        elif query.text is None and query.slots is None:
            # By the field itself where there is one: the prior is a blend, and equal for the most popular.
            popular = self._layout.orders.get(self._layout.schema.popularity or "", PRIOR)
            hits, total = self._ordered(matching, last, NEWNESS if query.newest else popular, Order.Desc)
            scored = [Candidate(hit.object_id, -float(i)) for i, hit in enumerate(hits)]
        else:
            hits, total = self._scored(matching, last, QUALITY_WEIGHT if query.text is None else PRIOR_WEIGHT)
            scored = [Candidate(hit.object_id, hit.key) for hit in hits]
        return IndexResult(tuple(scored[query.offset : last]), total, self._facets(matching, query.facets))

    def titles(self, prefix: str, limit: int) -> list[tuple[str, float]]:
        """Titles of which a word sequence begins with `prefix`, each once, most popular first."""
        key = prefix_key(prefix)
        if not key or limit <= 0:
            return []
        query = self._translator.exactly(STARTS, key[:MAX_START_CHARS])
        found: dict[str, float] = {}
        hits, _ = self._ordered(query, 3 * limit, PRIOR, Order.Desc)
        for hit in hits:
            title = self._shown(hit)
            if title not in found and (len(key) <= MAX_START_CHARS or starts_with(title, key)):
                found[title] = float(hit.key)
        return list(found.items())[:limit]

    def _check(self) -> None:
        if self._deadline.remaining() <= 0:
            raise TimeoutError

    def _ids(self, pairs: list[tuple[Any, DocAddress]]) -> list[_Hit]:
        return [_Hit(key, self._searcher.doc(address)[ID][0], address) for key, address in pairs]

    def _shown(self, hit: _Hit) -> str:
        return bytes(self._searcher.doc(hit.address)[SHOWN][0]).decode()

    def _scored(self, query: Query, last: int, weight: str) -> tuple[list[_Hit], int]:
        """The `last` best hits, equal scores by id, and how many there are."""
        self._check()
        depth = last + 1
        found = self._searcher.search(query, depth, weight_by_field=weight)
        total, hits = _total(found), found.hits
        while len(hits) == depth > last and hits[-1][0] == hits[last - 1][0] and depth < MAX_TIES:
            self._check()
            depth = min(4 * depth, MAX_TIES)
            hits = self._searcher.search(query, depth, count=False, weight_by_field=weight).hits
        # Beyond the last place only those that tie with it matter.
        kept = [hit for i, hit in enumerate(hits) if i < last or hit[0] == hits[last - 1][0]]
        return sorted(self._ids(kept), key=lambda hit: (-hit.key, hit.object_id))[:last], total

    def _ordered(self, query: Query, last: int, place: str, order: Order) -> tuple[list[_Hit], int]:
        """The `last` first hits by the fast field `place`, those without a value at the end, equal values by id."""
        self._check()
        found = self._searcher.search(query, last + 1, order_by_field=place, order=order)
        hits = found.hits
        if len(hits) <= last or hits[last][0] != hits[last - 1][0]:
            return list(_by_id(self._ids(hits[:last]))), _total(found)
        tied = hits[last - 1][0]
        clear = list(_by_id(self._ids([hit for hit in hits if hit[0] != tied])))
        narrowed = Query.boolean_query([(Occur.Must, query), self._translator.holding(place, tied)])
        rest = self._searcher.search(narrowed, last - len(clear), count=False, order_by_field=ID, order=Order.Asc)
        return clear + [_Hit(tied, object_id, address) for object_id, address in rest.hits], _total(found)

    def _facets(self, query: Query, names: tuple[str, ...]) -> dict[str, tuple[FacetCount, ...]]:
        counted = {}
        for name in names:
            self._check()
            place = self._layout.keywords.get(name) or self._layout.numbers.get(name)
            counted[name] = self._facet(query, name, place) if place else ()
        return counted

    def _facet(self, query: Query, name: str, place: str) -> tuple[FacetCount, ...]:
        request = {"values": {"terms": {"field": place, "size": MAX_COUNTED_VALUES}}}
        buckets = self._searcher.aggregate(query, request)["values"]["buckets"]
        field = self._layout.schema.get(name)
        is_date = field is not None and field.role is Role.DATE
        counts = [
            FacetCount(_value(bucket["key"], is_date), bucket["doc_count"])
            for bucket in buckets
            if not str(bucket["key"]).startswith(DIGEST_PREFIX)
        ]
        counts.sort(key=lambda c: (-c.count, c.value if isinstance(c.value, str) else "", c.value))
        return tuple(counts[:MAX_FACET_VALUES])


def _total(found: SearchResult) -> int:
    return int(found.count)  # type: ignore[attr-defined]


def _by_id(hits: list[_Hit]) -> Iterator[_Hit]:
    """Runs of equal keys put into the order of ids."""
    run: list[_Hit] = []
    for hit in hits:
        if run and run[-1].key != hit.key:
            yield from sorted(run, key=lambda h: h.object_id)
            run = []
        run.append(hit)
    yield from sorted(run, key=lambda h: h.object_id)


def _value(key: Any, is_date: bool) -> Scalar:
    """A facet value as a filter takes it: whole numbers without a fraction, dates in ISO 8601."""
    if isinstance(key, str):
        return key
    if is_date:
        moment = _EPOCH + timedelta(seconds=float(key))
        midnight = (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
        return moment.date().isoformat() if midnight else moment.isoformat()
    return int(key) if float(key).is_integer() else float(key)
