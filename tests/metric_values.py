"""What a metric of this process stands at."""

from __future__ import annotations

from prometheus_client import Counter, Gauge


def value_of(metric: Counter | Gauge) -> float:
    """Of one without labels, or of one child (`metric.labels(...)`)."""
    (family,) = metric.collect()
    return family.samples[0].value
