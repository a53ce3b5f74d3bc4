"""SqliteItems keeps the promises of an ItemStore, and some of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from services.backends.sqlite.items import SqliteItems
from services.errors import StorageFailed
from tests.contracts.item_store import ItemStoreContract, item, soon


@asynccontextmanager
async def opened(path: Path, cached: int = 10_000) -> AsyncIterator[SqliteItems]:
    store = SqliteItems(path, cached)
    try:
        yield store
    finally:
        await store.close()


class TestSqliteItems(ItemStoreContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "items.sqlite3"

    def store(self) -> AbstractAsyncContextManager[SqliteItems]:
        return opened(self.path)


class TestSqliteItemsWithATinyCache(ItemStoreContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "items.sqlite3"

    def store(self) -> AbstractAsyncContextManager[SqliteItems]:
        return opened(self.path, cached=1)


async def test_documents_asked_for_again_come_from_memory_within_its_bound(tmp_path: Path) -> None:
    async with opened(tmp_path / "items.sqlite3", cached=2) as store:
        await store.put([item("a"), item("b"), item("c")])
        first = await store.get(["a", "b"], soon())
        again = await store.get(["a", "b"], soon())
        assert again["a"] is first["a"]
        await store.get(["b"], soon())
        await store.get(["c"], soon())  # "a" was asked for least lately
        assert (await store.get(["b"], soon()))["b"] is first["b"]
        assert (await store.get(["a"], soon()))["a"] is not first["a"]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.sqlite3"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageFailed, match=r"items\.sqlite3"):
        SqliteItems(path)


async def test_after_closing_every_call_fails_by_name(tmp_path: Path) -> None:
    async with opened(tmp_path / "items.sqlite3") as store:
        pass
    with pytest.raises(StorageFailed):
        await store.put([item("a")])
    with pytest.raises(StorageFailed):
        await store.get(["a"], soon())
