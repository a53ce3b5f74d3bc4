"""Contract of every MemoryIndex."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.backends.base import MemoryChange, MemoryIndex, MemoryRow
from services.memory.keys import memory_key
from services.types import Deadline, Remembered

DAY = 86400.0
HALF_LIFE = 10 * DAY
TOY, TOY_3 = memory_key("toy story"), memory_key("toy story 3")


def soon() -> Deadline:
    return Deadline.after(10.0)


def asked(text: str, by: str = "", at: float = 0.0) -> MemoryChange:
    return MemoryChange(shown=(memory_key(text), text), shown_to=by, at=at)


def took(text: str, object_id: str, by: str = "u:ann", weight: float = 1.0, at: float = 0.0) -> MemoryChange:
    return MemoryChange(action=(memory_key(text), object_id, by, weight), at=at)


def did(person: str, object_id: str, weight: float = 1.0, at: float = 0.0) -> MemoryChange:
    return MemoryChange(history=(person, object_id, weight), at=at)


def forget(user_id: str, at: float = 0.0) -> MemoryChange:
    return MemoryChange(forget_user=user_id, at=at)


def random_changes(count: int, seed: int) -> list[MemoryChange]:
    """Traffic of few people on few neighbouring queries, over a few half-lives."""
    rng = random.Random(seed)
    texts = ["toy story", "toy story 3", "andy toy story", "story", "heat", "heat al pacino", "die hard"]
    changes, at = [], 0.0
    for _ in range(count):
        at += rng.expovariate(1 / (HALF_LIFE / 100))
        text, person = rng.choice(texts), f"u:{rng.randrange(6)}"
        kind = rng.random()
        if kind < 0.45:
            changes.append(asked(text, person, at))
        elif kind < 0.75:
            changes.append(took(text, str(rng.randrange(9)), person, rng.choice((1.0, 2.5, -1.0)), at))
        elif kind < 0.97:
            changes.append(did(person, str(rng.randrange(9)), rng.choice((1.0, -1.0)), at))
        else:
            changes.append(forget(person.removeprefix("u:"), at))
    return changes


def ids(found: list[Remembered]) -> list[str]:
    return [entry.object_id for entry in found]


class MemoryIndexContract:
    """Subclasses give `open(folder)`: the memory kept there, with HALF_LIFE as half-life, at most 3 items a query, a
    history of 5, and a principal cap of 2."""

    def open(self, folder: Path) -> MemoryIndex:
        raise NotImplementedError

    @asynccontextmanager
    async def use(self, folder: Path) -> AsyncIterator[MemoryIndex]:
        memory = self.open(folder)
        try:
            yield memory
        finally:
            await memory.close()

    async def test_an_empty_memory_knows_nothing(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            assert await memory.offset() == 0
            assert await memory.remembered(TOY, 10, soon()) == []
            assert await memory.remembered("", 10, soon()) == []
            person = await memory.person("u:ann", 10, soon())
            assert (person.key, person.recent) == ("u:ann", ())
            assert await memory.popular_queries("", 10, soon()) == []

    async def test_more_clicks_and_fewer_impressions_score_higher(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            clicks = [took("toy story", "1", f"u:{i}") for i in range(3)] + [took("toy story", "2")]
            await memory.apply([asked("toy story", f"u:{i}") for i in range(4)] + clicks, 1)
            first, second = await memory.remembered(TOY, 10, soon())
            assert (first.object_id, first.clicks, first.predicted, first.similarity) == ("1", 3.0, False, 1.0)
            assert second.object_id == "2"
            assert 0.0 < second.score < first.score < 1.0
            await memory.apply([asked("toy story", f"u:{i}") for i in range(4, 20)], 2)
            later = await memory.remembered(TOY, 10, soon())
            assert ids(later) == ["1", "2"]
            assert later[0].score < first.score
            assert ids(await memory.remembered(TOY, 1, soon())) == ["1"]

    async def test_an_offset_counts_once(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.apply([asked("toy story"), took("toy story", "1")], 7)
            await memory.apply([took("toy story", "1", "u:bob")], 7)
            await memory.apply([took("toy story", "1", "u:bob")], 3)
            await memory.apply([], 9)
        async with self.use(tmp_path) as memory:
            assert await memory.offset() == 9
            await memory.apply([took("toy story", "1", "u:bob")], 8)
            (entry,) = await memory.remembered(TOY, 10, soon())
            assert entry.clicks == 1.0

    async def test_a_change_that_fails_takes_its_whole_batch_and_offset_with_it(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            broken = MemoryChange(history=("u:ann", [], 1.0))  # type: ignore[arg-type]
            with pytest.raises(Exception, match=r".+"):
                await memory.apply([took("toy story", "1"), broken], 5)
            assert await memory.offset() == 0
            assert await memory.remembered(TOY, 10, soon()) == []

    async def test_neighbouring_queries_help_less_than_the_query_itself(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.apply([asked("toy story"), took("toy story", "1"), asked("heat"), took("heat", "9")], 1)
            (exact,) = await memory.remembered(TOY, 10, soon())
            for text in ("toy story andy", "the story of a toy", "toys", "story toys woody buzz"):
                (near,) = await memory.remembered(memory_key(text), 10, soon())
                assert near.object_id == "1"
                assert near.similarity <= 1.0
                assert near.score <= exact.score
            assert await memory.remembered(memory_key("true grit"), 10, soon()) == []
            await memory.apply([asked("toy story 3"), took("toy story 3", "3")], 2)
            assert ids(await memory.remembered(TOY_3, 10, soon())) == ["3", "1"]
            assert ids(await memory.remembered(memory_key("toy story 2"), 10, soon())) == ["1"]

    async def test_one_principal_saturates(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.apply([took("toy story", "1", "u:bot") for _ in range(100)], 1)
            await memory.apply([asked("toy story", "u:bot") for _ in range(100)], 2)
            await memory.apply([took("toy story", "2", f"u:{i}") for i in range(3)], 3)
            found = await memory.remembered(TOY, 10, soon())
            assert [(e.object_id, e.clicks) for e in found] == [("2", 3.0), ("1", 2.0)]
            assert await memory.popular_queries("toy", 10, soon()) == [("toy story", 2.0)]

    async def test_weights_halve_in_log_time(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.apply([asked("toy story", "u:ann"), took("toy story", "1")], 1)
            await memory.apply([asked("heat", "u:ann", at=HALF_LIFE), took("heat", "9", at=HALF_LIFE)], 2)
            (old,) = await memory.remembered(TOY, 10, soon())
            (new,) = await memory.remembered("heat", 10, soon())
            assert old.clicks == pytest.approx(0.5)
            assert new.clicks == pytest.approx(1.0)
            assert old.score < new.score
            popular = await memory.popular_queries("", 10, soon())
            assert popular == [("heat", pytest.approx(1.0)), ("toy story", pytest.approx(0.5))]
            # A record that comes late is as old as it says.
            await memory.apply([took("heat", "8", at=0.0), took("heat", "9", "u:bob", at=0.0)], 3)
            found = {e.object_id: e.clicks for e in await memory.remembered("heat", 10, soon())}
            assert found == {"8": pytest.approx(0.5), "9": pytest.approx(1.5)}

    async def test_dislikes_push_an_item_out(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.apply([took("toy story", "1"), took("toy story", "1", "u:bob", -1.0)], 1)
            await memory.predict({"1": [("toy story", 0.9)]})
            assert await memory.remembered(TOY, 10, soon()) == []

    async def test_actual_scores_take_the_place_of_predicted_ones(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.predict({"1": [("Toy Story", 0.5), ("story toys", 0.4)], "2": [("toy story", 0.25)], "3": []})
            found = await memory.remembered(TOY, 10, soon())
            assert found == [Remembered("1", 0.5, 0.0, True, 1.0), Remembered("2", 0.25, 0.0, True, 1.0)]
            (near, *_) = await memory.remembered(memory_key("toy story andy"), 10, soon())
            assert near.object_id == "1"
            assert near.predicted
            assert near.score < 0.5
            await memory.apply([asked("toy story"), took("toy story", "2", "u:ann")], 1)
            by_id = {e.object_id: e for e in await memory.remembered(TOY, 10, soon())}
            assert not by_id["2"].predicted
            assert by_id["2"].clicks == 1.0
            assert by_id["1"].predicted
            await memory.predict({"1": [("woody", 0.5)], "2": [("toy story", 1.0)]})
            (actual,) = await memory.remembered(TOY, 10, soon())
            assert (actual.object_id, actual.predicted) == ("2", False)
            assert ids(await memory.remembered(memory_key("woody"), 10, soon())) == ["1"]

    async def test_predictions_fade_as_their_query_is_asked(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.predict({"1": [("toy story", 0.1)], "2": [("toy story", 0.1)], "3": [("heat", 0.1)]})
            await memory.apply([asked("toy story", f"u:{i}") for i in range(5)], 1)
            found = await memory.remembered(TOY, 10, soon())
            assert [(e.object_id, e.score, e.predicted) for e in found] == [
                ("1", pytest.approx(0.05), True),
                ("2", pytest.approx(0.05), True),
            ]
            await memory.apply([took("toy story", "2", "u:0")], 2)
            assert ids(await memory.remembered(TOY, 10, soon())) == ["2", "1"]
            (untouched,) = await memory.remembered("heat", 10, soon())
            assert untouched.score == pytest.approx(0.1)

    async def test_a_query_keeps_its_best_items_and_gives_new_ones_a_chance(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            strong = [took("toy story", item, f"u:{i}") for item in "abc" for i in range("abc".index(item) + 2)]
            await memory.apply(strong, 1)
            await memory.apply([took("toy story", "new")], 2)
            assert ids(await memory.remembered(TOY, 10, soon())) == ["c", "b", "new"]

    async def test_a_history_is_newest_first_and_bounded(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.apply([did("u:ann", str(n), at=float(n)) for n in range(8)] + [did("u:bob", "x", -1.0)], 1)
            person = await memory.person("u:ann", 10, soon())
            assert person.recent == tuple((str(n), 1.0, float(n)) for n in (7, 6, 5, 4, 3))
            assert (await memory.person("u:ann", 2, soon())).recent == (("7", 1.0, 7.0), ("6", 1.0, 6.0))
            assert (await memory.person("u:bob", 10, soon())).recent == (("x", -1.0, 0.0),)

    async def test_popular_queries_begin_with_the_prefix(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            texts = ["toy story"] * 3 + ["toy soldiers"] * 2 + ["story"] + ["toy%", "t_y"]
            await memory.apply([asked(text, f"u:{i}") for i, text in enumerate(texts)], 1)
            assert await memory.popular_queries("toy ", 10, soon()) == [("toy story", 3.0), ("toy soldiers", 2.0)]
            assert [t for t, _ in await memory.popular_queries("t", 2, soon())] == ["toy story", "toy soldiers"]
            assert [t for t, _ in await memory.popular_queries("t_", 9, soon())] == ["t_y"]
            assert [t for t, _ in await memory.popular_queries("toy%", 9, soon())] == ["toy%"]
            assert await memory.popular_queries("zoo", 10, soon()) == []

    async def test_a_forgotten_user_leaves_nothing_that_can_be_told_apart(self, tmp_path: Path) -> None:
        mine = [
            asked("toy story", "u:ann"),
            took("toy story", "1"),
            took("toy story", "2", weight=2.0),
            asked("my secret", "u:ann"),
            took("my secret", "5"),
            did("u:ann", "1"),
        ]
        others = [asked("toy story", "u:bob"), took("toy story", "1", "u:bob"), did("u:bob", "1")]

        async def state(memory: MemoryIndex) -> object:
            keys = (TOY, memory_key("my secret"), memory_key("toys"), memory_key("secret"))
            return (
                [await memory.remembered(key, 10, soon()) for key in keys],
                await memory.popular_queries("", 10, soon()),
                [(await memory.person(p, 10, soon())).recent for p in ("u:ann", "u:bob")],
            )

        results: list[object] = []
        async with self.use(tmp_path / "a") as memory:
            await memory.apply([*mine, *others, *mine, forget("ann")], 1)
            results.append(await state(memory))
        async with self.use(tmp_path / "b") as memory:
            await memory.apply(others, 1)
            results.append(await state(memory))
        assert results[0] == results[1]

    async def test_a_removed_item_is_forgotten(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            await memory.apply(
                [took("toy story", "1"), took("toy story", "2"), took("heat", "1"), did("u:ann", "1")], 1
            )
            await memory.predict({"1": [("woody", 0.5)]})
            await memory.forget_items(["1", "never seen"])
            assert ids(await memory.remembered(TOY, 10, soon())) == ["2"]
            assert await memory.remembered("heat", 10, soon()) == []
            assert await memory.remembered(memory_key("woody"), 10, soon()) == []
            assert (await memory.person("u:ann", 10, soon())).recent == (("1", 1.0, 0.0),)
            await memory.apply([took("toy story", "1", weight=1.0)], 2)
            assert {e.object_id: e.clicks for e in await memory.remembered(TOY, 10, soon())} == {"1": 1.0, "2": 1.0}

    async def test_text_is_only_ever_a_value(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            odd = ["x'; DROP TABLE scores; --", "%", "a\x00b", "🍿 🍿", "?", "ß" * 300]
            for number, text in enumerate(odd, 1):
                await memory.apply([asked(text, text), took(text, text, text), did(text, text)], number)
            for text in odd:
                assert text in ids(await memory.remembered(memory_key(text), 10, soon()))
                assert text in [t for t, _ in await memory.popular_queries(text, 10, soon())]
                assert (await memory.person(text, 1, soon())).recent == ((text, 1.0, 0.0),)

    async def test_no_work_begins_after_its_deadline(self, tmp_path: Path) -> None:
        async with self.use(tmp_path) as memory:
            late = Deadline.after(-1.0)
            with pytest.raises(TimeoutError):
                await memory.remembered(TOY, 10, late)
            with pytest.raises(TimeoutError):
                await memory.person("u:ann", 10, late)
            with pytest.raises(TimeoutError):
                await memory.popular_queries("t", 10, late)

    # --- for backups ---

    @pytest.mark.parametrize("seed", range(3))
    async def test_its_rows_make_the_same_memory_elsewhere(self, tmp_path: Path, seed: int) -> None:
        changes = random_changes(300, seed)
        people = [f"u:{number}" for number in range(6)]
        async with self.two(tmp_path) as (one, other):
            await one.apply(changes[:200], 200)
            await copied(one, other)
            assert await other.offset() == 200
            assert await told(other, people) == await told(one, people)
            for memory in (one, other):  # and it goes on as the first does
                await memory.apply(changes[200:], 300)
            assert await told(other, people) == await told(one, people)
            assert await everything(other) == await everything(one)

    async def test_names_of_all_kinds_are_put_back(self, tmp_path: Path) -> None:
        odd = 'a:b "c" \U0001f600 é'
        async with self.two(tmp_path) as (one, other):
            await one.apply([asked(odd, odd, 1e9), took(odd, odd, odd, 1 / 7, 1e9), did(odd, odd, 1 / 3, 1e9)], 7)
            await copied(one, other)
            assert await everything(other) == await everything(one)
            assert (await other.person(odd, 10, soon())).recent == ((odd, 1 / 3, 1e9),)
            assert ids(await other.remembered(memory_key(odd), 10, soon())) == [odd]

    async def test_an_empty_memory_is_copied_too(self, tmp_path: Path) -> None:
        async with self.two(tmp_path) as (one, other):
            await copied(one, other)
            assert await everything(other) == [("state", 0, 0, 0.0)]
            await other.apply([took("toy story", "1")], 1)
            assert await other.offset() == 1

    async def test_what_is_predicted_stays_behind(self, tmp_path: Path) -> None:
        async with self.two(tmp_path) as (one, other):
            await one.predict({"1": [("toy story", 0.5)]})
            await copied(one, other)
            assert await other.remembered(TOY, 10, soon()) == []

    @asynccontextmanager
    async def two(self, folder: Path) -> AsyncIterator[tuple[MemoryIndex, MemoryIndex]]:
        (folder / "other").mkdir()
        async with self.use(folder) as one, self.use(folder / "other") as other:
            yield one, other


async def everything(memory: MemoryIndex) -> list[MemoryRow]:
    """Its rows, sorted."""
    return sorted([row async for rows in memory.rows() for row in rows], key=repr)


async def copied(one: MemoryIndex, other: MemoryIndex) -> None:
    async for rows in one.rows():
        await other.put_rows(rows)


async def told(memory: MemoryIndex, people: list[str]) -> list[object]:
    keys = {memory_key(text) for text, _ in await memory.popular_queries("", 50, soon())}
    return [
        await memory.popular_queries("", 50, soon()),
        [await memory.remembered(key, 50, soon()) for key in sorted(keys)],
        [await memory.person(person, 50, soon()) for person in people],
    ]
