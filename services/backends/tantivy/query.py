"""An IndexQuery as a tantivy query. User text only ever becomes the value of a term; no query language is parsed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

from tantivy import FieldType, Occur, Query

from services.backends.base import ANY_KEYWORD, Constraint, IndexQuery, SlotMatch, TextMatch
from services.backends.lexical_rules import (
    EXACT,
    EXACT_BOOST,
    GRAM_BOOST,
    GRAM_SHARE,
    GRAMS,
    MAX_GRAMS,
    MAX_SUBSETS,
    MAX_WORDS,
    NAMES,
    PAIR_BOOST,
    PAIRS,
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
from services.backends.tantivy.layout import Layout
from services.text import normalize, tokenize
from services.types import Alternative, Condition


class Translator:
    """Makes tantivy queries for an index of `layout`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def query(self, query: IndexQuery) -> Query:
        """Everything that matches `query`; filters add nothing to the score."""
        parts = []
        if query.text is not None:
            parts.append(self.text(query.text))
        if query.slots is not None:
            parts.append(self.slots(query.slots))
        wanted = _any(parts) if parts else Query.all_query()
        if not query.filters:
            return wanted
        filters = [(Occur.Must, Query.const_score_query(self.condition(c), 0.0)) for c in query.filters]
        return Query.boolean_query([(Occur.Must, wanted), *filters])

    def text(self, match: TextMatch) -> Query:
        """Items with at least one of the words; with `ngrams_match` also those with a title much like the query."""
        parts = [self._word(alternatives) for alternatives in dict.fromkeys(match.words[:MAX_WORDS])]
        likeliest = [alternatives[0].text for alternatives in match.words[:MAX_WORDS] if alternatives]
        named = dict.fromkeys(pairs(tokenize(" ".join(likeliest))))
        parts += [Query.boost_query(self._term(PAIRS, pair, "freq"), PAIR_BOOST) for pair in named]
        grams = trigrams(match.raw)[:MAX_GRAMS] if match.ngram_weight > 0 else []
        if not grams:
            return _any(parts)
        evidence = [(Occur.Should, self._term(GRAMS, gram, "freq")) for gram in grams]
        boost = GRAM_BOOST * match.ngram_weight
        if match.ngrams_match:
            need = math.ceil(GRAM_SHARE * len(grams))
            similar = Query.boolean_query(evidence, minimum_number_should_match=need)
            return _any([*parts, Query.boost_query(similar, boost)])
        similar = Query.boolean_query(evidence)
        return Query.boolean_query([(Occur.Must, _any(parts)), (Occur.Should, Query.boost_query(similar, boost))])

    def slots(self, match: SlotMatch) -> Query:
        """Items that meet at least `need` constraints. The score is the total weight for all of them, and for
        each lighter subset SUBSET_DECAY times that of the next heavier one: quality never lifts an item over one that
        meets more."""
        groups: dict[object, list[tuple[Query, float]]] = {}
        for place, constraint in enumerate(match.constraints):
            group = place if constraint.group is None else f"group {constraint.group}"
            groups.setdefault(group, []).append((self._constraint(constraint), constraint.weight))
        need = max(1, match.need)
        if need > len(groups):
            return Query.empty_query()
        if math.prod(len(readings) + 1 for readings in groups.values()) > MAX_SUBSETS:
            best = [
                Query.disjunction_max_query([Query.const_score_query(query, weight) for query, weight in readings])
                for readings in groups.values()
            ]
            return Query.boolean_query([(Occur.Should, query) for query in best], minimum_number_should_match=need)
        subsets = []
        for choice in product(*([None, *readings] for readings in groups.values())):
            met = [reading for reading in choice if reading is not None]
            if len(met) >= need:
                subsets.append((round(sum(weight for _, weight in met), 6), [query for query, _ in met]))
        weights = sorted({weight for weight, _ in subsets}, reverse=True)
        score = {weight: weights[0] * SUBSET_DECAY**place for place, weight in enumerate(weights)}
        return Query.disjunction_max_query(
            [Query.const_score_query(_all(queries), score[weight]) for weight, queries in subsets]
        )

    def condition(self, condition: Condition) -> Query:
        """Items that meet one filter; none when the field cannot be filtered."""
        layout = self._layout
        place = layout.keywords.get(condition.field)
        if place is not None:
            held = [term(clean(str(value))) for value in condition.any_of or ()]
            return Query.term_set_query(layout.engine, place, held) if held else Query.empty_query()
        place = layout.numbers.get(condition.field)
        if place is None:
            return Query.empty_query()
        if condition.any_of is not None:
            return _any([self._range(place, float(value), float(value)) for value in condition.any_of])
        low, open_low = _tighter(condition.gte, condition.gt, max)
        high, open_high = _tighter(condition.lte, condition.lt, min)
        return self._range(place, low, high, not open_low, not open_high)

    def exactly(self, place: str, value: str) -> Query:
        """Items with this whole value in the text field `place`."""
        return self._term(place, value, "basic")

    def holding(self, place: str, value: float | str | None) -> tuple[Occur, Query]:
        """Clause for items whose single value of the fast field `place` is `value`; None: that have none."""
        if value is None:
            return Occur.MustNot, Query.exists_query(place)
        found = self.exactly(place, value) if isinstance(value, str) else self._range(place, value, value)
        return Occur.Must, found

    def _range(
        self, place: str, low: float | None, high: float | None, with_low: bool = True, with_high: bool = True
    ) -> Query:
        if low is not None and high is not None and (low > high or (low == high and not (with_low and with_high))):
            return Query.empty_query()
        if low is None and high is None:
            return Query.exists_query(place)
        low, high = _plain(low), _plain(high)
        return Query.range_query(self._layout.engine, place, FieldType.Float, low, high, with_low, with_high)

    def _constraint(self, constraint: Constraint) -> Query:
        if constraint.value is not None:
            place = NAMES if constraint.field == ANY_KEYWORD else self._layout.names.get(constraint.field)
            if place is None:
                return Query.empty_query()
            return self._term(place, term(normalize(clean(constraint.value))), "basic")
        place = self._layout.numbers.get(constraint.field)
        if place is None or (constraint.low is None and constraint.high is None):
            return Query.empty_query()
        return self._range(place, constraint.low, constraint.high)

    def _word(self, alternatives: tuple[Alternative, ...]) -> Query:
        """The best of a word's spellings, each by its weight beside the likeliest one."""
        top = max((a.weight for a in alternatives), default=1.0)
        found = []
        for alternative in alternatives:
            tokens = tokenize(alternative.text)
            if tokens and alternative.weight > 0:
                spelled = _all([self._token(token) for token in tokens])
                found.append(Query.boost_query(spelled, alternative.weight / top))
        return Query.disjunction_max_query(found) if found else Query.empty_query()

    def _token(self, token: str) -> Query:
        stemmed = stem(token)
        return _any(
            [
                self._term(WORDS, stemmed, "freq"),
                Query.boost_query(self._term(TITLE, stemmed, "freq"), TITLE_BOOST),
                Query.boost_query(self._term(EXACT, token, "freq"), EXACT_BOOST),
            ]
        )

    def _term(self, place: str, value: str, option: str) -> Query:
        return Query.term_query(self._layout.engine, place, value, option)


def _any(queries: Sequence[Query]) -> Query:
    if len(queries) == 1:
        return queries[0]
    return Query.boolean_query([(Occur.Should, query) for query in queries]) if queries else Query.empty_query()


def _all(queries: Sequence[Query]) -> Query:
    if len(queries) == 1:
        return queries[0]
    return Query.boolean_query([(Occur.Must, query) for query in queries])


def _tighter(
    closed: float | None, open_: float | None, pick: Callable[[float, float], float]
) -> tuple[float | None, bool]:
    """The bound that holds when both an inclusive and an exclusive one are given, and whether it excludes itself."""
    if open_ is None:
        return closed, False
    if closed is None:
        return open_, True
    bound = pick(closed, open_)
    return bound, bound == open_


def _plain(bound: float | None) -> float | None:
    """A bound without the sign of zero: -0.0 would be another term."""
    return None if bound is None else bound + 0.0
