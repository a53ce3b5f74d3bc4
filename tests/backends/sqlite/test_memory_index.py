"""The memory index: its contract, and that the same log always gives the same tables."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from services.backends.base import MemoryChange, MemoryIndex
from services.backends.sqlite.memory import SqliteMemory
from services.memory.keys import memory_key
from services.memory.limits import MemoryLimits
from tests.contracts.memory_index import (
    HALF_LIFE,
    TOY,
    MemoryIndexContract,
    asked,
    did,
    forget,
    ids,
    random_changes,
    soon,
    took,
)


def small(folder: Path) -> SqliteMemory:
    return SqliteMemory(folder / "memory.db", HALF_LIFE, MemoryLimits(principal_cap=2.0, items_per_query=3, history=5))


class TestSqliteMemory(MemoryIndexContract):
    def open(self, folder: Path) -> MemoryIndex:
        return small(folder)


def tables(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    connection = sqlite3.connect(folder / "memory.db")
    try:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall()) for name in names}
    finally:
        connection.close()


async def replay(folder: Path, changes: list[MemoryChange], cuts: list[int], reopen: bool = False) -> None:
    """Apply change i at offset i + 1, in the batches between `cuts`."""
    memory = small(folder)
    for start, end in zip([0, *cuts], [*cuts, len(changes)], strict=True):
        await memory.apply(changes[start:end], end)
        if reopen:
            await memory.close()
            memory = small(folder)
    await memory.close()


async def test_the_same_log_gives_the_same_tables_however_it_is_cut(tmp_path: Path) -> None:
    changes = random_changes(400, seed=3)
    rng = random.Random(4)
    await replay(tmp_path / "one", changes, [])
    expected = tables(tmp_path / "one")
    assert all(len(expected[name]) > 3 for name in ("scores", "contributions", "texts", "askers", "histories"))
    await replay(tmp_path / "many", changes, list(range(1, 400)))
    await replay(tmp_path / "some", changes, sorted(rng.sample(range(400), 7)), reopen=True)
    assert tables(tmp_path / "many") == expected
    assert tables(tmp_path / "some") == expected


async def test_the_least_recently_used_queries_and_people_go_first(tmp_path: Path) -> None:
    memory = SqliteMemory(tmp_path / "memory.db", HALF_LIFE, MemoryLimits(queries=3, people=2))
    await memory.predict({"p": [("q0", 0.5)]})
    for n in range(4):
        await memory.apply([asked(f"q{n}", "u:ann"), took(f"q{n}", "1"), did(f"u:{n}", "1")], 2 * n + 1)
        await memory.apply([asked("q0", "u:bob")] if n == 1 else [], 2 * n + 2)
    assert ids(await memory.remembered("q0", 9, soon())) == ["p", "1"]
    assert await memory.remembered("q1", 9, soon()) == []
    assert [t for t, _ in await memory.popular_queries("q", 9, soon())] == ["q0", "q2", "q3"]
    assert [len((await memory.person(f"u:{n}", 9, soon())).recent) for n in range(4)] == [0, 0, 1, 1]
    await memory.apply([took("q1", "1")], 20)
    (entry,) = await memory.remembered("q1", 9, soon())
    assert entry.clicks == 1.0
    await memory.close()
    rows = tables(tmp_path)
    assert len(rows["queries"]) == 3
    assert {row[0] for row in rows["texts"]} == {"q2", "q3"} | {row[0] for row in rows["askers"]}
    assert dict(rows["state"])["queries"] == 3
    assert dict(rows["state"])["people"] == 2


async def test_forgetting_everybody_leaves_only_counters(tmp_path: Path) -> None:
    changes = [c for c in random_changes(300, seed=5) if c.forget_user is None]
    await replay(tmp_path, [*changes, *(forget(str(n), at=changes[-1].at) for n in range(6))], [])
    rows = tables(tmp_path)
    gone = ("texts", "askers", "scores", "contributions", "neighbours", "histories", "people")
    assert {name: len(rows[name]) for name in gone} == dict.fromkeys(gone, 0)
    assert all(shown == pytest.approx(0.0, abs=1e-9) for _, shown, _, _ in rows["queries"])


async def test_very_many_people_on_one_query_cost_no_more_rows_than_the_cap(tmp_path: Path) -> None:
    memory = SqliteMemory(tmp_path / "memory.db", HALF_LIFE, MemoryLimits(names_per_total=10))
    await memory.apply(
        [c for n in range(30) for c in (asked("toy story", f"u:{n}"), took("toy story", "1", f"u:{n}"))], 1
    )
    (entry,) = await memory.remembered(TOY, 9, soon())
    assert entry.clicks == 30.0
    await memory.apply([forget("0"), forget("29")], 2)
    (entry,) = await memory.remembered(TOY, 9, soon())
    assert entry.clicks == 29.0
    await memory.close()
    rows = tables(tmp_path)
    assert len(rows["contributions"]) == len(rows["askers"]) == 9


async def test_a_word_that_all_queries_have_does_not_slow_the_look_up(tmp_path: Path) -> None:
    """Only so many neighbours are read, however many there are; the query's own items are always among them."""
    memory = SqliteMemory(tmp_path / "memory.db", HALF_LIFE)
    await memory.apply([took(f"film star{n:03d}", str(n)) for n in range(300)], 1)
    found = await memory.remembered("film", 100, soon())
    assert 1 <= len(found) <= 16
    assert ids(await memory.remembered(memory_key("film star299"), 100, soon()))[0] == "299"
    await memory.close()
