"""An IndexQuery as OpenSearch query DSL. User text only ever becomes the value of a term; no query language is parsed.

It means what tantivy/query.py makes of it, with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from services.backends.base import ANY_KEYWORD, Constraint, IndexQuery, SlotMatch, TextMatch
from services.backends.lexical_rules import (
    EXACT,
    EXACT_BOOST,
    GRAM_BOOST,
    GRAM_SHARE,
    GRAMS,
    ID,
    MAX_GRAMS,
    MAX_START_CHARS,
    MAX_SUBSETS,
    MAX_WORDS,
    NAMES,
    NEWNESS,
    PAIR_BOOST,
    PAIRS,
    PRIOR,
    PRIOR_WEIGHT,
    QUALITY_WEIGHT,
    SHOWN,
    STARTS,
    SUBSET_DECAY,
    TITLE,
    TITLE_BOOST,
    WORDS,
    clean,
    pairs,
    stem,
    term,
    trigrams,
)
from services.backends.opensearch.layout import (
    K1,
    Layout,
    cut,
    gram,
)
from services.text import normalize, tokenize
from services.types import Alternative, Condition

Query = dict[str, Any]

BM25_SCALE = K1 + 1.0
"""Lucene leaves this constant factor out of BM25; it matters where words and slots are added up."""
MAX_LOOKUPS = 160
"""Tokens searched for; further spellings are left out. Each takes up to three of the 1,024 clauses that the engine
allows."""
MAX_COUNTED_VALUES = 1000
"""Number of values counted for a facet, so that equal counts can be ordered by value."""

EVERYTHING: Query = {"match_all": {}}
NOTHING: Query = {"match_none": {}}


class Translator:
    """Makes query DSL for an index of `layout`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def search(self, query: IndexQuery) -> dict[str, Any]:
        """Body of the search request: the hits' ids alone, with what they are ordered by in `sort`."""
        body: dict[str, Any] = {
            "query": self._weighted(query),
            "from": query.offset,
            "size": query.limit,
            "sort": self._order(query),
            "_source": False,
            "track_total_hits": True,
        }
        facets = {}
        for i, name in enumerate(query.facets):
            place = self._layout.keywords.get(name) or self._layout.numbers.get(name)
            if place is not None:
                facets[f"f{i}"] = {"terms": {"field": place, "size": MAX_COUNTED_VALUES}}
        return body | ({"aggs": facets} if facets else {})

    def titles(self, key: str, limit: int) -> dict[str, Any]:
        """Body of the search request for titles with a word sequence that starts with `key`, most popular first."""
        return {
            "query": _exactly(STARTS, key[:MAX_START_CHARS]),
            "size": limit,
            "sort": [{PRIOR: {"order": "desc"}}, {ID: {"order": "asc"}}],
            "_source": [SHOWN],
            "track_total_hits": False,
        }

    def query(self, query: IndexQuery) -> Query:
        """Everything that matches `query`; filters add nothing to the score."""
        parts = []
        if query.text is not None:
            parts.append(self.text(query.text))
        if query.slots is not None:
            parts.append(self.slots(query.slots))
        wanted = _any(parts) if parts else EVERYTHING
        if not query.filters:
            return wanted
        return {"bool": {"must": [wanted], "filter": [self.condition(c) for c in query.filters]}}

    def text(self, match: TextMatch) -> Query:
        """Items with at least one of the words; with `ngrams_match` also those with a title much like the query."""
        parts = self._words(tuple(dict.fromkeys(match.words[:MAX_WORDS])))
        likeliest = [alternatives[0].text for alternatives in match.words[:MAX_WORDS] if alternatives]
        named = dict.fromkeys(pairs(cut(tokenize(" ".join(likeliest))[:MAX_LOOKUPS])))
        parts += [_found(PAIRS, pair, PAIR_BOOST) for pair in named]
        grams = trigrams(match.raw)[:MAX_GRAMS] if match.ngram_weight > 0 else []
        if not grams:
            return _boosted(_any(parts), BM25_SCALE)
        evidence = [_found(GRAMS, gram(text)) for text in grams]
        boost = GRAM_BOOST * match.ngram_weight
        if match.ngrams_match:
            need = math.ceil(GRAM_SHARE * len(grams))
            similar = {"bool": {"should": evidence, "minimum_should_match": need, "boost": boost}}
            return _boosted(_any([*parts, similar]), BM25_SCALE)
        similar = {"bool": {"should": evidence, "boost": boost}}
        return {"bool": {"must": [_any(parts)], "should": [similar], "boost": BM25_SCALE}}

    def slots(self, match: SlotMatch) -> Query:
        """Items that meet at least `need` constraints, scored as in tantivy/query.py."""
        groups: dict[object, list[tuple[Query, float]]] = {}
        for place, constraint in enumerate(match.constraints):
            group = place if constraint.group is None else f"group {constraint.group}"
            groups.setdefault(group, []).append((self._constraint(constraint), constraint.weight))
        need = max(1, match.need)
        if need > len(groups):
            return NOTHING
        if math.prod(len(readings) + 1 for readings in groups.values()) > MAX_SUBSETS:
            best = [_best([_constant(query, weight) for query, weight in readings]) for readings in groups.values()]
            return {"bool": {"should": best, "minimum_should_match": need}}
        subsets = []
        for choice in product(*([None, *readings] for readings in groups.values())):
            met = [reading for reading in choice if reading is not None]
            if len(met) >= need:
                subsets.append((round(sum(weight for _, weight in met), 6), [query for query, _ in met]))
        weights = sorted({weight for weight, _ in subsets}, reverse=True)
        score = {weight: weights[0] * SUBSET_DECAY**place for place, weight in enumerate(weights)}
        return _best([_constant(_all(queries), score[weight]) for weight, queries in subsets])

    def condition(self, condition: Condition) -> Query:
        """Items that meet one filter; none when the field cannot be filtered."""
        place = self._layout.keywords.get(condition.field)
        if place is not None:
            return {"terms": {place: [term(clean(str(value))) for value in condition.any_of or ()]}}
        place = self._layout.numbers.get(condition.field)
        if place is None:
            return NOTHING
        if condition.any_of is not None:
            return _any([_range(place, gte=float(value), lte=float(value)) for value in condition.any_of])
        return _range(place, condition.gte, condition.gt, condition.lte, condition.lt)

    def _weighted(self, query: IndexQuery) -> Query:
        """Matches of words (and slots) are weighted by the prior of items, those of slots alone by their quality."""
        matching = self.query(query)
        if query.sort is not None or (query.text is None and query.slots is None):
            return matching
        weight = QUALITY_WEIGHT if query.text is None else PRIOR_WEIGHT
        factor = {"field": weight, "missing": 1.0}
        return {"function_score": {"query": matching, "field_value_factor": factor, "boost_mode": "multiply"}}

    def _order(self, query: IndexQuery) -> list[Query]:
        if query.sort is not None:
            first = self._layout.orders.get(query.sort.field, ID)
            descending = query.sort.descending
        elif query.text is None and query.slots is None:
            # By the field itself where there is one: the prior is a blend, and equal for the most popular.
            popular = self._layout.orders.get(self._layout.schema.popularity or "", PRIOR)
            first, descending = NEWNESS if query.newest else popular, True
        else:
            return [{"_score": {"order": "desc"}}, {ID: {"order": "asc"}}]
        return [{first: {"order": "desc" if descending else "asc", "missing": "_last"}}, {ID: {"order": "asc"}}]

    def _constraint(self, constraint: Constraint) -> Query:
        if constraint.value is not None:
            place = NAMES if constraint.field == ANY_KEYWORD else self._layout.names.get(constraint.field)
            return NOTHING if place is None else _exactly(place, term(normalize(clean(constraint.value))))
        place = self._layout.numbers.get(constraint.field)
        if place is None or (constraint.low is None and constraint.high is None):
            return NOTHING
        return _range(place, gte=constraint.low, lte=constraint.high)

    def _words(self, words: Sequence[tuple[Alternative, ...]]) -> list[Query]:
        """For each word the best of its spellings, each by its weight beside the likeliest one."""
        found = []
        left = MAX_LOOKUPS
        for alternatives in words:
            top = max((a.weight for a in alternatives), default=1.0)
            spellings = []
            for alternative in alternatives:
                tokens = tokenize(alternative.text)
                if tokens and alternative.weight > 0 and len(tokens) <= left:
                    left -= len(tokens)
                    spelled = _all([self._token(token) for token in cut(tokens)])
                    spellings.append(_boosted(spelled, alternative.weight / top))
            found.append(_best(spellings))
        return found

    def _token(self, token: str) -> Query:
        stemmed = stem(token)
        return _any([_found(WORDS, stemmed), _found(TITLE, stemmed, TITLE_BOOST), _found(EXACT, token, EXACT_BOOST)])


