"""Recovery time of a learned policy after an arm fails, and after it returns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.simulation.learning_table import TOLERANCE, FinishedRun, Window, compare_windows

WINDOW_SIZE = 500
"""Impressions per window."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Windows after a change, and how many impressions recovery took."""

    at: int
    reference: str
    """The row that the policy is expected to match."""
    windows: tuple[Window, ...]
    back_after: int | None
    """Impressions until the end of the first window within TOLERANCE of the reference, or above it; None if there was
    none."""


def recovery(
    harmed: Sequence[FinishedRun], reference: Sequence[FinishedRun], first: int, last: int, size: int = WINDOW_SIZE
) -> Recovery:
    """Compare expected reward of both rows on searches `first` up to `last`, averaged over seeds. Raises ValueError
    when they share no seed or the range is empty."""
    found = compare_windows(harmed, reference, size, first, last)
    if not found:
        raise ValueError(f"no search between {first} and {last}")
    back = next((window for window in found if window.gain.mean >= -TOLERANCE), None)
    return Recovery(first, reference[0].row, tuple(found), None if back is None else back.last - first)


def share_of_best(runs: Sequence[FinishedRun], first: int, last: int) -> float:
    """Earned reward as a share (0..1) of the best possible in these searches, over all seeds. NaN without a search."""
    earned = sum(float(run.arrays["reward"][first:last].sum()) for run in runs)
    best = sum(float(run.arrays["best"][first:last].sum()) for run in runs)
    return earned / best if best > 0.0 else float("nan")
