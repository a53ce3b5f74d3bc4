"""`ltrr replay`: verify that every decision in the event log follows from its seed and its model."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict

import orjson

from app.settings import Settings
from app.system.policies import fixed_policy, load_policy
from app.system.stores import model_store, open_log
from services.errors import LtrrError
from services.learning.snapshots import KIND, POLICY_FILE
from services.offpolicy.replay import Report, replay
from services.policies.base import Policy

MAX_MISMATCHES_SHOWN = 20


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser("replay", help="check logged decisions against their seeds", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; the exit code is 1 unless every decision is reproduced."""
    report = asyncio.run(_replay(Settings.load()))
    if args.json:
        print(orjson.dumps(asdict(report)).decode())
    else:
        print(f"{report.checked} decisions: {report.drawn} reproduced from their seeds")
        print(f"{report.recomputed} with an available model: {report.computed} distributions reproduced")
        if report.damaged:
            print(f"{report.damaged} records of the log cannot be read")
        for wrong in report.mismatches[:MAX_MISMATCHES_SHOWN]:
            print(f"  offset {wrong.offset} {wrong.query_id} {wrong.arm}: {wrong.check}: {wrong.detail}")
    return 0 if report.reproduced and not report.damaged else 1


async def _replay(settings: Settings) -> Report:
    store = model_store(settings)
    untrained = load_policy(settings)
    policies: dict[str, Policy | None] = {untrained.version: untrained}

    def learned(version: str) -> Policy | None:
        if version not in policies:
            try:
                policies[version] = load_policy(settings, store.load(KIND, version).files[POLICY_FILE], version)
            except (LtrrError, KeyError):
                policies[version] = None  # pruned since: its distributions cannot be recomputed, only drawn from
        return policies[version]

    async with open_log(settings) as log:
        return await replay(log, fixed_policy(settings), learned)
