"""Completions from past queries and titles."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence

import pytest

from services.backends.base import IndexQuery, IndexResult, MemoryChange
from services.completion.suggest import Autocomplete
from services.text import normalize
from services.types import Deadline, Document, Person, Remembered, Schema


class Titles:
    """A lexical index that knows titles alone."""

    def __init__(self, titles: Sequence[tuple[str, float]]) -> None:
        self._titles = titles

    async def titles(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        found = [(text, prior) for text, prior in self._titles if normalize(text).startswith(prefix)]
        return sorted(found, key=lambda entry: -entry[1])[:limit]

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        return IndexResult((), 0)

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None: ...

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None: ...

    async def close(self) -> None: ...


class PastQueries:
    """A memory index that knows past queries alone."""

    def __init__(self, queries: Sequence[tuple[str, float]]) -> None:
        self._queries = queries

    async def popular_queries(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        found = [(text, asked) for text, asked in self._queries if text.startswith(prefix)]
        return sorted(found, key=lambda entry: -entry[1])[:limit]

    async def remembered(self, key: str, limit: int, deadline: Deadline) -> list[Remembered]:
        return []

    async def person(self, person: str, limit: int, deadline: Deadline) -> Person:
        return Person()

    async def apply(self, changes: Sequence[MemoryChange], offset: int) -> None: ...

    async def offset(self) -> int:
        return 0

    async def predict(self, predictions: Mapping[str, Sequence[tuple[str, float]]]) -> None: ...

    async def forget_items(self, object_ids: Sequence[str]) -> None: ...

    async def close(self) -> None: ...


class BrokenQueries(PastQueries):
    async def popular_queries(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        raise OSError("disk gone")


class SlowTitles(Titles):
    async def titles(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        await asyncio.sleep(0.5)
        return [("thread", 9.0)]


TITLES = Titles([("Toy Story", 90.0), ("Toy Story 3", 70.0), ("Amélie", 40.0), ("Toys", 5.0)])
QUERIES = PastQueries([("toy story 3", 400.0), ("toy soldiers", 30.0), ("thriller", 20.0)])


async def suggest(
    autocomplete: Autocomplete, prefix: str, limit: int = 5, seconds: float = 1.0
) -> list[tuple[str, float]]:
    return await autocomplete.suggest(prefix, limit, Deadline.after(seconds))


async def test_what_both_sources_know_comes_first_and_once_in_the_spelling_of_the_title() -> None:
    found = await suggest(Autocomplete(TITLES, QUERIES), "toy")
    assert [text for text, _ in found] == ["Toy Story 3", "Toy Story", "toy soldiers", "Toys"]


async def test_scores_are_finite_and_descending_whatever_the_sources_say() -> None:
    wild = PastQueries([("toy a", math.inf), ("toy b", math.nan), ("toy c", -3.0), ("toy d", 1e300), ("...", 5.0)])
    found = await suggest(Autocomplete(TITLES, wild), "", limit=50)
    scores = [score for _, score in found]
    assert all(math.isfinite(score) and 0.0 <= score <= 1.0 for score in scores)
    assert scores == sorted(scores, reverse=True)
    assert {"toy a", "toy b", "toy c", "toy d"} <= {text for text, _ in found}
    assert dict(found)["toy a"] == dict(found)["toy b"] == 0.0
    assert "..." not in {text for text, _ in found}


async def test_an_empty_prefix_gives_the_most_popular() -> None:
    found = await suggest(Autocomplete(TITLES, QUERIES), "  ", limit=2)
    assert [text for text, _ in found] == ["Toy Story 3", "Toy Story"]


async def test_the_prefix_is_compared_in_normal_form() -> None:
    assert (await suggest(Autocomplete(TITLES, QUERIES), "  TOY   S", limit=1))[0][0] == "Toy Story 3"


async def test_the_limit_holds() -> None:
    assert len(await suggest(Autocomplete(TITLES, QUERIES), "t", limit=3)) == 3


@pytest.mark.parametrize("seconds", [0.05, 0.0])
async def test_a_source_that_is_late_is_left_out(seconds: float) -> None:
    found = await suggest(Autocomplete(SlowTitles([]), QUERIES), "thr", seconds=seconds)
    assert [text for text, _ in found] in (["thriller"], [])
    assert seconds == 0.0 or found


async def test_a_source_that_fails_is_left_out() -> None:
    assert [text for text, _ in await suggest(Autocomplete(TITLES, BrokenQueries([])), "toys")] == ["Toys"]


async def test_no_source_no_suggestions() -> None:
    assert await suggest(Autocomplete(Titles([]), BrokenQueries([])), "toy") == []
