"""`ltrr doctor`: check settings, engines, disk, clock, log, learner and models, and suggest fixes."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict

import orjson

from app.operations.doctor import Finding, Verdict, examine
from app.settings import Settings

MARKS = {Verdict.OK: "ok      ", Verdict.WARNING: "warning ", Verdict.FAILED: "FAILED  "}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation and suggest fixes",
        description=__doc__,
        epilog="Read-only; safe while the service runs. The exit code is 1 if a check failed.",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings; the exit code is 1 if any check failed."""
    settings = Settings.load()
    found = asyncio.run(_found(settings, shown=not args.json))
    if args.json:
        print(orjson.dumps([asdict(finding) for finding in found]).decode())
    else:
        print(_summary(found))
    return int(any(finding.verdict is Verdict.FAILED for finding in found))


async def _found(settings: Settings, shown: bool) -> list[Finding]:
    found = []
    async for finding in examine(settings):
        found.append(finding)
        if shown:
            print(f"{MARKS[finding.verdict]}{finding.part:11} {finding.detail}", flush=True)
            if finding.advice:
                print(f"{'':19} -> {finding.advice}", flush=True)
    return found


def _summary(found: list[Finding]) -> str:
    failures = sum(finding.verdict is Verdict.FAILED for finding in found)
    warnings = sum(finding.verdict is Verdict.WARNING for finding in found)
    if not failures and not warnings:
        return "all is well"
    return f"{failures} failed, {warnings} warnings"
