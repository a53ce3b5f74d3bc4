"""Puts in force, in this process, what the model store says is current: at the start, and when that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from services.models.store import ModelStore

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

Load = Callable[[], Awaitable[None]]
"""Takes up the store's current version of one kind, or what stands in where there is none."""


class Reloader:
    """Watches the kinds of `loads`, each by itself: one that takes long holds up no other. A version that cannot be
    taken up leaves the one in force where it is."""

    def __init__(self, store: ModelStore, loads: Mapping[str, Load]) -> None:
        self._store = store
        self._loads = dict(loads)
        self._versions: dict[str, str | None] = {}
        """What was taken up; a kind is not among them before it was for the first time, also of no version."""
        self._locks = {kind: asyncio.Lock() for kind in loads}

    async def reload(self, kind: str) -> None:
        """Take up the current version of `kind` now, if it is another one than before."""
        if kind not in self._loads:
            return
        async with self._locks[kind]:
            version = await asyncio.to_thread(self._store.current_version, kind)
            if kind in self._versions and version == self._versions[kind]:
                return
            await self._loads[kind]()
            self._versions[kind] = version
            if version is not None:
                logger.info("model_in_force kind=%s version=%s", kind, version)

    async def reload_all(self) -> None:
        """Raises what the first that fails raises, after the others had their turn."""
        outcomes = await asyncio.gather(*map(self.reload, self._loads), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def run(self, stop: asyncio.Event) -> None:
        """Look every POLL_SECONDS until `stop` is set."""
        await asyncio.gather(*(self._watch(kind, stop) for kind in self._loads))

    async def _watch(self, kind: str, stop: asyncio.Event) -> None:
        failing = False
        while not stop.is_set():
            try:
                await self.reload(kind)
                failing = False
            except Exception as error:
                if not failing:  # said once: the store, or an engine, may be away for a while
                    logger.warning("model_not_taken_up kind=%s error=%s", kind, type(error).__name__)
                failing = True
            try:
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)
            except TimeoutError:
                continue
