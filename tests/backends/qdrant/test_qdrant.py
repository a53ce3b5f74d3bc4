"""The vector index on a Qdrant server: the contract and its own promises, over real sockets, against a stand-in that
searches with the embedded engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from services.backends.base import VectorIndex
from services.backends.qdrant import index as qdrant
from services.backends.qdrant.edge import QdrantEdgeIndex
from services.backends.qdrant.index import OutOfStep, QdrantIndex
from services.backends.qdrant.points import INDEXED_BYTES, clauses, filterable, payload, point_id
from services.backends.qdrant.requests import Quantization, restriction, search_params
from services.backends.qdrant.server import QdrantServer
from services.errors import StorageFailed, Unavailable
from services.schema.filters import matches
from services.types import Condition, Deadline, Field, Filters, Role, Schema
from tests.backends.qdrant.parts import ONES, collections, eventually, filled, in_force, namespaces, serving
from tests.contracts.vector_index import FILTERS, SCHEMA, SIZE, VectorIndexContract, expected, ids, items
from tests.servers.qdrant import QdrantStub

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def stub() -> Iterator[QdrantStub]:
    with QdrantStub() as server:
        yield server


class OwnServer(QdrantIndex):
    async def close(self) -> None:
        await super().close()
        await self._server.close()


class TestQdrantIndex(VectorIndexContract):
    @pytest.fixture(autouse=True)
    def _stub(self, stub: QdrantStub) -> None:
        self.stub = stub

    def make(self, path: Path, schema: Schema, size: int) -> VectorIndex:
        return OwnServer(QdrantServer(self.stub.url), next(namespaces), "text", schema, size, "v1")


# --- the same answers as the embedded engine and the client's own ---------------------------------------------------


def random_filters(rng: np.random.Generator) -> Filters:
    choices: list[Condition] = [
        Condition("genres", any_of=tuple(rng.choice(["Drama", "Horror", "Sci & Fi", "drama"], 2))),
        Condition("sold out", any_of=(str(rng.choice(["true", "false"])),)),
        Condition('odd "name"[].x', any_of=(str(rng.integers(6, 9)),)),
        Condition("year", any_of=tuple(float(year) for year in rng.integers(1988, 1993, 2))),
        Condition("year", gte=float(rng.integers(1988, 1991)), lt=2001.5),
        Condition("popularity", gt=float(rng.random())),
        Condition("released", gte=1262304000.0),
    ]
    return tuple(choices[place] for place in rng.permutation(len(choices))[: rng.integers(0, 3)])


async def test_answers_are_those_of_the_embedded_engine_and_of_the_local_client(
    stub: QdrantStub, tmp_path: Path
) -> None:
    points = items(200)
    points += [({**document, "id": f"twin-{document['id']}"}, vector) for document, vector in points[::7]]
    fields = filterable(SCHEMA)
    local = QdrantClient(":memory:")
    local.create_collection("all", {"v": models.VectorParams(size=SIZE, distance=models.Distance.COSINE)})
    held = [
        models.PointStruct(id=point_id(document["id"]), vector={"v": vector}, payload=payload(document, fields))
        for document, vector in points
    ]
    local.upsert("all", held)
    rng = np.random.default_rng(11)
    edge = QdrantEdgeIndex.open(tmp_path, SCHEMA, SIZE)
    await edge.rebuild(SCHEMA, SIZE, points)
    async with filled(stub) as index:
        await index.rebuild(SCHEMA, SIZE, points)
        for case in range(210):
            filters = random_filters(rng)
            vector = points[rng.integers(len(points))][1] if case % 3 == 0 else rng.normal(size=SIZE).tolist()
            limit = int(rng.choice([1, 2, 5, 20, 500]))
            found = await index.nearest(vector, filters, limit, Deadline.after(5))
            embedded = await edge.nearest(vector, filters, limit, Deadline.after(5))
            matching = {document["id"] for document, _ in points if matches(filters, document, SCHEMA)}
            assert len(found) == min(limit, len(matching)), (case, filters)
            assert set(ids(found)) <= matching, (case, filters)
            assert ids(found) == ids(embedded), (case, filters)
            assert found == sorted(found, key=lambda candidate: (-candidate.score, candidate.object_id))
            scores = [candidate.score for candidate in found]
            assert scores == pytest.approx([candidate.score for candidate in embedded], abs=1e-5)
            under = restriction(clauses(filters, fields) or [])
            near = local.query_points("all", vector, using="v", query_filter=under, limit=len(points)).points
            theirs = {str(point.payload and point.payload["id"]): point.score for point in near}
            assert [theirs[c.object_id] for c in found] == pytest.approx(scores, abs=1e-5), (case, filters)
            assert scores == pytest.approx(sorted(theirs.values(), reverse=True)[:limit], abs=1e-5)
    await edge.close()
    local.close()


def test_few_points_are_searched_exactly_and_many_by_the_graph() -> None:
    some = INDEXED_BYTES // 4 // 512
    assert search_params(some, 512, "binary").exact is True
    assert not search_params(some + 1, 512, "none").exact
    assert not search_params(None, 512, "none").exact
    rescored = search_params(some + 1, 512, "scalar").quantization
    assert rescored is not None
    assert (rescored.rescore, rescored.oversampling) == (True, 2.0)


@pytest.mark.parametrize("quantization", ["scalar", "binary"])
async def test_a_quantized_index_is_another_one_but_finds_the_same(
    stub: QdrantStub, quantization: Quantization
) -> None:
    async with filled(stub) as plain:
        small = QdrantIndex(plain._server, plain._alias[:-5], "text", SCHEMA, SIZE, "v1", quantization)
        assert await small.stale()
        await small.rebuild(SCHEMA, SIZE, items())
        assert not await small.stale()
        assert await plain.stale()
        for count in (None, len(items())):
            small._set_count(count)
            found = await small.nearest([0.5] * SIZE, FILTERS[1], 30, Deadline.after(5))
            assert ids(found) == expected(items(), [0.5] * SIZE, FILTERS[1], 30)
        await small.close()


# --- what the server holds, and for whom ------------------------------------------------------------------------------


async def test_stale_tells_whatever_another_index_must_be_built_for(stub: QdrantStub) -> None:
    async with filled(stub) as index:

        def asked(schema: Schema = SCHEMA, size: int = SIZE, version: str = "v1") -> Awaitable[bool]:
            namespace = index._alias.removesuffix("-text")
            return QdrantIndex(index._server, namespace, "text", schema, size, version).stale()

        assert not await asked()
        assert await asked(version="v2")
        assert await asked(size=3)
        assert await asked(schema=Schema(fields=(*SCHEMA.fields, Field("colour", Role.KEYWORD))))
        assert await asked(schema=Schema(fields=SCHEMA.fields[:-2]))
        assert not await asked(schema=Schema(fields=(*SCHEMA.fields, Field("notes", Role.TEXT))))
        assert await QdrantIndex(index._server, "nobody", "text", SCHEMA, SIZE, "v1").stale()


async def test_without_an_index_every_call_says_so(stub: QdrantStub) -> None:
    async with serving(stub) as server:
        index = QdrantIndex(server, "nobody", "text", SCHEMA, SIZE, "v1")
        for _ in range(20):  # the engine is well: its circuit stays closed
            with pytest.raises(OutOfStep, match="no such index"):
                await index.nearest(ONES, (), 5, Deadline.after(5))
        with pytest.raises(OutOfStep, match="no such index"):
            await index.vectors(["i1"], Deadline.after(5))
        with pytest.raises(OutOfStep, match="no such index"):
            await index.apply(items()[:1], [])
        await index.rebuild(SCHEMA, SIZE, items())
        assert len(await index.nearest(ONES, (), 5, Deadline.after(5))) == 5


async def test_another_encoder_never_meets_the_wrong_vectors(stub: QdrantStub, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = [(document, vector[::-1]) for document, vector in items()]
    async with filled(stub) as mine, serving(stub) as server:
        theirs = QdrantIndex(server, mine._alias.removesuffix("-text"), "text", SCHEMA, SIZE, "v1")
        before = await mine.nearest([*ONES[1:], 3.0], (), 30, Deadline.after(5))
        await theirs.rebuild(SCHEMA, SIZE, turned, version="v2: another")
        # Mine has the encoder of before, and is answered by its vectors; theirs by the new ones.
        assert await mine.nearest([*ONES[1:], 3.0], (), 30, Deadline.after(5)) == before
        assert (await mine.vectors(["i3"], Deadline.after(5)))["i3"] == pytest.approx(
            (await theirs.vectors(["i3"], Deadline.after(5)))["i3"][::-1]
        )
        found = await theirs.nearest([3.0, *ONES[1:]], (), 30, Deadline.after(5))
        assert ids(found) == ids(before)
        assert await mine.stale()
        assert not await theirs.stale()
        with pytest.raises(OutOfStep, match="not of this encoder"):
            await mine.apply(items()[:1], [])
        # Until the former vectors are gone.
        monkeypatch.setattr(qdrant, "PREVIOUS_SECONDS", 0.0)
        await theirs._retire(next(iter(await collections(stub, mine) - {await in_force(stub, theirs)})))
        for _ in range(20):
            with pytest.raises(OutOfStep, match="not of this encoder") as raised:
                await mine.nearest(ONES, (), 5, Deadline.after(5))
        assert raised.value.reason == "unavailable"
        with pytest.raises(OutOfStep, match="not of this encoder"):
            await mine.vectors(["i3"], Deadline.after(5))
        mine.adopt(SCHEMA, SIZE, "v2: another")
        assert not await mine.stale()
        assert await mine.nearest([3.0, *ONES[1:]], (), 30, Deadline.after(5)) == found
        await mine.apply([({"id": "new"}, ONES)], [])
        assert ids(await theirs.nearest(ONES, (), 1, Deadline.after(5))) == ["new"]
        await theirs.close()


async def test_the_encoder_of_before_is_served_through_any_number_of_rebuilds(stub: QdrantStub) -> None:
    turned = [(document, vector[::-1]) for document, vector in items()]
    async with filled(stub) as mine, serving(stub) as server:
        theirs = QdrantIndex(server, mine._alias.removesuffix("-text"), "text", SCHEMA, SIZE, "v1")
        before = await mine.nearest(ONES, (), 30, Deadline.after(5))
        await theirs.rebuild(SCHEMA, SIZE, turned, version="v2")
        for _ in range(3):
            await theirs.rebuild(SCHEMA, SIZE, turned)
            assert await mine.nearest(ONES, (), 30, Deadline.after(5)) == before
            assert len(await collections(stub, mine)) == 3  # theirs, the one it took the place of, and mine
        await theirs.rebuild(SCHEMA, SIZE, items(), version="v3")
        with pytest.raises(OutOfStep, match="not of this encoder"):
            await mine.nearest(ONES, (), 30, Deadline.after(5))
        await theirs.close()


# --- rebuilding -------------------------------------------------------------------------------------------------------


async def test_the_former_vectors_go_after_a_while(stub: QdrantStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "PREVIOUS_SECONDS", 0.0)
    async with filled(stub) as index:
        await index.rebuild(SCHEMA, SIZE, items())
        await asyncio.gather(*index._background)
        assert await collections(stub, index) == {await in_force(stub, index)}


async def test_searches_during_rebuilds_see_one_index_or_the_other(stub: QdrantStub) -> None:
    async with filled(stub) as index, serving(stub) as server:
        reader = QdrantIndex(server, index._alias.removesuffix("-text"), "text", SCHEMA, SIZE, "v1")
        seen: set[str] = set()
        ended = asyncio.Event()

        async def search() -> None:
            while not ended.is_set():
                found = await reader.nearest(ONES, (), 300, Deadline.after(5))
                stored = await reader.vectors(["same"], Deadline.after(5))
                generations = {candidate.object_id.split("-")[0] for candidate in found} - {"same"}
                assert len(generations) == 1, generations
                assert len(found) == 100
                assert list(stored) == ["same"]
                seen.update(generations)

        def generation(number: int) -> list[Any]:
            return [({"id": f"{number}-{i}"}, ONES) for i in range(99)] + [({"id": "same"}, ONES)]

        await index.rebuild(SCHEMA, SIZE, generation(0))
        searching = [asyncio.ensure_future(search()) for _ in range(4)]
        for number in range(1, 8):
            await index.rebuild(SCHEMA, SIZE, generation(number))
        ended.set()
        await asyncio.gather(*searching)
        assert len(seen) >= 4


KILLED = """
import asyncio, os, sys
from services.backends.qdrant.index import QdrantIndex
from services.backends.qdrant.server import QdrantServer
from tests.contracts.vector_index import SCHEMA, SIZE
from services.backends.qdrant import requests as qdrant_requests
qdrant_requests.BATCH_NUMBERS = 40 * SIZE

