"""The model registry as routes and commands use it: what there is, what is in force, and changing that by the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from services.errors import ModelInvalid
from services.models.store import ModelStore, Version

Reload = Callable[[str], Awaitable[None]]


class Registry:
    def __init__(self, store: ModelStore, reload: Reload) -> None:
        """`reload(kind)` puts the store's current version in force in this process."""
        self._store = store
        self._reload = reload

    async def listing(self) -> dict[str, Any]:
        return await asyncio.to_thread(listing, self._store)

    async def promote(self, kind: str, version: str, reason: str, force: bool) -> None:
        """In force when this returns. Raises NotFound, or ModelInvalid for a version that did not pass its gate."""
        await asyncio.to_thread(promote, self._store, kind, version, reason, force)
        await self._reload(kind)

    async def rollback(self, kind: str) -> str:
        """The version that is in force again. Raises NotFound when there is none to go back to."""
        version = await asyncio.to_thread(self._store.rollback, kind, "rolled back by hand")
        await self._reload(kind)
        return version


def listing(store: ModelStore) -> dict[str, Any]:
    """Every kind with its versions, newest first."""
    return {
        "kinds": {
            kind: {
                "current": store.current_version(kind),
                "versions": [_view(version) for version in store.versions(kind)],
            }
            for kind in store.kinds()
        }
    }


def promote(store: ModelStore, kind: str, version: str, reason: str, force: bool) -> None:
    """Promote if the version passed its gate when it was trained, or by force, which the history then says."""
    verdict = store.load(kind, version).meta.get("gate", {})
    if not verdict.get("promote", True):
        if not force:
            raise ModelInvalid(f"{kind} {version} did not pass its gate ({verdict.get('reason')}); force it if you must")
        reason = f"forced past its gate ({verdict.get('reason')}): {reason}"
    store.promote(kind, version, reason)


def _view(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "created": version.created,
        "current": version.current,
        "meta": {name: value for name, value in version.meta.items() if name not in ("reference", "state")},
        "promotions": [{"at": p.at, "action": p.action, "reason": p.reason} for p in version.promotions],
    }
