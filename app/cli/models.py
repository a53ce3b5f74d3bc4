"""`ltrr models`: list, show, promote and roll back model versions; a running service follows within seconds."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from app.operations.client import Client
from app.settings import Settings
from app.system.learner import policy_gate
from app.system.ownership import owned, owner
from app.system.registry import BY_HAND, Registry, listing, previous, promote
from app.system.reloading import Reloader
from app.system.stores import model_store, open_stores
from app.system.wiring import opened
from services.errors import NotFound
from services.learning.learner_link import LearnerLink
from services.learning.snapshots import ADOPTED
from services.learning.snapshots import KIND as POLICY
from services.models.store import ModelStore


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("models", help="list, show, promote, roll back models", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="every version of every kind")
    listed.set_defaults(run=run_list)
    show = actions.add_parser("show", help="all that is known of one version")
    show.add_argument("kind")
    show.add_argument("version")
    show.set_defaults(run=run_show)
    promoted = actions.add_parser("promote", help="put a version in force")
    promoted.add_argument("kind")
    promoted.add_argument("version")
    promoted.add_argument("--reason", default="promoted by hand")
    promoted.add_argument("--force", action="store_true", help="although it did not pass its gate; recorded")
    promoted.set_defaults(run=run_promote)
    back = actions.add_parser("rollback", help="back to the version before")
    back.add_argument("kind")
    back.set_defaults(run=run_rollback)
    for action in (listed, show, promoted, back):
        action.add_argument("--json", action="store_true", help="print JSON")


def run_list(asked: argparse.Namespace) -> None:
    known = listing(_store(Settings.load()))
    if asked.json:
        _print(known)
        return
    if not known["kinds"]:
        print("no models yet; see `ltrr train --help`")
    for kind, of_kind in known["kinds"].items():
        for version in of_kind["versions"]:
            created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version["created"]))
            print(f"{'*' if version['current'] else ' '} {kind:14} {version['version']:28} {created}")


def run_show(asked: argparse.Namespace) -> None:
    versions = listing(_store(Settings.load()))["kinds"].get(asked.kind, {}).get("versions", [])
    found = next((v for v in versions if v["version"] == asked.version), None)
    if found is None:
        raise NotFound(f"{asked.kind} {asked.version}: no such version; see `ltrr models list`")
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())


def run_promote(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    store = _store(settings)
    if asked.kind == POLICY:
        store.load(POLICY, asked.version)  # before anything is opened for it
        body = {"reason": asked.reason, "force": asked.force}

        async def promoted(registry: Registry) -> None:
            await registry.promote(POLICY, asked.version, asked.reason, asked.force)

        _change(settings, f"{asked.version}/promote", body, promoted)
    else:
        promote(store, asked.kind, asked.version, asked.reason, asked.force)
    _done(asked, asked.version)


def run_rollback(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    store = _store(settings)
    if asked.kind == POLICY:
        version = previous(store, POLICY)

        async def rolled_back(registry: Registry) -> None:
            await registry.rollback(POLICY)

        _change(settings, "rollback", None, rolled_back)
        in_force = store.current(POLICY)
        version = version if in_force is None else str(in_force.meta.get(ADOPTED, version))
    else:
        version = store.rollback(asked.kind, BY_HAND)
    _done(asked, version)


def _change(settings: Settings, path: str, body: Any, change: Callable[[Registry], Awaitable[None]]) -> None:
    """Change which policy is in force: where it is learned, or learning would go on from the one before. That is the
    learner process, the running service (by a POST to `path`), or else a learner opened for it. Raises Owned while
    another command is at work."""
    running = None if settings.redis_url is not None else owner(settings.data_dir)
    if running is not None and running.url is not None:
        content = b"" if body is None else orjson.dumps(body)
        Client.of(settings, running.url).send("POST", f"/v1/models/{POLICY}/{path}", content)
        return

    async def beside() -> None:
        async with open_stores(settings) as stores:
            learner = LearnerLink(stores.log, stores.memory, stores.state)
            reloader = Reloader(stores.models, {})
            await change(Registry(stores.models, learner, reloader, policy_gate(settings, stores)))

    async def alone() -> None:
        async with opened(settings, learning=False) as system:
            await change(system.models)

    if settings.redis_url is not None:
        asyncio.run(beside())
    else:
        with owned(settings.data_dir):
            asyncio.run(alone())


def _done(asked: argparse.Namespace, version: str) -> None:
    if asked.json:
        _print({"kind": asked.kind, "current": version})
    else:
        print(f"{asked.kind} {version} is in force (a running service follows within seconds)")


def _store(settings: Settings) -> ModelStore:
    return model_store(settings)


def _print(value: Any) -> None:
    print(orjson.dumps(value).decode())
