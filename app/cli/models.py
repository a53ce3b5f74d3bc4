"""`ltrr models`: list, show, promote and roll back model versions; a running service follows within seconds."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import orjson

from app.client import Client
from app.ownership import owned, owner
from app.registry import BY_HAND, listing, previous, promote
from app.settings import Settings
from app.stores import model_store, open_stores
from app.wiring import opened
from services.errors import NotFound
from services.learner_link import LearnerLink
from services.models.store import ModelStore
from services.snapshots import KIND as POLICY


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
        _adopt(settings, store.load(POLICY, asked.version).version)
    else:
        promote(store, asked.kind, asked.version, asked.reason, asked.force)
    _done(asked, asked.version)


def run_rollback(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    store = _store(settings)
    if asked.kind == POLICY:
        version = previous(store, POLICY)
        _adopt(settings, version)
    else:
        version = store.rollback(asked.kind, BY_HAND)
    _done(asked, version)


def _adopt(settings: Settings, version: str) -> None:
    """A policy is changed by whoever learns it, or learning would go on from the one before: the learner process, the
    running service, or else a learner opened for it. Raises Owned while another command is at work."""
    if settings.redis_url is not None:
        asyncio.run(_ask_learner(settings, version))
        return
    running = owner(settings.data_dir)
    if running is not None and running.url is not None:
        Client.of(settings, running.url).send("POST", f"/v1/models/{POLICY}/{version}/promote", b"{}")
        return

    async def alone() -> None:
        async with opened(settings, learning=False) as system:
            await system.learner.adopt(version)

    with owned(settings.data_dir):
        asyncio.run(alone())


async def _ask_learner(settings: Settings, version: str) -> None:
    async with open_stores(settings) as stores:
        await LearnerLink(stores.log, stores.memory, stores.state).adopt(version)


def _done(asked: argparse.Namespace, version: str) -> None:
    if asked.json:
        _print({"kind": asked.kind, "current": version})
    else:
        print(f"{asked.kind} {version} is in force (a running service follows within seconds)")


def _store(settings: Settings) -> ModelStore:
    return model_store(settings)


def _print(value: Any) -> None:
    print(orjson.dumps(value).decode())
