"""Puts in force, in this process, what the model store says is current: at the start, and when that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from services.models.store import ModelStore

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

Load = Callable[[], Awaitable[None]]
"""Takes up the store's current version of one kind."""


class Reloader:
    """Watches the kinds of `loads`. A version that cannot be taken up leaves the one in force where it is."""

    def __init__(self, store: ModelStore, loads: Mapping[str, Load]) -> None:
        self._store = store
        self._loads = dict(loads)
        self._versions: dict[str, str | None] = dict.fromkeys(loads)
        self._lock = asyncio.Lock()

    async def reload(self, kind: str) -> None:
        """Take up the current version of `kind` now, if it is another one than before."""
        if kind not in self._loads:
            return
        async with self._lock:
            version = await asyncio.to_thread(self._store.current_version, kind)
            if version == self._versions[kind]:
                return
            await self._loads[kind]()
            self._versions[kind] = version
            logger.info("model_in_force kind=%s version=%s", kind, version)

    async def reload_all(self) -> None:
        for kind in self._loads:
            await self.reload(kind)

    async def run(self, stop: asyncio.Event) -> None:
        """Look every POLL_SECONDS until `stop` is set."""
        failing: set[str] = set()
        while not stop.is_set():
            for kind in self._loads:
                try:
                    await self.reload(kind)
                    failing.discard(kind)
                except Exception as error:
                    if kind not in failing:  # said once: the store may be away for a while
                        logger.warning("model_not_taken_up kind=%s error=%s", kind, type(error).__name__)
                    failing.add(kind)
            try:
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)
            except TimeoutError:
                continue
