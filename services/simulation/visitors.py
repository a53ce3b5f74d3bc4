"""Simulated visitors of a demo: their searches and clicks. They follow the judged queries of a data set; without any,
they search for titles and click the item with that title."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.datasets.folder import QUERIES, Dataset, DatasetQuery
from services.errors import InvalidRequest
from services.simulation.click_models import PositionBased
from services.simulation.judge import Judge
from services.simulation.traffic import Search, SearchBehaviour, Traffic, traffic_mix
from services.types import Document

SPLIT = "train"
"""Visitors use queries of this split, or of all splits where it has none."""
QUERIES_A_SLICE = 40
"""Number of queries of each slice that visitors use: few enough for each to recur within a minute or two."""
TITLES = 100
"""Number of titles that visitors search for where nothing is judged."""
WANTED = 2.0
"""Grade of the item with the title searched for."""
BEHAVIOUR = SearchBehaviour(repeat_probability=0.2)


@dataclass(frozen=True, slots=True)
class VisitorTraffic:
    """Searches and clicks of the visitors of one catalogue."""

    searches: Iterator[Search]
    """An endless sequence of searches."""
    judge: Judge
    """Decides which hits they click."""


def visitor_traffic(dataset: Dataset, title: str | None, seed: int) -> VisitorTraffic:
    """Visitors of the catalogue of `dataset`, whose items have their name in the field `title`. The same seed gives the
    same searches and clicks. Raises InvalidRequest when there is nothing to search for."""
    judge = _judge(dataset, seed)
    if judge is not None:
        judged = [query for query in dataset.queries() if judge.has_relevant(query.query_id)]
        queries = [query for query in judged if query.split == SPLIT] or judged
        if queries:
            return _traffic(_most_frequent(queries), judge, seed)
    named = list(_titles(dataset.documents(), title))
    every = max(1, len(named) // TITLES)
    queries = named[::every][:TITLES]
    wanted = {query.query_id: {query.query_id: WANTED} for query in queries}
    return _traffic(queries, Judge(wanted, PositionBased(), seed), seed)


def _judge(dataset: Dataset, seed: int) -> Judge | None:
    """A judge with the data set's grades; None when it has no queries or no judgements."""
    if not dataset.has(QUERIES):
        return None
    try:
        return Judge.from_dataset(dataset, PositionBased(), seed)
    except InvalidRequest:
        return None


def _traffic(queries: Sequence[DatasetQuery], judge: Judge, seed: int) -> VisitorTraffic:
    return VisitorTraffic(Traffic(queries, seed, traffic_mix(queries), BEHAVIOUR).since(), judge)


def _most_frequent(queries: Iterable[DatasetQuery]) -> list[DatasetQuery]:
    """The QUERIES_A_SLICE most frequent queries of each slice, ties in the order of the data set."""
    slices: dict[str, list[DatasetQuery]] = {}
    for query in queries:
        slices.setdefault(query.slice, []).append(query)
    return [
        query
        for members in slices.values()
        for query in sorted(members, key=lambda query: -query.weight)[:QUERIES_A_SLICE]
    ]


def _titles(documents: Iterable[Document], title: str | None) -> Iterator[DatasetQuery]:
    for document in documents:
        named = document.get(title or "")
        if isinstance(named, str) and named.strip():
            yield DatasetQuery(document["id"], SPLIT, named.strip())
