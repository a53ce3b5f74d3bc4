"""Contract of every StateStore."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from services.backends.base import StateStore


class StateStoreContract:
    """Subclasses give `open(folder)`: the switches kept there, with what was in them before."""

    def open(self, folder: Path) -> AbstractAsyncContextManager[StateStore]:
        raise NotImplementedError

    async def test_what_was_never_set_is_none(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as state:
            assert await state.get("mode") is None

    @pytest.mark.parametrize(
        "value", [None, True, 0, 1.5, "é\x00\n", [], [1, "a"], {"a": {"b": [None]}}, "x" * 100_000]
    )
    async def test_json_comes_back_equal_and_is_there_after_reopening(self, tmp_path: Path, value: Any) -> None:
        async with self.open(tmp_path) as state:
            await state.set("mode", "old")
            await state.set("mode", value)
            await state.set("other", 1)
            assert await state.get("mode") == value
        async with self.open(tmp_path) as state:
            assert await state.get("mode") == value
            assert await state.get("other") == 1

    async def test_what_is_not_json_is_refused_and_changes_nothing(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as state:
            await state.set("mode", "learned")
            with pytest.raises(ValueError, match="mode"):
                await state.set("mode", object())
            assert await state.get("mode") == "learned"

    async def test_a_reader_elsewhere_sees_a_switch_at_once(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as one, self.open(tmp_path) as other:
            for number in range(20):
                await one.set("mode", number)
                assert await other.get("mode") == number

    async def test_everything_that_was_set_is_told(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as state:
            assert await state.all() == {}
            for key, value in (("mode", "static"), ("é", None), ("note", {"by": ["ann"]}), ("mode", "learned")):
                await state.set(key, value)
            assert await state.all() == {"mode": "learned", "é": None, "note": {"by": ["ann"]}}

    async def test_of_many_writers_at_once_one_wins(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as state:
            await asyncio.gather(*(state.set("mode", {"n": n, "again": n}) for n in range(50)))
            value = await state.get("mode")
            assert value is not None
            assert value["n"] == value["again"]
