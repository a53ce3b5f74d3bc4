"""Versions that are current in the model store are activated, each kind independently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.system.reloading import Reloader
from services.models.store import ModelStore


class Taken:
    """Counts how often a kind was taken up; may take long or fail."""

    def __init__(self) -> None:
        self.times = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None

    async def __call__(self) -> None:
        self.begun.set()
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.times += 1


@asynccontextmanager
async def run(path: Path) -> AsyncIterator[tuple[ModelStore, Taken, Taken, Reloader]]:
    store, one, two = ModelStore(path), Taken(), Taken()
    yield store, one, two, Reloader(store, {"one": one, "two": two})


def promote(store: ModelStore, kind: str, content: bytes) -> None:
    store.promote(kind, store.publish(kind, {"file": content}, {}), "test")


async def test_what_stands_in_for_no_model_is_taken_up_once(tmp_path: Path) -> None:
    async with run(tmp_path) as (store, one, two, reloader):
        await reloader.reload_all()
        await reloader.reload_all()
        assert (one.times, two.times) == (1, 1)
        promote(store, "one", b"1")
        await reloader.reload_all()
        assert (one.times, two.times) == (2, 1)


async def test_a_kind_that_takes_long_holds_up_no_other(tmp_path: Path) -> None:
    async with run(tmp_path) as (store, one, two, reloader):
        one.go.clear()
        stop = asyncio.Event()
        running = asyncio.create_task(reloader.run(stop))
        promote(store, "two", b"1")
        await asyncio.wait_for(one.begun.wait(), 5.0)
        await asyncio.wait_for(reloader.reload("two"), 5.0)
        assert (one.times, two.times) == (0, 1)
        one.go.set()
        stop.set()
        await asyncio.wait_for(running, 5.0)
        assert (one.times, two.times) == (1, 1)


async def test_a_version_that_cannot_be_taken_up_is_tried_again(tmp_path: Path) -> None:
    async with run(tmp_path) as (_, one, two, reloader):
        one.failure = OSError("the engine is away")
        with pytest.raises(OSError, match="away"):
            await reloader.reload_all()
        assert two.times == 1, "the other one had its turn"
        one.failure = None
        await reloader.reload_all()
        assert (one.times, two.times) == (1, 1)
