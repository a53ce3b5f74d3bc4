"""The model registry for routes and commands: listing versions, promotion by the gates, and rollback."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from app.system.model_kinds import by_learner
from app.system.reloading import Reloader
from services.errors import ModelInvalid, NotFound
from services.learning.learner_link import LearnerView
from services.learning.snapshots import ADOPTED
from services.models.store import ModelStore, Version
from services.offpolicy.gate import PolicyGate

logger = logging.getLogger(__name__)

BY_HAND = "rolled back by hand"


class Registry:
    """Registry of a running service: promotions and rollbacks are active when the call returns."""

    def __init__(self, store: ModelStore, learner: LearnerView, reloader: Reloader, gate: PolicyGate) -> None:
        self._store = store
        self._learner = learner
        self._reloader = reloader
        self._gate = gate

    async def listing(self) -> dict[str, Any]:
        """Every kind with its versions, newest first."""
        return await asyncio.to_thread(listing, self._store)

    async def promote(self, kind: str, version: str, reason: str, force: bool) -> None:
        """Promote a version. The learner's models are judged now, against the active version; any other kind was judged
        when it was trained. A version that does not pass goes live only with `force`.

        Raises NotFound, or ModelInvalid for a version that does not pass its gate.
        """
        if by_learner(kind):
            verdict = await self._gate.judge(version)
            why = _allowed_reason(kind, version, verdict.promote, verdict.reason, reason, force)
            adopted = await self._learner.adopt(version)
            await asyncio.to_thread(self._store.note, kind, adopted, why)
            await self._reloader.reload(kind)
            return
        await asyncio.to_thread(promote, self._store, kind, version, reason, force)
        await self._reloader.reload(kind)

    async def reload(self) -> None:
        """Activate the versions that are current in the store now."""
        await self._reloader.reload_all()

    async def rollback(self, kind: str) -> str:
        """Go back to the previous version, and return it. There is no gate: this is the emergency exit.

        Raises NotFound when there is none to go back to.
        """
        if by_learner(kind):
            version = await self._learner.adopt(await asyncio.to_thread(previous, self._store, kind))
            await self._reloader.reload(kind)
            return version
        version = await asyncio.to_thread(self._store.rollback, kind, BY_HAND)
        await self._reloader.reload(kind)
        return version


def previous(store: ModelStore, kind: str) -> str:
    """The version before the active one. An adopted version counts as the one it was adopted from, so that a second
    rollback goes back further. Raises NotFound when there is none."""
    versions = store.versions(kind)
    places = {version.version: place for place, version in enumerate(versions)}
    place = next((place for place, version in enumerate(versions) if version.current), len(versions))
    while place < len(versions) and (origin := versions[place].meta.get(ADOPTED)) in places:
        place = places[origin]
    if place + 1 >= len(versions):
        raise NotFound(f"{kind}: no earlier version to go back to")
    return versions[place + 1].version


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
    """Promote if the version passed its gate in training (those without a gate pass), or by force, which the history
    records. Raises NotFound or ModelInvalid."""
    verdict = store.load(kind, version).meta.get("gate")
    if verdict is not None:
        reason = _allowed_reason(
            kind, version, bool(verdict.get("promote", True)), str(verdict.get("reason")), reason, force
        )
    store.promote(kind, version, reason)


def _allowed_reason(kind: str, version: str, passed: bool, verdict: str, reason: str, force: bool) -> str:
    """The reason to record in the history. Raises ModelInvalid when the version may not go live."""
    if passed:
        return f"{reason}; gate passed: {verdict}"
    if not force:
        logger.info("promotion_refused kind=%s version=%s", kind, version)
        raise ModelInvalid(f"{kind} {version} did not pass its gate ({verdict}); force it if you must")
    logger.warning("promotion_forced kind=%s version=%s gate=%s", kind, version, verdict)
    return f"forced past its gate ({verdict}): {reason}"


def _view(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "created": version.created,
        "current": version.current,
        "meta": {name: value for name, value in version.meta.items() if name != "reference"},
        "promotions": [{"at": p.at, "action": p.action, "reason": p.reason} for p in version.promotions],
    }
