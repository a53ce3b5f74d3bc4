"""Requests of gateways to a learner in another process, and its responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import pytest

from services.backends.base import Tick
from services.backends.sqlite.state import SqliteState
from services.errors import NotFound, Unavailable
from services.learning import learner_link
from services.learning.learner_link import ANSWER, REQUEST, LearnerLink, attend
from tests.builders.records import make_impression, make_interaction
from tests.learning.test_learner import WINDOW, Rig


@asynccontextmanager
async def linked(folder: Path, attending: bool = True) -> AsyncIterator[tuple[Rig, LearnerLink, SqliteState]]:
    state = SqliteState(folder / "state.db")
    stop = asyncio.Event()
    async with Rig(folder) as rig:
        link = LearnerLink(rig.log, rig.memory, state)
        tasks = [asyncio.create_task(attend(rig.learner, state, stop))] if attending else []
        with mock.patch.multiple(learner_link, POLL_SECONDS=0.02, STATUS_SECONDS=0.02, ANSWER_SECONDS=0.5):
            try:
                yield rig, link, state
            finally:
                stop.set()
                await asyncio.gather(*tasks)
                await state.close()


async def two_snapshots(rig: Rig) -> tuple[str, str]:
    """An earlier and a later one."""
    first = await rig.learner.publish()
    await rig.append(make_impression("q1", at=1.0), make_interaction(query_id="q1", at=2.0), Tick(2 * WINDOW))
    await rig.learner.catch_up()
    second = await rig.learner.publish()
    assert first is not None
    assert second is not None
    assert first != second
    return first, second


async def test_the_learner_adopts_what_is_asked_and_says_so(tmp_path: Path) -> None:
    async with linked(tmp_path) as (rig, link, _):
        first, _second = await two_snapshots(rig)
        version = await link.adopt(first)
        assert rig.store.current_version("policy") == version
        assert rig.store.load("policy", version).meta["adopted"] == first
        with pytest.raises(NotFound):
            await link.adopt("nothing-like-it")


async def test_a_request_that_was_refused_for_want_of_a_learner_does_not_happen_later(tmp_path: Path) -> None:
    async with linked(tmp_path, attending=False) as (rig, link, state):
        first, second = await two_snapshots(rig)
        with pytest.raises(Unavailable):
            await link.adopt(first)
        stop = asyncio.Event()
        attending = asyncio.create_task(attend(rig.learner, state, stop))
        await asyncio.sleep(0.2)
        stop.set()
        await attending
        assert (await state.get(REQUEST))["adopt"] == first
        assert await state.get(ANSWER) is None
        assert rig.store.current_version("policy") == second


async def test_an_adoption_that_could_not_be_written_comes_with_no_later_snapshot(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        first, _ = await two_snapshots(rig)
        learned = rig.learner.policy.policy.dump()
        assert learned != rig.store.load("policy", first).files["policy.bin"]
        with (
            mock.patch.object(rig.store, "publish", side_effect=OSError("full")),
            pytest.raises(OSError, match="full"),
        ):
            await rig.learner.adopt(first)
        assert rig.learner.policy.policy.dump() == learned


async def test_catching_up_is_waited_for_as_long_as_the_learner_gets_on(tmp_path: Path) -> None:
    async with linked(tmp_path) as (rig, link, _):
        await rig.append(*(make_impression(f"q{n}", at=float(n)) for n in range(20)))
        with pytest.raises(Unavailable):
            await link.catch_up(policy=False)  # it reads nothing: nobody runs it

        async def slowly() -> None:
            for _ in range(20):
                await asyncio.sleep(0.1)
                await rig.learner.step(1)

        _, _ = await asyncio.gather(slowly(), link.catch_up(policy=False))
        assert await rig.memory.offset() == 20
        progress = await link.observe()
        assert progress.lag["memory"] == 0
        seen = await link.status_age()
        assert seen is not None
        assert seen < 10.0
