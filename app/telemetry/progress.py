"""Progress of long work, on standard error: bars on a terminal, a short line for each finished stage elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

COUNTED = "{desc:<18} {percentage:3.0f}% |{bar:32}| {n:,} of {total:,} in {elapsed}"
OPEN_ENDED = "{desc:<18} {n:,} in {elapsed}"
"""Bar format of a stage whose total is unknown."""


class Progress:
    """One bar per stage on a terminal. Elsewhere one line is written when a stage has ended, and none for a stage that
    does not end. Notes are always written. May be called from any thread."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bars: dict[str, tqdm[None]] = {}

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()

    def done(self, stage: str, count: int, total: int | None = None) -> None:
        """Report that `count` of `total` (if known) steps of `stage` are done; with the last one it has ended."""
        if self._terminal:
            self._bar(stage, total).update(count - self._bar(stage, total).n)
        if count == total:
            self.end(stage, count)

    def end(self, stage: str, count: int) -> None:
        """Report that `stage` has ended after `count` steps."""
        if not self._terminal:
            print(f"{stage}: {count:,}", file=sys.stderr, flush=True)
            return
        bar = self._bar(stage, None)
        bar.update(count - bar.n)
        bar.refresh()
        bar.close()
        del self._bars[stage]

    def note(self, line: str) -> None:
        """Write `line` above the bars."""
        tqdm.write(line, file=sys.stderr)

    def _bar(self, stage: str, total: int | None) -> tqdm[None]:
        """The bar of `stage`, a new one when it has none."""
        if stage not in self._bars:
            form = OPEN_ENDED if total is None else COUNTED
            self._bars[stage] = tqdm(desc=stage, total=total, file=sys.stderr, bar_format=form)
        return self._bars[stage]
