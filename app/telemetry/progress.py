"""Progress bars on standard error; none where it is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class Progress:
    """One bar per kind of work; nothing is drawn unless standard error is a terminal, notes are always written."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[None]] = {}

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()

    def done(self, what: str, count: int) -> None:
        """Move the bar `what` to `count`."""
        if what not in self._bars:
            self._bars[what] = tqdm(desc=what, unit="", file=sys.stderr, disable=None)
        self._bars[what].update(count - self._bars[what].n)

    def note(self, line: str) -> None:
        """Write a line above the bars."""
        tqdm.write(line, file=sys.stderr)
