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
from app.system.model_kinds import by_learner
from app.system.ownership import owned, owner
from app.system.registry import BY_HAND, Registry, listing, previous, promote
from app.system.reloading import Reloader
from app.system.stores import model_store, open_stores
from app.system.wiring import opened
from services.errors import NotFound
from services.learning.learner_link import LearnerLink
from services.learning.snapshots import ADOPTED
from services.models.store import ModelStore


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `ltrr`."""
    parser = subparsers.add_parser("models", help="list, show, promote, roll back models", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    list_ = actions.add_parser("list", help="every version of every kind")
    list_.set_defaults(run=run_list)
    show = actions.add_parser("show", help="all that is known of one version")
    show.add_argument("kind")
    show.add_argument("version")
    show.set_defaults(run=run_show)
    promote_ = actions.add_parser("promote", help="make a version the active one")
    promote_.add_argument("kind")
    promote_.add_argument("version")
    promote_.add_argument("--reason", default="promoted by hand")
    promote_.add_argument("--force", action="store_true", help="although it did not pass its gate; recorded")
    promote_.set_defaults(run=run_promote)
    rollback = actions.add_parser("rollback", help="back to the version before")
    rollback.add_argument("kind")
    rollback.set_defaults(run=run_rollback)
    for action in (list_, show, promote_, rollback):
        action.add_argument("--json", action="store_true", help="print JSON")


def run_list(args: argparse.Namespace) -> None:
    """Print every version of every kind, newest first, the current ones marked."""
    known = listing(_store(Settings.load()))
    if args.json:
        _print(known)
        return
    if not known["kinds"]:
        print("no models yet; see `ltrr train --help`")
    for kind, of_kind in known["kinds"].items():
        for version in of_kind["versions"]:
            created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(version["created"]))
            print(f"{'*' if version['current'] else ' '} {kind:14} {version['version']:28} {created}")


def run_show(args: argparse.Namespace) -> None:
    """Print one version as JSON. Raises NotFound."""
    versions = listing(_store(Settings.load()))["kinds"].get(args.kind, {}).get("versions", [])
    found = next((v for v in versions if v["version"] == args.version), None)
    if found is None:
        raise NotFound(f"{args.kind} {args.version}: no such version; see `ltrr models list`")
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())


def run_promote(args: argparse.Namespace) -> None:
    """Make a version the current one. Raises NotFound, or ModelInvalid when it does not pass its gate."""
    settings = Settings.load()
    store = _store(settings)
    if by_learner(args.kind):
        store.load(args.kind, args.version)  # fails before any part of the service is opened
        body = {"reason": args.reason, "force": args.force}

        async def promoted(registry: Registry) -> None:
            await registry.promote(args.kind, args.version, args.reason, args.force)

        _change(settings, f"{args.kind}/{args.version}/promote", body, promoted)
    else:
        promote(store, args.kind, args.version, args.reason, args.force)
    _done(args, args.version)


def run_rollback(args: argparse.Namespace) -> None:
    """Make the version before the current one again. Raises NotFound when there is none."""
    settings = Settings.load()
    store = _store(settings)
    if by_learner(args.kind):
        version = previous(store, args.kind)

        async def rolled_back(registry: Registry) -> None:
            await registry.rollback(args.kind)

        _change(settings, f"{args.kind}/rollback", None, rolled_back)
        current = store.current(args.kind)
        version = version if current is None else str(current.meta.get(ADOPTED, version))
    else:
        version = store.rollback(args.kind, BY_HAND)
    _done(args, version)


def _change(settings: Settings, path: str, body: Any, change: Callable[[Registry], Awaitable[None]]) -> None:
    """Change the version that the learner continues from, wherever the learner runs: in a process of its own, in the
    running service (by a POST to `path`), or opened here. Raises Owned while another command uses the data folder."""
    running = None if settings.redis_url is not None else owner(settings.data_dir)
    if running is not None and running.url is not None:
        content = b"" if body is None else orjson.dumps(body)
        Client.of(settings, running.url).send("POST", f"/v1/models/{path}", content)
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


def _done(args: argparse.Namespace, version: str) -> None:
    if args.json:
        _print({"kind": args.kind, "current": version})
    else:
        print(f"{args.kind} {version} is active (a running service follows within seconds)")


def _store(settings: Settings) -> ModelStore:
    return model_store(settings)


def _print(value: Any) -> None:
    print(orjson.dumps(value).decode())
