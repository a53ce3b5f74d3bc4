"""Several processes keep the indexes that they share, and their own, up with one item store, whoever dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import pytest

from services.backends.local_locks import LocalLocks
from services.backends.sqlite.items import SqliteItems
from services.catalogue import index_sync
from services.catalogue.base import INDEXING
from services.catalogue.current_schema import CurrentSchema
from services.catalogue.index_sync import IndexSync
from services.catalogue.writing import Catalogue
from services.errors import StorageFailed
from services.types import Document, Schema


class Index:
    """A real, if plain, index: items in a dictionary."""

    def __init__(self, name: str, volatile: bool = False) -> None:
        self.name = name
        self.volatile = volatile
        self.items: dict[str, Document] = {}
        self.schema: Schema | None = None
        self.there = False
        self.away = False
        self.rebuilds = 0
        self.looked = 0

    async def stale(self) -> bool:
        self._answer()
        return not self.there

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        self._answer()
        self.items.update((document["id"], document) for document in upserts)
        for object_id in deletes:
            self.items.pop(object_id, None)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        self._answer()
        self.items = {document["id"]: document for document in documents}
        self.schema, self.there = schema, True
        self.rebuilds += 1

    async def refresh(self) -> None:
        self.looked += 1
        self._answer()

    def _answer(self) -> None:
        if self.away:
            raise StorageFailed("the engine is away")


class Member:
    """The parts of one process: a catalogue, its own index in memory, and the shared ones."""

    def __init__(self, items: SqliteItems, locks: LocalLocks, shared: Sequence[Index]) -> None:
        self.own = Index("own", volatile=True)
        schema = CurrentSchema(items, locks)
        self.indexes = IndexSync(items, schema, locks, (self.own,), shared)
        self.catalogue = Catalogue(items, schema, self.indexes)
        self.stop = asyncio.Event()


@asynccontextmanager
async def members(path: Path, *shared: Index, following: bool = True) -> AsyncIterator[tuple[Member, Member]]:
    """Two processes on one store, following each other."""
    items, locks = SqliteItems(path), LocalLocks()
    pair = Member(items, locks, shared), Member(items, locks, shared)
    for member in pair:
        await member.indexes.recover()
    with mock.patch.multiple(index_sync, FOLLOW_SECONDS=0.01, REPAIR_SECONDS=0.03):
        tasks = [asyncio.create_task(member.indexes.follow(member.stop)) for member in pair if following]
        try:
            yield pair
        finally:
            for member in pair:
                member.stop.set()
                await member.catalogue.close()
            await asyncio.gather(*tasks)
            await items.close()


def song(object_id: str, **fields: object) -> Document:
    return {"id": object_id, "title": f"Song {object_id}", "year": 1990} | fields


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never came to hold")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.sqlite3"


async def test_what_one_writes_is_in_shared_indexes_at_once_and_in_the_others_memory_soon(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two) as (writer, reader):
        await writer.catalogue.put([song("a"), song("b")])
        assert set(one.items) == set(two.items) == set(writer.own.items) == {"a", "b"}
        await until(lambda: set(reader.own.items) == {"a", "b"})
        await reader.catalogue.delete(["a"])
        assert set(one.items) == {"b"}
        await until(lambda: set(writer.own.items) == {"b"})


async def test_a_schema_that_one_extends_is_the_others_too(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two) as (writer, reader):
        await writer.catalogue.put([song("a")])
        await until(lambda: reader.catalogue.schema == writer.catalogue.schema)
        await writer.catalogue.put([song("b", colour=["teal"])])
        await until(lambda: reader.catalogue.schema.get("colour") is not None)
        await until(lambda: reader.own.schema == writer.own.schema == one.schema == two.schema)


async def test_both_extend_the_schema_at_once_and_neither_field_is_lost(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two) as (left, right):
        await left.catalogue.put([song("a")])
        await asyncio.gather(
            left.catalogue.put([song("b", colour=["teal"])]), right.catalogue.put([song("c", shape=["round"])])
        )
        for member in (left, right):
            await until(lambda m=member: {"colour", "shape"} <= {f.name for f in m.catalogue.schema.fields})  # type: ignore[misc]
        assert set(one.items) == {"a", "b", "c"}
        await until(lambda: one.schema == two.schema == left.catalogue.schema == right.catalogue.schema)


async def test_a_writer_that_died_before_indexing_is_finished_for(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two) as (writer, reader):
        await writer.catalogue.put([song("a")])
        await writer.catalogue._items.put([song("b")])  # and there it died: nothing was indexed
        await until(lambda: set(one.items) == set(two.items) == {"a", "b"})
        await until(lambda: set(reader.own.items) == {"a", "b"})


async def test_an_index_that_is_away_keeps_none_of_the_others_from_following(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two) as (writer, reader):
        await writer.catalogue.put([song("a")])
        one.away = True
        with pytest.raises(StorageFailed):
            await writer.catalogue.put([song("b")])
        assert set(two.items) == {"a", "b"}, "the other one has it"
        await until(lambda: set(reader.own.items) == {"a", "b"})
        one.away = False
        await until(lambda: set(one.items) == {"a", "b"})


async def test_an_index_that_lost_everything_is_built_again(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two) as (writer, _):
        await writer.catalogue.put([song("a")])
        built = two.rebuilds
        one.items, one.there = {}, False
        await until(lambda: set(one.items) == {"a"})
        assert two.rebuilds == built, "the one that is well is left alone"


async def test_a_start_waits_for_no_engine(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two) as (writer, _):
        await writer.catalogue.put([song("a")])
    one.away = True
    async with members(path, one, two, following=False) as (first, second):
        assert set(first.own.items) == set(second.own.items) == {"a"}


async def test_a_rebuild_builds_every_index_anew_once(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two, following=False) as (writer, _):
        await writer.catalogue.put([song("a")])
        before = one.rebuilds, two.rebuilds, writer.own.rebuilds
        await writer.indexes.rebuild()
        assert (one.rebuilds, two.rebuilds, writer.own.rebuilds) == tuple(number + 1 for number in before)


async def test_what_a_process_rebuilt_at_its_start_is_not_rebuilt_again_with_the_rest(path: Path) -> None:
    """A second rebuild would drop the generation that other processes still search."""
    one, two = Index("one"), Index("two")
    async with members(path, one, two, following=False) as (writer, _):
        await writer.catalogue.put([song("a")])
        one.there = False  # an index of another encoder, say
        before = one.rebuilds, two.rebuilds
        command = Member(SqliteItems(path), LocalLocks(), (one, two))
        await command.indexes.recover()
        assert (one.rebuilds, two.rebuilds) == (before[0] + 1, before[1])
        await command.indexes.rebuild_remaining()
        assert (one.rebuilds, two.rebuilds) == (before[0] + 1, before[1] + 1)


async def test_a_store_that_was_restored_from_a_backup_is_heard_again(path: Path) -> None:
    one, two = Index("one"), Index("two")
    async with members(path, one, two) as (writer, reader):
        await writer.catalogue.put([song("a"), song("b")])
        await until(lambda: set(reader.own.items) == {"a", "b"})
        items = writer.catalogue._items
        with mock.patch.object(items, "sequence", mock.AsyncMock(return_value=1)):
            built = reader.own.rebuilds
            await until(lambda: reader.own.rebuilds > built)


async def test_a_start_and_a_stop_wait_for_no_other_process(path: Path) -> None:
    one, two = Index("one"), Index("two")
    items, locks = SqliteItems(path), LocalLocks()
    with mock.patch.object(index_sync, "START_SECONDS", 0.05):
        async with locks.hold(INDEXING):  # another process encodes a large catalogue
            member = Member(items, locks, (one, two))
            await asyncio.wait_for(member.indexes.recover(), 5.0)
            assert not one.there
        await until(lambda: one.there and two.there)  # it went on beside the service
        async with locks.hold(INDEXING):
            another = Member(items, locks, (one, two))
            await another.indexes.recover()
            await asyncio.wait_for(another.indexes.close(), 5.0)
    await member.indexes.close()
    await items.close()
