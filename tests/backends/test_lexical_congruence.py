"""The two lexical indexes side by side on a real catalogue: what the one finds, the other finds too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest

from services.arms.matching import index_query
from services.backends.base import IndexQuery, IndexResult, LexicalIndex
from services.backends.opensearch.index import OpenSearchIndex
from services.backends.tantivy.index import TantivyIndex
from services.datasets.folder import Dataset
from services.evaluation.measures import ndcg
from services.schema.schema import infer
from services.types import Condition, Deadline, Filters, Query, Sort
from services.understanding.pipeline import Understander
from tests.servers.opensearch import shared_node

MOST_DIFFERENCE = 0.01
"""Largest difference of mean NDCG@10."""
MOST_ROUNDING = 1e-3
"""Relative difference of scores: the engines take different counts of items for statistics of words."""
TOGETHER = 8
"""Queries under way at once."""
JUDGED, SAMPLE = 4, 100
"""Every so many'th test query is measured, and is asked under filters and sorted."""
FACETS = ("genres", "year", "director", "rating")
FILTERS: tuple[Filters, ...] = (
    (Condition("genres", any_of=("Drama", "Comedy")),),
    (Condition("year", gte=1990.0, lt=2010.0), Condition("rating", gt=6.5)),
)
ORDERS = (Sort("year"), Sort("rating", True), Sort("director"), Sort("genres", True))


@dataclass
class Both:
    runner: asyncio.Runner
    films: Dataset
    understander: Understander
    embedded: LexicalIndex
    remote: LexicalIndex

    def asked(self, text: str, limit: int = 10, filters: Filters = (), sort: Sort | None = None) -> IndexQuery:
        query = Query(text, filters, FACETS, sort, limit=limit)
        return index_query(query, self.understander.understand(text))

    def answers(self, queries: Sequence[IndexQuery]) -> list[tuple[IndexResult, IndexResult]]:
        """(embedded, remote) each."""
        return list(zip(self._of(self.embedded, queries), self._of(self.remote, queries), strict=True))

    def _of(self, index: LexicalIndex, queries: Sequence[IndexQuery]) -> list[IndexResult]:
        found: dict[int, IndexResult] = {}

        async def some(first: int) -> None:
            for i in range(first, len(queries), TOGETHER):
                found[i] = await index.search(queries[i], Deadline.after(30.0))

        async def all_of_them() -> None:
            await asyncio.gather(*(some(first) for first in range(TOGETHER)))

        self.runner.run(all_of_them())
        return [found[i] for i in range(len(queries))]


@pytest.fixture(scope="module")
def both(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    films = Dataset.open(shared / "data" / "msrd")
    documents = list(films.documents())
    schema = infer(documents)
    understander = Understander(schema)
    understander.add(documents)
    with asyncio.Runner() as runner:
        embedded = TantivyIndex(tmp_path_factory.mktemp("films"), schema)
        remote = OpenSearchIndex(shared_node().url, "films", schema)
        for index in (embedded, remote):
            start = time.perf_counter()
            runner.run(index.rebuild(schema, documents))
            print(f"\n{type(index).__name__}: {len(documents)} items in {time.perf_counter() - start:.1f} s", end="")
        yield Both(runner, films, understander, embedded, remote)
        runner.run(embedded.close())
        runner.run(remote.close())


def test_judged_queries_are_answered_alike(both: Both) -> None:
    judgments = both.films.judgments()
    queries = [query for query in both.films.queries("test") if any(judgments.get(query.query_id, {}).values())]
    queries = queries[::JUDGED]
    assert len(queries) > 500
    answers = both.answers([both.asked(query.text) for query in queries])
    gained = [
        [measured(result, judgments[query.query_id]) for query, result in zip(queries, results, strict=True)]
        for results in zip(*answers, strict=True)
    ]
    means = [fmean(values) for values in gained]
    same = sum(ids(one) == ids(other) for one, other in answers)
    totals = sum(one.total == other.total for one, other in answers)
    facets = sum(one.facets == other.facets for one, other in answers)
    rounding = max(map(difference, answers))
    print(
        f"\nNDCG@10 of {len(queries)} test queries: embedded {means[0]:.4f}, OpenSearch {means[1]:.4f}; the same ten "
        f"hits in the same order for {same}, equal totals for {totals}, equal facets for {facets}; "
        f"scores differ by at most {rounding:.1e}"
    )
    assert abs(means[0] - means[1]) <= MOST_DIFFERENCE
    assert totals == facets == len(queries)
    assert same >= 0.99 * len(queries)
    assert rounding <= MOST_ROUNDING


def test_filters_and_orders_are_alike(both: Both) -> None:
    texts = ["", *(query.text for query in list(both.films.queries("test"))[::SAMPLE])]
    asked = [both.asked(text, 30, filters) for text in texts for filters in FILTERS]
    asked += [both.asked(text, 30, FILTERS[1], sort) for text in texts for sort in ORDERS]
    for query, (one, other) in zip(asked, both.answers(asked), strict=True):
        assert (one.total, one.facets) == (other.total, other.facets), query
        if query.sort is not None:
            assert one.candidates == other.candidates, query
        else:
            assert difference((one, other)) <= MOST_ROUNDING, query


@pytest.mark.parametrize(
    "prefix", ["the", "star w", "harry potter and the ", "am", "2001", "lord of the rings the return", "zzz", "l"]
)
def test_completions_are_alike(both: Both, prefix: str) -> None:
    one, other = (
        both.runner.run(index.titles(prefix, 8, Deadline.after(30.0))) for index in (both.embedded, both.remote)
    )
    assert [title for title, _ in one] == [title for title, _ in other]
    assert [prior for _, prior in one] == pytest.approx([prior for _, prior in other])


def ids(result: IndexResult) -> list[str]:
    return [candidate.object_id for candidate in result.candidates]


def difference(answers: tuple[IndexResult, IndexResult]) -> float:
    """Differences of the scores, rank by rank, relative to the larger one."""
    one, other = ([candidate.score for candidate in result.candidates] for result in answers)
    assert len(one) == len(other)
    return max((abs(a - b) / max(abs(a), abs(b), 1e-9) for a, b in zip(one, other, strict=True)), default=0.0)


def measured(result: IndexResult, grades: dict[str, float]) -> float:
    found = ids(result)
    scores = [-float(place) for place in range(len(found))]
    return ndcg([grades.get(i, 0.0) for i in found], scores, found, ideal_grades=grades.values())
