"""Arms whose lists are kept, over the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from services.backends.base import IndexQuery, IndexResult
from services.errors import ArmFailed
from services.simulation.recorded import Lists, RecordedArm, RecordedIndex
from services.types import Candidate, Context, Deadline, Person, Query, Understanding

COUNTS = (0, 5, 10, 25)


class Asked:
    """An arm that notes what it is asked, and lists items named after the query (and the person)."""

    counts = COUNTS

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[tuple[str, int]] = []
        self.generation = 0

    def available(self, context: Context) -> bool:
        return context.query.text != "nothing"

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        self.asked.append((context.query.text, count))
        who = ",".join(object_id for object_id, _, _ in context.person.recent)
        names = (f"{context.query.text}-{who}-{self.generation}-{place}" for place in range(20))
        return [Candidate(name, 1.0 / (1 + place)) for place, name in enumerate(names)][:count]


def context(text: str, recent: Sequence[tuple[str, float, float]] = (), **fields: object) -> Context:
    understanding = Understanding(text, (), (), None, "und", ())
    return Context(Query(text, **fields), understanding, 0.0, Person(recent=tuple(recent)))  # type: ignore[arg-type]


async def ids(arm: RecordedArm, asked: Context, count: int) -> list[str]:
    return [c.object_id for c in await arm.retrieve(asked, count, Deadline.after(1.0))]


Opened = Callable[[], Lists]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Lists over one file, each as another run has them."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Lists(tmp_path / "lists")))


async def test_an_arm_is_asked_once_a_query_and_at_its_full_depth() -> None:
    inner = Asked("lexical")
    arm = RecordedArm(inner)
    first = await ids(arm, context("river"), 5)
    whole = await ids(arm, context("river"), 25)
    assert len(whole) == 20
    assert first == whole[:5]
    for count in (5, 10, 25):
        assert await ids(arm, context("river"), count) == whole[:count]
    assert inner.asked == [("river", 25)]
    assert (await ids(arm, context("winter"), 5))[0].startswith("winter")
    assert len(inner.asked) == 2


async def test_what_is_given_out_can_be_changed_without_harm() -> None:
    arm = RecordedArm(Asked("lexical"))
    found = await arm.retrieve(context("river"), 25, Deadline.after(1.0))
    found.clear()
    assert len(await ids(arm, context("river"), 25)) == 20


async def test_filters_make_another_list() -> None:
    inner = Asked("lexical")
    arm = RecordedArm(inner)
    await ids(arm, context("river"), 5)
    await ids(arm, context("river", filters=(("year", 1990),)), 5)
    assert len(inner.asked) == 2


async def test_only_the_personal_arm_minds_who_asks() -> None:
    for name, times in (("personal", 2), ("lexical", 1)):
        inner = Asked(name)
        arm = RecordedArm(inner)
        await ids(arm, context("river", [("a", 1.0, 0.0)]), 5)
        other = await ids(arm, context("river", [("b", 1.0, 0.0)]), 5)
        assert len(inner.asked) == times
        assert ("b" in other[0].split("-")) is (name == "personal")


async def test_memory_is_never_kept() -> None:
    inner = Asked("memory")
    arm = RecordedArm(inner)
    assert await ids(arm, context("river"), 5) == (await ids(arm, context("river"), 10))[:5]
    assert inner.asked == [("river", 5), ("river", 10)]


async def test_a_dead_arm_fails_even_where_its_list_is_known() -> None:
    dead: set[str] = set()
    arm = RecordedArm(Asked("lexical"), dead=lambda: dead)
    before = await ids(arm, context("river"), 5)
    dead.add("lexical")
    assert arm.available(context("river")), "nobody knows before it is asked"
    with pytest.raises(ArmFailed, match="unavailable"):
        await ids(arm, context("river"), 5)
    dead.clear()
    assert await ids(arm, context("river"), 5) == before
    dead.add("vector")
    assert await ids(arm, context("river"), 5) == before


def test_an_absent_arm_has_nothing_for_anybody() -> None:
    absent: set[str] = set()
    arm = RecordedArm(Asked("lexical"), absent=lambda: absent)
    assert arm.available(context("river"))
    assert not arm.available(context("nothing"))
    absent.add("lexical")
    assert not arm.available(context("river"))


async def test_lists_are_forgotten_when_the_catalogue_changes(opened: Opened) -> None:
    inner = Asked("lexical")
    lists = opened()
    arm = RecordedArm(inner, lists=lists)
    before = await ids(arm, context("river"), 5)
    inner.generation += 1
    assert await ids(arm, context("river"), 5) == before
    lists.forget()
    assert await ids(arm, context("river"), 5) != before
    asked = len(inner.asked)
    await ids(arm, context("river"), 5)
    assert len(inner.asked) == asked, "kept from now on, here"
    assert await ids(RecordedArm(inner, lists=opened()), context("river"), 5) == before, "and not there"


def test_it_stands_for_the_arm_inside() -> None:
    inner = Asked("lexical")
    assert (RecordedArm(inner).name, RecordedArm(inner).counts) == ("lexical", COUNTS)


class TestOnDisk:
    async def test_another_run_finds_the_very_same_lists(self, opened: Opened) -> None:
        async def listed(inner: Asked) -> list[Candidate]:
            lists = opened()
            found = await RecordedArm(inner, lists=lists).retrieve(context("river"), 25, Deadline.after(1.0))
            lists.close()
            return found

        one, other = Asked("lexical"), Asked("lexical")
        assert await listed(one) == await listed(other)
        assert (one.asked, other.asked) == ([("river", 25)], [])

    async def test_arms_and_queries_are_told_apart(self, opened: Opened) -> None:
        lists = opened()
        arms = [Asked("lexical"), Asked("vector")]
        for arm in arms:
            for text in ("river", "winter"):
                await ids(RecordedArm(arm, lists=lists), context(text), 5)
        assert all(len(arm.asked) == 2 for arm in arms)

    async def test_lists_of_a_person_stay_in_the_run(self, opened: Opened) -> None:
        for _ in range(2):
            inner = Asked("personal")
            lists = opened()
            await ids(RecordedArm(inner, lists=lists), context("river"), 5)
            await ids(RecordedArm(inner, lists=lists), context("river"), 5)
            lists.close()
            assert len(inner.asked) == 1

    def test_two_runs_may_write_at_the_same_time(self, opened: Opened) -> None:
        one, other = opened(), opened()
        for number in range(20):
            for lists in (one, other):
                lists.put("lexical", str(number), (number, [Candidate("a", 0.1)]))
        assert other.get("lexical", "7") == (7, [Candidate("a", 0.1)])


class TestIndex:
    class Matching:
        def __init__(self) -> None:
            self.asked = 0

        async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
            self.asked += 1
            return IndexResult((Candidate("a", 0.3),), 7 + query.offset, dict.fromkeys(query.facets, ()))

    async def test_what_matches_is_asked_once(self, opened: Opened) -> None:
        for _ in range(2):
            inner = self.Matching()
            lists = opened()
            index = RecordedIndex(inner, lists)
            found = [await index.search(IndexQuery(offset=n), Deadline.after(1.0)) for n in (0, 1, 0)]
            assert found == [IndexResult((Candidate("a", 0.3),), total) for total in (7, 8, 7)]
            lists.close()
        assert inner.asked == 0

    async def test_facets_are_counted_anew(self) -> None:
        inner = self.Matching()
        index = RecordedIndex(inner, Lists())
        for _ in range(2):
            found = await index.search(IndexQuery(facets=("year",)), Deadline.after(1.0))
            assert found.facets == {"year": ()}
        assert inner.asked == 2
