"""Contract of every Locks."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from services.backends.base import Locks


class LocksContract:
    """Subclasses give `open()`: locks that nobody holds."""

    def open(self) -> AbstractAsyncContextManager[Locks]:
        raise NotImplementedError

    async def test_one_at_a_time(self) -> None:
        async with self.open() as locks:
            inside = most = turns = 0

            async def work() -> None:
                nonlocal inside, most, turns
                for _ in range(5):
                    async with locks.hold("indexing"):
                        inside += 1
                        most = max(most, inside)
                        await asyncio.sleep(0.001)
                        inside -= 1
                        turns += 1

            await asyncio.gather(*(work() for _ in range(8)))
            assert (most, turns) == (1, 40)

    async def test_names_do_not_wait_for_each_other(self) -> None:
        async with self.open() as locks, locks.hold("a"), locks.hold("b"), locks.hold("a:b"):
            pass

    async def test_released_when_the_body_fails_or_is_cancelled(self) -> None:
        async with self.open() as locks:
            with pytest.raises(KeyError):
                async with locks.hold("a"):
                    raise KeyError
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), locks.hold("a"):
                    await asyncio.sleep(60)
            async with asyncio.timeout(5), locks.hold("a"):
                pass

    async def test_who_gives_up_waiting_leaves_the_lock_to_others(self) -> None:
        async with self.open() as locks:
            async with locks.hold("a"):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05), locks.hold("a"):
                        pytest.fail("held twice")
            async with asyncio.timeout(5), locks.hold("a"):
                pass

    async def test_an_error_of_the_body_passes_through(self) -> None:
        async with self.open() as locks:
            for error in (TimeoutError("mine"), ValueError("mine")):
                with pytest.raises(type(error), match="mine"):
                    async with locks.hold("a"):
                        raise error
