"""Where the learner stands, as numbers for people and for the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services import metrics


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the learner stands."""

    lag: Mapping[str, int]
    """Per consumer (memory, policy), records of the log it has not taken in yet."""
    open: int
    learned: int
    skipped: int
    snapshot: str | None
    snapshot_age: float | None
    """Seconds since this process wrote or loaded the newest snapshot."""


def set_gauges(progress: Progress) -> None:
    """Bring the gauges of the learner up to date."""
    for consumer, records in progress.lag.items():
        metrics.LEARNER_LAG.labels(consumer).set(records)
    metrics.LEARNER_OPEN.set(progress.open)
    if progress.snapshot_age is not None:
        metrics.SNAPSHOT_AGE.set(progress.snapshot_age)
