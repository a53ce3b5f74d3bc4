"""`ltrr`: every command of the product."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from app.cli import convert, demo, index, learn, models, replay, serve, train
from services.errors import LtrrError, SettingsInvalid

DONE, FAILED, WRONG_USE = 0, 1, 2

COMMANDS = (demo, serve, learn, index, train, models, replay, convert)
"""One module a command, each with `register(subparsers)` and a handler."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit codes: 0 done, 2 wrong use, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="ltrr",
        description="Search that learns from clicks what to retrieve and how to order it.",
        epilog="Settings come from ltrr.toml and LTRR_* variables; `ltrr serve --settings` lists them all.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(subparsers)
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        return int(asked.run(asked) or DONE)
    except SettingsInvalid as error:
        print(f"ltrr: {error}", file=sys.stderr)
        return WRONG_USE
    except LtrrError as error:
        print(f"ltrr: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