def points():
    for i in range(200):
        yield {"id": f"x{i}"}, [1.0] * SIZE
    os._exit(9)

async def run():
    index = QdrantIndex(QdrantServer(sys.argv[1]), sys.argv[2], "text", SCHEMA, SIZE, "v2")
    await index.rebuild(SCHEMA, SIZE, points())
asyncio.run(run())
"""


async def test_a_killed_rebuild_leaves_the_old_index_and_is_cleared_away(stub: QdrantStub) -> None:
    async with filled(stub) as index:
        before = await in_force(stub, index)
        command = [sys.executable, "-c", KILLED, stub.url, index._alias.removesuffix("-text")]
        done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 9, done.stderr
        assert len(await collections(stub, index)) == 2
        assert await in_force(stub, index) == before
        assert not await index.stale()
        assert len(await index.nearest(ONES, (), 200, Deadline.after(5))) == len(items())
        await index.rebuild(SCHEMA, SIZE, items()[:50])
        assert await collections(stub, index) == {before, await in_force(stub, index)}
        assert len(await index.nearest(ONES, (), 200, Deadline.after(5))) == 50


async def test_a_switch_whose_end_is_unknown_removes_nothing(stub: QdrantStub, monkeypatch: pytest.MonkeyPatch) -> None:
    async with filled(stub) as index:
        before = await in_force(stub, index)
        monkeypatch.setattr(qdrant, "SWITCH_SECONDS", 0.1)
        with stub.fault("slow", "collections/aliases", 0.3), pytest.raises(StorageFailed):
            await index.rebuild(SCHEMA, SIZE, items()[:50])
        # The server does it, though nobody waits.
        async with asyncio.timeout(20):
            while await in_force(stub, index) == before:  # noqa: ASYNC110 - the server is another process
                await asyncio.sleep(0.01)
        assert len(await collections(stub, index)) == 2
        assert len(await index.nearest(ONES, (), 200, Deadline.after(5))) == 50
        monkeypatch.undo()
        await index.rebuild(SCHEMA, SIZE, items())
        assert len(await index.nearest(ONES, (), 200, Deadline.after(5))) == len(items())


async def test_a_rebuild_given_up_at_the_switch_takes_no_write_with_it(stub: QdrantStub) -> None:
    async with filled(stub) as index:
        with stub.fault("slow", "collections/aliases", 0.2):
            rebuilding = asyncio.ensure_future(index.rebuild(SCHEMA, SIZE, items()[:50]))
            await asyncio.to_thread(eventually, lambda: stub.calls("collections/aliases"))
            rebuilding.cancel()
            await index.apply([({"id": "new"}, ONES)], [])
            with pytest.raises(asyncio.CancelledError):
                await rebuilding
        assert ids(await index.nearest(ONES, (), 1, Deadline.after(5))) == ["new"]


async def test_what_was_applied_survives_a_crash_of_the_server(stub: QdrantStub) -> None:
    async with filled(stub) as index:
        await index.apply([({"id": "last"}, ONES)], ["i0"])
        stub.kill()
        with pytest.raises(Unavailable):
            await index.nearest(ONES, (), 5, Deadline.after(1))
        with pytest.raises(Unavailable):
            await index.apply([], ["i1"])
        stub.start()
        assert list(await index.vectors(["last", "i0"], Deadline.after(5))) == ["last"]
        assert len(await index.nearest(ONES, (), 200, Deadline.after(5))) == len(items())