def _found(place: str, value: str, boost: float = 1.0) -> Query:
    return {"term": {place: {"value": value, "boost": boost}}}


def _exactly(place: str, value: str) -> Query:
    return _found(place, value)


def _constant(query: Query, score: float) -> Query:
    return {"constant_score": {"filter": query, "boost": score}}


def _boosted(query: Query, boost: float) -> Query:
    if query is NOTHING or boost == 1.0:
        return query
    return {"bool": {"must": [query], "boost": boost}}


def _any(queries: Sequence[Query]) -> Query:
    queries = [query for query in queries if query is not NOTHING]
    if len(queries) == 1:
        return queries[0]
    return {"bool": {"should": queries, "minimum_should_match": 1}} if queries else NOTHING


def _all(queries: Sequence[Query]) -> Query:
    return queries[0] if len(queries) == 1 else {"bool": {"must": list(queries)}}


def _best(queries: Sequence[Query]) -> Query:
    if len(queries) == 1:
        return queries[0]
    return {"dis_max": {"queries": list(queries)}} if queries else NOTHING


def _range(
    place: str, gte: float | None = None, gt: float | None = None, lte: float | None = None, lt: float | None = None
) -> Query:
    """Items with one value within all the bounds (a range has one bound a side: the tighter one)."""
    lows = [(bound, open_) for bound, open_ in ((gte, False), (gt, True)) if bound is not None]
    highs = [(bound, closed) for bound, closed in ((lte, True), (lt, False)) if bound is not None]
    if not lows and not highs:
        return {"exists": {"field": place}}
    bounds: dict[str, float] = {}
    if lows:
        low, open_ = max(lows)
        bounds["gt" if open_ else "gte"] = low + 0.0  # no -0.0: for the engine it differs from 0.0
    if highs:
        high, closed = min(highs)
        bounds["lte" if closed else "lt"] = high + 0.0
    # JSON has no infinity, and what it has instead would mean no bound at all.
    return {"range": {place: bounds}} if all(map(math.isfinite, bounds.values())) else NOTHING
