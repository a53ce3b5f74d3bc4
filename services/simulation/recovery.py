"""How soon a learned policy is back where it should be after an arm died, and after it returned. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.simulation.learning_table import TOLERATED, Run, Window, windows

SIZE = 500
"""Impressions of a window."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Windows from a change on, and how many impressions it took."""

    at: int
    reference: str
    """The row that shows where it should be."""
    windows: tuple[Window, ...]
    back_after: int | None
    """Impressions after which the first window ended that was within TOLERATED of the reference, or above it; None when
    there was none."""


def recovery(harmed: Sequence[Run], reference: Sequence[Run], first: int, last: int, size: int = SIZE) -> Recovery:
    """From search `first` up to `last`: expected reward of both rows on the same searches, mean of their seeds. Raises
    ValueError when they share no seed or nothing lies between."""
    found = windows(harmed, reference, size, first, last)
    if not found:
        raise ValueError(f"no search between {first} and {last}")
    back = next((window for window in found if window.gain.mean >= -TOLERATED), None)
    return Recovery(first, reference[0].row, tuple(found), None if back is None else back.last - first)


def share_of_best(runs: Sequence[Run], first: int, last: int) -> float:
    """What was earned of what could have been in these searches, 0..1; over all seeds. NaN without a search."""
    earned = sum(float(run.arrays["reward"][first:last].sum()) for run in runs)
    best = sum(float(run.arrays["best"][first:last].sum()) for run in runs)
    return earned / best if best > 0.0 else float("nan")
