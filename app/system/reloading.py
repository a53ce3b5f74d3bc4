"""Activates, in this process, the versions that are current in the model store: at the start, and on changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from services.models.store import ModelStore
from services.resilience.polling import poll

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

Load = Callable[[], Awaitable[None]]
"""Loads and activates the store's current version of one kind, or its stand-in where there is none."""


class Reloader:
    """Watches the kinds of `loads` independently: a slow one delays no other. When a version cannot be loaded, the
    active one stays."""

    def __init__(self, store: ModelStore, loads: Mapping[str, Load]) -> None:
        self._store = store
        self._loads = dict(loads)
        self._versions: dict[str, str | None] = {}
        """Version of each kind that was loaded at least once (None: there was none)."""
        self._locks = {kind: asyncio.Lock() for kind in loads}

    async def reload(self, kind: str) -> None:
        """Load the current version of `kind` now, if it differs from the one loaded last. Kinds that are not watched
        are left alone. Raises what loading raises."""
        if kind not in self._loads:
            return
        async with self._locks[kind]:
            version = await asyncio.to_thread(self._store.current_version, kind)
            if kind in self._versions and version == self._versions[kind]:
                return
            await self._loads[kind]()
            self._versions[kind] = version
            if version is None:
                logger.info("model_missing kind=%s", kind)
            else:
                logger.info("model_in_force kind=%s version=%s", kind, version)

    async def reload_all(self) -> None:
        """Reload every kind. Raises the first failure, after the others had their turn."""
        outcomes = await asyncio.gather(*map(self.reload, self._loads), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def run(self, stop: asyncio.Event) -> None:
        """Check every POLL_SECONDS until `stop` is set. Failures are logged: the store, or an engine, may be away."""
        await asyncio.gather(
            *(
                poll(partial(self.reload, kind), stop, interval=POLL_SECONDS, on_failure=partial(_report, kind))
                for kind in self._loads
            )
        )


def _report(kind: str, error: Exception) -> None:
    logger.warning("model_not_taken_up kind=%s error=%s", kind, type(error).__name__)
