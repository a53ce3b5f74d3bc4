"""The learner's progress, as numbers for operators and for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services import metrics


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of the learner."""

    lag: Mapping[str, int]
    """Per consumer (memory, policy), the number of log records that it has not processed yet."""
    open: int
    learned: int
    skipped: int
    snapshot: str | None
    snapshot_age: float | None
    """Seconds since this process wrote or loaded the newest snapshot."""


def set_gauges(progress: Progress) -> None:
    """Update the gauges of the learner."""
    for consumer, records in progress.lag.items():
        metrics.LEARNER_LAG.labels(consumer).set(records)
    metrics.LEARNER_OPEN.set(progress.open)
    if progress.snapshot_age is not None:
        metrics.SNAPSHOT_AGE.set(progress.snapshot_age)
