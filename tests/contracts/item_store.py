"""Contract of every ItemStore. Subclass and give `store`: an async context manager that opens the same catalogue again
each time it is entered."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from services.backends.base import ItemStore
from services.types import Deadline, Document, Field, Role, Schema

SCHEMA = Schema(
    fields=(Field("title", Role.TEXT, 3.0), Field("genres", Role.KEYWORD, 1.5), Field("plays", Role.POPULARITY)),
    title="title",
    popularity="plays",
    synonyms={"scary": ("horror", "thriller")},
    stats={"popularity_scale": 12.5},
)


def item(object_id: str, **fields: Any) -> Document:
    return {"id": object_id, "title": f"Title {object_id}", **fields}


def soon() -> Deadline:
    return Deadline.after(10)


class ItemStoreContract:
    def store(self) -> AbstractAsyncContextManager[ItemStore]:
        raise NotImplementedError

    async def test_an_empty_store(self) -> None:
        async with self.store() as store:
            assert await store.get(["a"], soon()) == {}
            assert await store.count() == 0
            assert [d async for d in store.scan()] == []
            assert await store.schema() is None
            assert await store.sequence() == 0
            assert await store.confirmed("lexical") is None
            assert await store.changes(0) == (0, [], [])
            assert await store.delete(["a"]) == 0

    async def test_what_was_put_is_got_in_the_order_asked(self) -> None:
        async with self.store() as store:
            odd = item("ü/1", text='"\n{[', number=1.5, nested={"a": [1, None, True]}, empty=[])
            await store.put([item("b"), odd, item("a")])
            found = await store.get(["ü/1", "nobody", "a", "a"], soon())
            assert list(found.items()) == [("ü/1", odd), ("a", item("a"))]
            assert await store.get(["a\n", "\ud800", ""], soon()) == {}
            assert await store.count() == 3
            await store.put([item("c"), item("a", v=2)])
            assert await store.count() == 4
            await store.delete(["c"])
            assert await store.count() == 3

    async def test_the_last_document_of_an_id_replaces_the_others(self) -> None:
        async with self.store() as store:
            await store.put([item("a", v=1), item("a", v=2)])
            assert (await store.get(["a"], soon()))["a"]["v"] == 2
            await store.put([item("a", v=3)])
            assert await store.get(["a"], soon()) == {"a": item("a", v=3)}
            assert await store.count() == 1

    async def test_what_was_deleted_is_gone(self) -> None:
        async with self.store() as store:
            await store.put([item("a"), item("b")])
            await store.get(["a", "b"], soon())
            assert await store.delete(["a", "a", "nobody"]) == 1
            assert await store.get(["a", "b"], soon()) == {"b": item("b")}
            assert await store.count() == 1
            assert [d["id"] async for d in store.scan()] == ["b"]

    async def test_a_scan_gives_everything_in_id_order(self) -> None:
        async with self.store() as store:
            await store.put([item(str(number)) for number in range(1203)])
            scanned = [d["id"] async for d in store.scan()]
            assert scanned == sorted(str(number) for number in range(1203))

    async def test_everything_survives_a_restart(self) -> None:
        async with self.store() as store:
            await store.put([item("a", v=1), item("b")])
            await store.set_schema(SCHEMA)
            await store.applied("lexical", await store.sequence())
            await store.delete(["b"])
        async with self.store() as store:
            assert await store.get(["a", "b"], soon()) == {"a": item("a", v=1)}
            assert await store.schema() == SCHEMA
            assert await store.confirmed("lexical") == 2
            assert await store.changes(2) == (3, [], ["b"])

    async def test_changes_come_after_a_number_and_what_an_index_has_is_noted(self) -> None:
        async with self.store() as store:
            await store.put([item("a", v=1), item("b")])
            assert await store.changes(0) == (2, [item("a", v=1), item("b")], [])
            assert await store.changes(0) == (2, [item("a", v=1), item("b")], [])
            assert await store.changes(1) == (2, [item("b")], [])
            await store.put([item("c")])  # comes while an index takes the others in
            await store.applied("lexical", 2)
            assert await store.confirmed("lexical") == 2
            assert await store.changes(2) == (3, [item("c")], [])
            await store.applied("lexical", 3)
            assert await store.changes(3) == (3, [], [])
            assert await store.confirmed("lexical") == 3
            assert await store.confirmed("vector") is None  # each index has its own place

    async def test_an_item_is_among_the_changes_once_in_its_latest_state(self) -> None:
        async with self.store() as store:
            await store.put([item("a", v=1), item("b"), item("c")])
            await store.put([item("a", v=2)])
            await store.delete(["b"])
            await store.delete(["c"])
            await store.put([item("c", v=9)])
            assert await store.changes(0) == (7, [item("a", v=2), item("c", v=9)], ["b"])

    async def test_putting_what_is_there_already_is_no_change(self) -> None:
        async with self.store() as store:
            await store.put([item("a"), item("b")])
            await store.put([item("a"), item("b", v=2)])
            assert await store.changes(2) == (3, [item("b", v=2)], [])

    async def test_changes_come_in_portions(self) -> None:
        async with self.store() as store:
            await store.put([item(str(number)) for number in range(1203)])
            await store.delete(["7"])
            seen: list[str] = []
            gone: list[str] = []
            sequence = 0
            while True:
                sequence, upserts, deletes = await store.changes(sequence)
                if not upserts and not deletes:
                    break
                assert len(upserts) + len(deletes) < 1000
                seen += [str(d["id"]) for d in upserts]
                gone += deletes
            assert sorted(seen) == sorted(str(number) for number in range(1203) if number != 7)
            assert gone == ["7"]

    async def test_deletions_are_kept_for_the_slowest_index(self) -> None:
        async with self.store() as store:
            await store.put([item("a"), item("b")])
            await store.applied("lexical", 2)
            await store.applied("vector", 2)
            await store.delete(["a"])
            await store.applied("lexical", 3)
        async with self.store() as store:
            assert await store.changes(await store.confirmed("vector") or 0) == (3, [], ["a"])
            await store.applied("vector", 3)
        async with self.store() as store:
            assert await store.changes(3) == (3, [], [])
            await store.delete(["b"])
            assert await store.sequence() == 4  # numbers are never given twice
            assert await store.changes(3) == (4, [], ["b"])

    async def test_another_schema_takes_confirmations_back(self) -> None:
        async with self.store() as store:
            await store.set_schema(SCHEMA)
            await store.applied("lexical", 0)
            await store.set_schema(SCHEMA)
            assert await store.confirmed("lexical") == 0
            await store.set_schema(Schema(inferred=False))
            assert await store.confirmed("lexical") is None
            assert await store.schema() == Schema(inferred=False)

    async def test_reads_see_what_writers_wrote_meanwhile(self) -> None:
        """Many readers and writers of one item: nobody gets an older version than one written before they asked."""
        async with self.store() as store:
            await store.put([item("a", v=0)])
            written = 0

            async def write() -> None:
                nonlocal written
                for version in range(1, 40):
                    await store.put([item("a", v=version)])
                    written = version

            async def read() -> None:
                while written < 39:
                    least = written
                    await asyncio.sleep(0)  # an answer from memory gives the writer no turn
                    assert (await store.get(["a"], soon()))["a"]["v"] >= least

            await asyncio.gather(write(), read(), read())
            assert (await store.get(["a"], soon()))["a"]["v"] == 39

    async def test_a_writer_that_gives_up_leaves_no_old_document_behind(self) -> None:
        async with self.store() as store:
            await store.put([item("a", v=0)])
            for version in range(1, 20):
                await store.get(["a"], soon())
                put = asyncio.ensure_future(store.put([item("a", v=version)]))
                await asyncio.sleep(0)
                put.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await put
                await store.get(["a"], soon())
            await store.put([item("b")])  # writes are done in order: the others have been by now
            stored = {d["id"]: d async for d in store.scan()}
            assert (await store.get(["a"], soon()))["a"] == stored["a"]

    async def test_a_spent_deadline_is_a_timeout(self) -> None:
        async with self.store() as store:
            await store.put([item("a")])
            with pytest.raises(TimeoutError):
                await store.get(["a"], Deadline.after(-1))
