"""Contract of every vector index; the reference is a plain loop over services.schema.filters.matches and cosines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.backends.base import VectorIndex
from services.schema.filters import matches
from services.types import Candidate, Condition, Deadline, Document, Field, Filters, Role, Schema

SIZE = 8
SCHEMA = Schema(
    fields=(
        Field("title", Role.TEXT),
        Field("genres", Role.KEYWORD),
        Field("sold out", Role.KEYWORD),
        Field('odd "name"[].x', Role.KEYWORD),
        Field("year", Role.NUMBER),
        Field("released", Role.DATE),
        Field("popularity", Role.POPULARITY),
        Field("shelf", Role.STORED),
    ),
    title="title",
)
FILTERS: tuple[Filters, ...] = (
    (),
    (Condition("genres", any_of=("Drama",)),),
    (Condition("genres", any_of=("drama",)),),
    (Condition("genres", any_of=("Drama", "Sci & Fi")),),
    (Condition("genres", any_of=("half \ud800",)),),
    (Condition("genres", any_of=()),),
    (Condition("genres", any_of=(3,)),),
    (Condition("genres", gte=0.0),),
    (Condition("sold out", any_of=("true",)),),
    (Condition('odd "name"[].x', any_of=("7",)),),
    (Condition("year", any_of=(1990.0,)),),
    (Condition("year", any_of=(1990.0, 2001.5)),),
    (Condition("year", any_of=("1990",)),),
    (Condition("year", gte=1990.0, lt=2001.5),),
    (Condition("year", gt=1990.0, lte=2001.5),),
    (Condition("released", gte=1262304000.0),),
    (Condition("released", any_of=(1262304000.0,)),),
    (Condition("popularity", lt=0.5),),
    (Condition("genres", any_of=("Drama",)), Condition("year", gt=1990.0)),
    (Condition("genres", any_of=("Drama",)), Condition("genres", any_of=("Horror",))),
    (Condition("title", any_of=("Item 1",)),),
    (Condition("shelf", any_of=("a",)),),
    (Condition("nowhere", any_of=("a",)),),
)


def items(number: int = 120, size: int = SIZE, seed: int = 5) -> list[tuple[Document, list[float]]]:
    """Items with every kind of value, several and none; some share a vector."""
    rng = np.random.default_rng(seed)
    points: list[tuple[Document, list[float]]] = []
    for i in range(number):
        document: dict[str, Any] = {"id": f"i{i}", "title": f"Item {i}", "shelf": "a"}
        genres = [genre for genre in ("Drama", "Horror", "Sci & Fi", "drama", "half \ud800") if rng.random() < 0.4]
        if genres:
            document["genres"] = genres[0] if len(genres) == 1 else genres
        document["sold out"] = bool(rng.random() < 0.5)
        document['odd "name"[].x'] = int(rng.integers(6, 9))
        if rng.random() < 0.8:
            document["year"] = [1990, 2001.5] if rng.random() < 0.2 else int(rng.integers(1988, 1993))
        document["released"] = str(rng.choice(["2010-01-01", "2009-12-31", "2010", "unknown"]))
        document["popularity"] = float(rng.random())
        vector = points[i - 1][1] if i % 10 == 9 else rng.normal(size=size).tolist()
        points.append((document, vector))
    return points


def expected(
    points: Sequence[tuple[Document, Sequence[float]]], vector: Sequence[float], filters: Filters, limit: int
) -> list[str]:
    def unit(v: Sequence[float]) -> np.ndarray:
        return np.asarray(v, np.float32) / np.float32(np.linalg.norm(v))

    scored = [
        (-round(float(unit(v) @ unit(vector)), 5), d["id"]) for d, v in points if matches(filters, d, SCHEMA) and any(v)
    ]
    return [object_id for _, object_id in sorted(scored)][:limit]


def ids(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.object_id for candidate in candidates]


class VectorIndexContract:
    def make(self, path: Path, schema: Schema, size: int) -> VectorIndex:
        raise NotImplementedError

    @asynccontextmanager
    async def filled(self, path: Path) -> AsyncIterator[VectorIndex]:
        index = self.make(path, SCHEMA, SIZE)
        try:
            await index.rebuild(SCHEMA, SIZE, items())
            yield index
        finally:
            await index.close()

    async def test_nearest_under_filters_is_what_a_plain_loop_finds(self, tmp_path: Path) -> None:
        async with self.filled(tmp_path) as index:
            for filters in FILTERS:
                for vector in (items()[3][1], [0.5] * SIZE):
                    found = await index.nearest(vector, filters, 30, Deadline.after(5))
                    assert ids(found) == expected(items(), vector, filters, 30), filters
                    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)

    async def test_ties_come_by_object_id_whatever_the_limit(self, tmp_path: Path) -> None:
        points = [({"id": f"{i:02}"}, [1.0] * SIZE) for i in range(40)]
        index = self.make(tmp_path, SCHEMA, SIZE)
        await index.rebuild(SCHEMA, SIZE, reversed(points))
        for limit in (1, 7, 40):
            found = await index.nearest([1.0] * SIZE, (), limit, Deadline.after(5))
            assert ids(found) == [f"{i:02}" for i in range(limit)]
        await index.close()

    async def test_writes_are_seen_at_once_and_may_be_repeated(self, tmp_path: Path) -> None:
        async with self.filled(tmp_path) as index:
            vector = [9.0, *[0.0] * (SIZE - 1)]
            for _ in range(2):
                await index.apply([({"id": "new", "genres": "Drama"}, vector)], [])
                found = await index.nearest(vector, (Condition("genres", any_of=("Drama",)),), 5, Deadline.after(5))
                assert ids(found)[0] == "new"
                assert found[0].score == pytest.approx(1.0, abs=1e-5)
            # Replaced as a whole: the vector and what it is filtered by.
            await index.apply([({"id": "new", "genres": "Horror"}, [-x for x in vector])], [])
            drama = await index.nearest(vector, (Condition("genres", any_of=("Drama",)),), 200, Deadline.after(5))
            assert "new" not in ids(drama)
            everything = await index.nearest(vector, (), 200, Deadline.after(5))
            assert ids(everything)[-1] == "new"
            for _ in range(2):
                await index.apply([], ["new", "never there"])
                assert "new" not in ids(await index.nearest(vector, (), 200, Deadline.after(5)))

    async def test_stored_vectors_come_back_of_unit_length(self, tmp_path: Path) -> None:
        async with self.filled(tmp_path) as index:
            found = await index.vectors(["i3", "nobody", "i3"], Deadline.after(5))
            assert list(found) == ["i3"]
            vector = np.asarray(items()[3][1])
            np.testing.assert_allclose(found["i3"], vector / np.linalg.norm(vector), atol=1e-6)
            assert await index.vectors([], Deadline.after(5)) == {}

    async def test_a_zero_vector_is_no_vector(self, tmp_path: Path) -> None:
        async with self.filled(tmp_path) as index:
            await index.apply([(items()[3][0], [0.0] * SIZE)], [])
            assert await index.vectors(["i3"], Deadline.after(5)) == {}
            assert await index.nearest([0.0] * SIZE, (), 5, Deadline.after(5)) == []

    async def test_a_vector_of_another_size_is_refused(self, tmp_path: Path) -> None:
        async with self.filled(tmp_path) as index:
            with pytest.raises(ValueError, match="8 numbers"):
                await index.nearest([1.0], (), 5, Deadline.after(5))
            with pytest.raises(ValueError, match="8 numbers"):
                await index.apply([({"id": "x"}, [1.0])], [])

    async def test_no_work_after_the_deadline(self, tmp_path: Path) -> None:
        async with self.filled(tmp_path) as index:
            with pytest.raises(TimeoutError):
                await index.nearest([1.0] * SIZE, (), 5, Deadline.after(0))
            with pytest.raises(TimeoutError):
                await index.vectors(["i1"], Deadline.after(0))

    async def test_a_rebuild_changes_size_and_schema_under_running_searches(self, tmp_path: Path) -> None:
        async with self.filled(tmp_path) as index:
            schema = Schema(fields=(*SCHEMA.fields, Field("colour", Role.KEYWORD)))
            fresh = [({"id": "only", "colour": "red"}, [1.0] * 3)]
            rebuilding = asyncio.ensure_future(index.rebuild(schema, 3, fresh))
            while not rebuilding.done():
                try:
                    assert len(await index.nearest([1.0] * SIZE, (), 5, Deadline.after(5))) == 5
                except ValueError:
                    assert rebuilding.done()
            await rebuilding
            red = (Condition("colour", any_of=("red",)),)
            assert ids(await index.nearest([1.0] * 3, red, 5, Deadline.after(5))) == ["only"]
            await index.apply([({"id": "other"}, [1.0, 0.0, 0.0])], [])
            assert len(await index.nearest([1.0] * 3, (), 5, Deadline.after(5))) == 2

    async def test_a_rebuild_that_fails_leaves_the_old_index(self, tmp_path: Path) -> None:
        def broken() -> Any:
            yield from items()[:5]
            raise ValueError("no more")

        async with self.filled(tmp_path) as index:
            with pytest.raises(ValueError, match="no more"):
                await index.rebuild(SCHEMA, SIZE, broken())
            assert len(await index.nearest([1.0] * SIZE, (), 200, Deadline.after(5))) == len(items())

    async def test_a_rebuild_that_is_given_up_leaves_the_old_index(self, tmp_path: Path) -> None:
        def endless() -> Iterator[tuple[Document, list[float]]]:
            number = 0
            while True:
                yield {"id": f"{number}"}, [1.0] * 3
                number += 1

        async with self.filled(tmp_path) as index:
            rebuilding = asyncio.ensure_future(index.rebuild(SCHEMA, 3, endless()))
            await asyncio.sleep(0.05)
            rebuilding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await rebuilding
            await index.apply([({"id": "new"}, [1.0] * SIZE)], [])
            assert len(await index.nearest([1.0] * SIZE, (), 200, Deadline.after(5))) == len(items()) + 1

    async def test_writes_during_a_rebuild_reach_the_new_index(self, tmp_path: Path) -> None:
        async with self.filled(tmp_path) as index:
            rebuilding = asyncio.ensure_future(index.rebuild(SCHEMA, SIZE, items()[:50]))
            again = asyncio.ensure_future(index.rebuild(SCHEMA, SIZE, items()[:40]))
            await asyncio.sleep(0)
            await index.apply([({"id": "new"}, [1.0] * SIZE)], ["i1"])
            await asyncio.gather(rebuilding, again)
            found = ids(await index.nearest([1.0] * SIZE, (), 200, Deadline.after(5)))
            assert set(found) == {"new", *(f"i{i}" for i in range(40) if i != 1)}
