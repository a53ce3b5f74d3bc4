"""Current values of this process's metrics."""

from __future__ import annotations

from prometheus_client import Counter, Gauge


def value_of(metric: Counter | Gauge) -> float:
    """The value of a metric without labels, or of one child (`metric.labels(...)`)."""
    (family,) = metric.collect()
    return family.samples[0].value
