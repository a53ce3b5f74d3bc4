"""`python -m services.datasets FORM SOURCE TARGET`: a data set folder from one of the public forms."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from services.datasets import beir, esci, msrd, wands
from services.errors import InvalidRequest

CONVERTERS: dict[str, Callable[[Path, Path], dict[str, int]]] = {
    "beir": beir.convert,
    "esci": esci.convert,
    "msrd": msrd.convert,
    "wands": wands.convert,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m services.datasets", description=__doc__)
    parser.add_argument("form", choices=CONVERTERS)
    parser.add_argument("source", type=Path, help="folder with the files as they were published")
    parser.add_argument("target", type=Path, help="data set folder to write")
    asked = parser.parse_args(arguments)
    try:
        counts = CONVERTERS[asked.form](asked.source, asked.target)
    except InvalidRequest as error:
        print(error.detail, file=sys.stderr)
        return 1
    for name, count in counts.items():
        print(f"{name}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
