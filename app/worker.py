"""The process of one worker: `python -m app.worker SLOT LISTENER LINK FOLDER`, started by app.process.workers."""

from __future__ import annotations

import sys

from app.process.workers import Place, become_worker


def main() -> int:
    """Serve in the place assigned by the supervisor; returns the exit code of `ltrr serve`."""
    become_worker(Place.parse(sys.argv[1:]))
    from app.__main__ import main as command  # its metrics begin to exist here

    return command(["serve", "--worker", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
