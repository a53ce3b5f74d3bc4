"""Contract of every arm: assertions once, a subclass of ArmContract per arm."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.arms.base import Arm
from services.errors import ArmFailed
from services.schema.filters import matches
from services.types import Candidate, Condition, Context, Deadline, Document, Query, Schema, Understanding
from services.understanding.pipeline import Understander


@dataclass(frozen=True, slots=True)
class Case:
    """An arm over a small catalogue, and requests for it."""

    arm: Arm
    documents: Mapping[str, Document]
    schema: Schema
    contexts: Sequence[Context]
    """Requests that the arm answers, each with at least two items."""
    filters: tuple[Condition, ...]
    """Filters that leave some of those items and take others away."""
    silent: Sequence[Context] = field(default_factory=tuple)
    """Requests that it has nothing to go on for."""
    close: Callable[[], Awaitable[None]] | None = None


def context_of(query: Query, understanding: Understanding, at: float = 1_700_000_000.0) -> Context:
    return Context(query, understanding, at)


def asking(text: str, understander: Understander) -> Context:
    return context_of(Query(text), understander.understand(text))


class ArmContract:
    async def case(self, folder: Path) -> Case:
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Case]:
        case = await self.case(folder)
        try:
            yield case
        finally:
            if case.close is not None:
                await case.close()

    async def test_name_and_counts(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as case:
            assert case.arm.name == case.arm.name.casefold()
            assert case.arm.name.isidentifier()
            assert case.arm.counts[0] == 0
            assert list(case.arm.counts) == sorted(set(case.arm.counts))

    async def test_available_where_it_has_something_to_go_on(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as case:
            assert case.contexts
            assert all(case.arm.available(context) for context in case.contexts)
            assert not any(case.arm.available(context) for context in case.silent)
            for context in case.silent:
                assert await case.arm.retrieve(context, 10, Deadline.after(10)) == []

    async def test_at_most_count_best_first_no_item_twice(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as case:
            for context in case.contexts:
                assert len(await case.arm.retrieve(context, 2, Deadline.after(10))) == 2
                for count in (0, 1, 2, 3, 5, 100):
                    found = await case.arm.retrieve(context, count, Deadline.after(10))
                    _well_formed(found, count, case)

    async def test_only_items_under_the_filters(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as case:
            for context in case.contexts:
                everything = await case.arm.retrieve(context, 100, Deadline.after(10))
                narrowed = replace(context, query=replace(context.query, filters=case.filters))
                for count in (1, 100):
                    found = await case.arm.retrieve(narrowed, count, Deadline.after(10))
                    _well_formed(found, count, case)
                    assert all(matches(case.filters, case.documents[c.object_id], case.schema) for c in found)
                allowed = [c for c in everything if matches(case.filters, case.documents[c.object_id], case.schema)]
                assert 0 < len(allowed) < len(everything), "the case's filters must leave some and take some"
                assert found

    async def test_the_same_request_gives_the_same_list(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as case:
            for context in case.contexts:
                first = await case.arm.retrieve(context, 10, Deadline.after(10))
                assert await case.arm.retrieve(context, 10, Deadline.after(10)) == first

    async def test_never_half_an_answer_when_the_deadline_has_passed(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as case:
            for context in case.contexts:
                whole = await case.arm.retrieve(context, 10, Deadline.after(10))
                try:
                    late = await case.arm.retrieve(context, 10, Deadline(time.monotonic() - 1.0))
                except (TimeoutError, ArmFailed):
                    continue
                assert late == whole


def _well_formed(found: list[Candidate], count: int, case: Case) -> None:
    assert len(found) <= count
    object_ids = [candidate.object_id for candidate in found]
    assert len(set(object_ids)) == len(object_ids)
    assert set(object_ids) <= set(case.documents)
    scores = [candidate.score for candidate in found]
    assert all(math.isfinite(score) for score in scores)
    assert scores == sorted(scores, reverse=True)
