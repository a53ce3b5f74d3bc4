"""Who visits a demo: what they search for next, and which of the hits they click. By the judged queries of a data set;
without any, they search for titles and click the item that they named."""

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
"""Queries of this split are asked; of all, where there is none of it."""
QUERIES_A_SLICE = 40
"""Queries of each slice that visitors ask: few enough for each to be asked again within a minute or two."""
TITLES = 100
"""Titles that are asked for where nothing is judged."""
WANTED = 2.0
"""Grade of the item that was named."""
BEHAVIOUR = SearchBehaviour(repeat_probability=0.2)


@dataclass(frozen=True, slots=True)
class People:
    """Visitors of one catalogue."""

    searches: Iterator[Search]
    """Without end."""
    judge: Judge
    """Knows what they click."""


def people(dataset: Dataset, title: str | None, seed: int) -> People:
    """Visitors of the catalogue of `dataset`, whose items have their name in the field `title`. The same seed gives the
    same visitors. Raises InvalidRequest when there is nothing to search for."""
    judge = _judge(dataset, seed)
    if judge is not None:
        judged = [query for query in dataset.queries() if judge.has_relevant(query.query_id)]
        asked = [query for query in judged if query.split == SPLIT] or judged
        if asked:
            return _people(_favourites(asked), judge, seed)
    named = list(_titles(dataset.documents(), title))
    every = max(1, len(named) // TITLES)
    asked = named[::every][:TITLES]
    wanted = {query.query_id: {query.query_id: WANTED} for query in asked}
    return _people(asked, Judge(wanted, PositionBased(), seed), seed)


def _judge(dataset: Dataset, seed: int) -> Judge | None:
    """None for a data set without queries, or without anything said of what answers them."""
    if not dataset.has(QUERIES):
        return None
    try:
        return Judge.from_dataset(dataset, PositionBased(), seed)
    except InvalidRequest:
        return None


def _people(asked: Sequence[DatasetQuery], judge: Judge, seed: int) -> People:
    return People(Traffic(asked, seed, traffic_mix(asked), BEHAVIOUR).since(), judge)


def _favourites(queries: Iterable[DatasetQuery]) -> list[DatasetQuery]:
    """The QUERIES_A_SLICE queries of each slice that are asked most, in the order of the data set where equal."""
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
