"""`ltrr`: every command of the product."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from app.settings import Settings
from app.telemetry import logs
from services.errors import LtrrError, SettingsInvalid

DONE, FAILED, WRONG_USE = 0, 1, 2

COMMANDS = (
    "demo",
    "serve",
    "learn",
    "index",
    "train",
    "evaluate",
    "simulate",
    "models",
    "replay",
    "doctor",
    "backup",
    "convert",
)
"""Modules of app.cli, one a command, each with `register(subparsers)` and a handler."""
SERVICES = ("demo", "serve", "learn")
"""Commands that run until they are stopped."""


def usage(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of `command`, or of all commands when there is none of this name. Modules of other commands are not
    imported: every command would start as slowly as the slowest."""
    parser = argparse.ArgumentParser(
        prog="ltrr",
        description="Search that learns from clicks what to retrieve and how to order it.",
        epilog="Settings come from ltrr.toml and LTRR_* variables; `ltrr serve --settings` lists them all.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in (command,) if command in COMMANDS else COMMANDS:
        import_module(f"app.cli.{name}").register(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit codes: 0 done, 2 wrong use, 1 failed."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    args = usage(given[0] if given else None).parse_args(given)
    with logs.logging_to():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        if args.command in SERVICES and not getattr(args, "settings", False):
            logs.configure(Settings.load())
        code = int(args.run(args) or DONE)
        sys.stdout.flush()
        return code
    except SettingsInvalid as error:
        print(f"ltrr: {error}", file=sys.stderr)
        return WRONG_USE
    except BrokenPipeError:
        # The reader of the output has gone, as `head` does. Nothing may be left to flush at exit, which would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (LtrrError, OSError) as error:
        print(f"ltrr: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
