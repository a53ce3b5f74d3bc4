"""Items are checked, stored and in every index before they are acknowledged, whatever happens in between."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.backends.local_locks import LocalLocks
from services.backends.sqlite.items import SqliteItems
from services.catalogue.current_schema import SAMPLE, CurrentSchema
from services.catalogue.index_sync import IndexSync
from services.catalogue.writing import BATCH, Catalogue
from services.errors import InvalidRequest, TooLarge
from services.ndjson import Line, stream
from services.types import Document, Field, Role, Schema


class Shelf:
    """A real, if plain, derived index: the items in a dictionary, with an account of how they came there."""

    def __init__(self, name: str = "shelf", stale: bool = False) -> None:
        self.name = name
        self.items: dict[str, Document] = {}
        self.schema: Schema | None = None
        self.rounds: list[str] = []
        self.before: Callable[[], Awaitable[None]] | None = None
        self._stale = stale
        self.volatile = False

    async def stale(self) -> bool:
        return self._stale

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        await self._interrupted()
        self.rounds.append(f"+{len(upserts)} -{len(deletes)}")
        self.items.update((d["id"], d) for d in upserts)
        for object_id in deletes:
            self.items.pop(object_id, None)

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        await self._interrupted()
        self.items = {d["id"]: d for d in documents}
        self.schema = schema
        self.rounds.append(f"={len(self.items)}")

    async def _interrupted(self) -> None:
        if self.before is not None:
            before, self.before = self.before, None
            await before()


@asynccontextmanager
async def opened(path: Path, *shelves: Shelf) -> AsyncIterator[Catalogue]:
    items = SqliteItems(path)
    try:
        locks = LocalLocks()
        schema = CurrentSchema(items, locks)
        indexes = IndexSync(items, schema, locks, shelves)
        catalogue = Catalogue(items, schema, indexes)
        await indexes.recover()
        yield catalogue
        await catalogue.close()
    finally:
        await items.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.sqlite3"


def film(object_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": object_id, "title": f"Film {object_id}", "year": 1990, **fields}


async def chunks(body: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came to hold")


def broken() -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise OSError("the index is broken")

    return fail


class TestWriting:
    async def test_an_acknowledged_item_is_stored_and_in_every_index(self, path: Path) -> None:
        one, two = Shelf("one"), Shelf("two")
        async with opened(path, one, two) as catalogue:
            results = await catalogue.put([film("a"), film("b")])
            assert [(r.line, r.id, r.status, r.detail) for r in results] == [
                (1, "a", "accepted", None),
                (2, "b", "accepted", None),
            ]
            assert one.items == two.items == {"a": film("a"), "b": film("b")}
            assert await catalogue.get("a") == film("a")
            assert await catalogue.get("nobody") is None
            assert await catalogue.delete(["a", "nobody"]) == 1
            assert one.items == two.items == {"b": film("b")}
            assert await catalogue.get("a") is None

    async def test_bad_items_cost_only_themselves(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            await catalogue.put([film(str(n)) for n in range(5)])
            results = await catalogue.put([film("a"), film("b", year="soon"), {"title": "x"}, 7, film("c")])
            assert [(r.id, r.status, r.detail) for r in results] == [
                ("a", "accepted", None),
                ("b", "invalid", "year: a number is wanted (role number)"),
                (None, "invalid", "line 3: an item needs an id"),
                (None, "invalid", "line 4: an item is a JSON object"),
                ("c", "accepted", None),
            ]
            assert set(shelf.items) == {*"01234", "a", "c"}

    async def test_the_last_of_two_same_ids_stays(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            await catalogue.put([film("a", year=1), film("b"), film("a", year=2)])
            assert shelf.items["a"]["year"] == 2

    async def test_a_stream_is_taken_in_line_by_line(self, path: Path) -> None:
        shelf = Shelf()
        body = b'\xef\xbb\xbf{"id": 1, "title": "a"}\r\n\n{"id": \n{"id": "x", "score": NaN}\n{"id": "b"}'
        async with opened(path, shelf) as catalogue:
            results = await catalogue.put_stream(chunks(body))
            assert [(r.line, r.id, r.status) for r in results] == [
                (1, "1", "accepted"),
                (3, None, "invalid"),
                (4, None, "invalid"),
                (5, "b", "accepted"),
            ]
            assert str(results[1].detail).startswith("line 3: not JSON")
            assert set(shelf.items) == {"1", "b"}

    async def test_an_array_is_taken_in_entry_by_entry(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            body = json.dumps([film("a"), 3, film("b")], indent=1).encode()
            results = await catalogue.put_stream(chunks(b" \n" + body))
            assert [(r.line, r.status) for r in results] == [(1, "accepted"), (2, "invalid"), (3, "accepted")]
            with pytest.raises(InvalidRequest, match="array is not JSON"):
                await catalogue.put_stream(chunks(body[:-2]))

    async def test_many_items_make_one_round_of_indexing(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            count = 3 * BATCH + 7
            body = b"".join(json.dumps(film(str(n))).encode() + b"\n" for n in range(count))
            results = await catalogue.put_stream(chunks(body, 65536))
            assert sum(r.status == "accepted" for r in results) == count == len(shelf.items)
            assert shelf.rounds == ["=0", f"={count}"]
            assert catalogue.schema.stats["items"] == count

    async def test_writers_that_wait_share_a_round(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            await catalogue.put([film(str(n)) for n in range(100)])
            shelf.rounds.clear()
            await asyncio.gather(*(catalogue.put([film(f"new {n}")]) for n in range(50)))
            assert len(shelf.items) == 150
            assert len(shelf.rounds) < 10

    async def test_what_is_written_again_unchanged_is_no_work(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            await catalogue.put([film("a"), film("b")])
            shelf.rounds.clear()
            results = await catalogue.put([film("a"), film("b")])
            assert [r.status for r in results] == ["accepted", "accepted"]
            assert shelf.rounds == []


class TestSchema:
    async def test_the_first_items_give_the_schema_and_new_fields_extend_it(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            await catalogue.put([film(str(n)) for n in range(20)])
            assert shelf.schema == catalogue.schema
            assert shelf.schema.title == "title"
            assert shelf.schema.get("plays") is None
            await catalogue.put([film("x", plays=7)])
            assert shelf.schema.popularity == "plays"
            assert len(shelf.items) == 21
            refused = await catalogue.put([film("y", plays="many")])
            assert refused[0].detail == "plays: a number is wanted (role popularity)"
        again = Shelf(stale=True)
        async with opened(path, again) as catalogue:
            assert catalogue.schema == again.schema == shelf.schema

    async def test_a_bad_item_among_the_first_does_not_spoil_the_guess(self, path: Path) -> None:
        async with opened(path, Shelf()) as catalogue:
            results = await catalogue.put([*(film(str(n)) for n in range(20)), film("bad", year="soon")])
            assert [r.id for r in results if r.status == "invalid"] == ["bad"]

    async def test_a_guess_from_few_items_is_revised_as_the_catalogue_grows(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            await catalogue.put([film("0", shelf="left")])
            assert catalogue.schema.get("shelf") == Field("shelf", Role.TEXT, 1.5)
            for n in range(1, 35):
                await catalogue.put([film(str(n), shelf=("left", "right")[n % 2])])
            assert catalogue.schema.get("shelf") == Field("shelf", Role.KEYWORD, 1.5)
            assert shelf.schema == catalogue.schema
            assert len(shelf.items) == 35
            assert sum(r.startswith("=") for r in shelf.rounds) <= 7  # at doublings, not at every item

    async def test_a_guess_looks_at_all_of_a_catalogue(self, path: Path) -> None:
        async with opened(path, Shelf()) as catalogue:
            await catalogue.put([film("0")])
            first = [film(f"a{n}", kind="one of them") for n in range(2 * SAMPLE)]
            other = [film(f"b{n}", kind="another", host=f"Host {n}") for n in range(SAMPLE)]
            await catalogue.put([*first, *other])
            assert catalogue.schema.get("kind") == Field("kind", Role.KEYWORD, 1.5)
            assert catalogue.schema.get("host") == Field("host", Role.KEYWORD, 1.5)

    async def test_a_settled_guess_stays_and_only_its_constants_are_measured_again(self, path: Path) -> None:
        async with opened(path, Shelf()) as catalogue:
            await catalogue.put([film(str(n), shelf=f"shelf {n}") for n in range(SAMPLE)])
            assert catalogue.schema.get("shelf") == Field("shelf", Role.TEXT, 1.5)
            await catalogue.put([film(f"x{n}", shelf="left", year=2000) for n in range(2 * SAMPLE)])
            assert catalogue.schema.get("shelf") == Field("shelf", Role.TEXT, 1.5)
            assert catalogue.schema.stats["created_max"] == 2000

    async def test_a_given_schema_rules_and_does_not_grow(self, path: Path) -> None:
        shelf = Shelf()
        given_schema = Schema(fields=(Field("title", Role.TEXT), Field("year", Role.KEYWORD)), inferred=False)
        async with opened(path, shelf) as catalogue:
            await catalogue.put([film("a")])
            await catalogue.set_schema(given_schema)
            assert shelf.schema == catalogue.schema
            assert shelf.schema.get("year") == Field("year", Role.KEYWORD)
            assert shelf.schema.stats["items"] == 1
            await catalogue.put([film("b", plays=3, year="soon")])
            assert set(shelf.items) == {"a", "b"}
            assert shelf.schema.get("plays") is None
            shelf.rounds.clear()
            await catalogue.set_schema(given_schema)
            assert shelf.rounds == []  # nothing is new

    async def test_no_index_is_taken_for_built_under_a_schema_that_came_while_it_was_built(self, path: Path) -> None:
        one, two = Shelf("one"), Shelf("two")
        async with opened(path, one, two) as catalogue:
            await catalogue.put([film(str(n)) for n in range(20)])
            others: list[asyncio.Task[Any]] = []

            async def meanwhile() -> None:
                others.append(asyncio.ensure_future(catalogue.put([film("new", genres=["drama"])])))
                await until(lambda: catalogue.schema.get("genres") is not None)

            one.before = meanwhile
            await catalogue.put([film("x", plays=7)])
            await asyncio.gather(*others)
            assert one.schema == two.schema == catalogue.schema
            assert one.schema.get("genres") is not None
            assert set(one.items) == set(two.items) == {*map(str, range(20)), "x", "new"}


class TestRecovery:
    async def test_an_index_that_failed_is_repaired_by_the_next_write(self, path: Path) -> None:
        one, two = Shelf("one"), Shelf("two")
        async with opened(path, one, two) as catalogue:
            await catalogue.put([film(str(n)) for n in range(20)])
            two.before = broken()
            with pytest.raises(OSError, match="broken"):
                await catalogue.put([film("a")])
            await catalogue.put([film("b")])
            assert one.items == two.items
            assert {"a", "b"} <= set(two.items)

    async def test_a_crash_between_store_and_index_is_repaired_at_the_start(self, path: Path) -> None:
        one, two = Shelf("one"), Shelf("two")
        async with opened(path, one, two) as catalogue:
            await catalogue.put([film(str(n)) for n in range(20)])
            two.before = broken()
            with pytest.raises(OSError, match="broken"):
                await catalogue.delete(["3"])
            two.before = broken()
            with pytest.raises(OSError, match="broken"):
                await catalogue.put([film("a")])
        one.rounds.clear()
        two.rounds.clear()
        async with opened(path, one, two):  # the indexes' own files have outlived the process
            assert one.items == two.items
            assert (one.rounds, two.rounds) == ([], ["+1 -1"])

    async def test_a_crash_before_a_rebuild_is_repaired_at_the_start(self, path: Path) -> None:
        one, two = Shelf("one"), Shelf("two")
        async with opened(path, one, two) as catalogue:
            await catalogue.put([film(str(n)) for n in range(20)])
            one.before = broken()
            with pytest.raises(OSError, match="broken"):
                await catalogue.put([film("x", plays=7)])
            assert two.schema is not None
            assert two.schema.get("plays") is None
        async with opened(path, one, two) as catalogue:
            assert one.schema == two.schema == catalogue.schema
            assert catalogue.schema.popularity == "plays"
            assert "x" in one.items

    async def test_indexes_that_say_so_are_rebuilt_at_the_start_and_only_they(self, path: Path) -> None:
        async with opened(path, Shelf("kept"), Shelf("lost")) as catalogue:
            await catalogue.put([film("a")])
        kept, lost = Shelf("kept"), Shelf("lost", stale=True)
        async with opened(path, kept, lost):
            assert kept.rounds == []
            assert lost.rounds == ["=1"]
        fresh = Shelf("fresh")
        async with opened(path, fresh):
            assert fresh.rounds == ["=1"]  # never heard of before

    async def test_what_changes_during_a_rebuild_is_not_missed(self, path: Path) -> None:
        one, two = Shelf("one"), Shelf("two")
        async with opened(path, one, two) as catalogue:
            await catalogue.put([film(str(n)) for n in range(20)])
            others: list[asyncio.Task[Any]] = []

            async def meanwhile() -> None:
                """Once everything is read for the rebuild, before `one` has it."""
                others.append(asyncio.ensure_future(catalogue.delete(["3"])))
                others.append(asyncio.ensure_future(catalogue.put([film("new")])))
                for _ in range(1000):
                    if await catalogue.get("3") is None and await catalogue.get("new") is not None:
                        return
                    await asyncio.sleep(0.001)
                pytest.fail("the writers never reached the store")

            one.before = meanwhile
            await catalogue.put([film("x", plays=7)])
            await asyncio.gather(*others)
            expected = {*map(str, range(20)), "x", "new"} - {"3"}
            assert set(one.items) == set(two.items) == expected

    async def test_a_caller_that_gives_up_leaves_no_index_half_done(self, path: Path) -> None:
        shelf = Shelf()
        async with opened(path, shelf) as catalogue:
            await catalogue.put([film(str(n)) for n in range(20)])
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def slow() -> None:
                begun.set()
                await go_on.wait()

            shelf.before = slow
            put = asyncio.ensure_future(catalogue.put([film("a")]))
            await begun.wait()
            put.cancel()
            with pytest.raises(asyncio.CancelledError):
                await put
            second = asyncio.ensure_future(catalogue.put([film("b")]))
            await asyncio.sleep(0.01)
            assert shelf.rounds[-1] == "=20"  # the second waits for the first
            go_on.set()
            await second
            assert {"a", "b"} <= set(shelf.items)

    async def test_a_real_catalogue_comes_in_whole(self, path: Path, shared: Path) -> None:
        shelf = Shelf()
        body = gzip.decompress((shared / "data" / "films-mixed" / "catalogue.jsonl.gz").read_bytes())
        async with opened(path, shelf) as catalogue:
            results = await catalogue.put_stream(chunks(body, 1 << 16))
            assert {r.status for r in results} == {"accepted"}
            assert len(shelf.items) == len(results) == 9750
            assert catalogue.schema.popularity == "popularity"
            assert catalogue.schema.stats["items"] == 9750


async def read(body: bytes, size: int, longest: int = 40) -> list[Line]:
    return [line async for line in stream(chunks(body, size), longest)]


class TestLines:
    @given(
        st.lists(st.one_of(st.integers(-(2**63), 2**64 - 1), st.text(max_size=5), st.none()), max_size=8),
        st.integers(1, 30),
    )
    async def test_lines_are_the_same_however_they_are_cut(self, entries: list[Any], size: int) -> None:
        body = "\n".join(json.dumps(entry) for entry in entries).encode()
        assert [(line.number, line.value) for line in await read(body, size, 1000)] == list(enumerate(entries, 1))

    @pytest.mark.parametrize("size", [1, 3, 1000])
    async def test_a_line_that_is_too_long_costs_itself_only(self, size: int) -> None:
        body = b'"a"\n"' + b"x" * 100 + b'"\n"b"\n"' + b"y" * 100
        found = await read(body, size)
        assert [(line.number, line.value) for line in found] == [(1, "a"), (2, None), (3, "b"), (4, None)]
        assert [line.problem for line in found] == [None, "longer than 40 bytes"] * 2

    @pytest.mark.parametrize("body", [b"", b" \n\n ", b"\xef\xbb\xbf", b"[]", b"\n[ ]\n"])
    async def test_nothing_is_no_line(self, body: bytes) -> None:
        assert await read(body, 1) == []

    async def test_an_array_has_a_bound(self) -> None:
        with pytest.raises(TooLarge, match="NDJSON"):
            async for _ in stream(chunks(b"[" + b"1," * 100 + b"1]"), max_array_bytes=50):
                pass

    async def test_not_a_number_is_not_json(self) -> None:
        assert all(line.problem for line in await read(b"NaN\nInfinity\n-Infinity\n'a'\n\xff", 5))
