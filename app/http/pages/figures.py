"""This process's Prometheus metrics as plain figures for the console."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from prometheus_client import REGISTRY, Counter, Histogram

from services import metrics

QUANTILES = (0.5, 0.99)


def figures() -> dict[str, Any]:
    """Figures since the process started: times in seconds, memory in bytes (None where the platform has none)."""
    return {
        "arms": _arms(),
        "search_seconds": _stage("total"),
        "feedback": totals(metrics.FEEDBACK, "status"),
        "memory_bytes": REGISTRY.get_sample_value("process_resident_memory_bytes"),
        "started": REGISTRY.get_sample_value("process_start_time_seconds"),
        "fallbacks": REGISTRY.get_sample_value("ltrr_policy_fallbacks_total"),
        "items": REGISTRY.get_sample_value("ltrr_items"),
    }


def totals(counter: Counter, label: str) -> dict[str, float]:
    """A counter's totals by one label, summed over the others."""
    found: dict[str, float] = defaultdict(float)
    for sample in (sample for metric in counter.collect() for sample in metric.samples):
        if sample.name.endswith("_total"):
            found[sample.labels[label]] += sample.value
    return dict(found)


def buckets(histogram: Histogram, label: str) -> dict[str, list[tuple[float, float]]]:
    """Per value of the label, (upper bound, number of observations up to it), ascending."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in (sample for metric in histogram.collect() for sample in metric.samples):
        if sample.name.endswith("_bucket"):
            found[sample.labels[label]].append((float(sample.labels["le"]), sample.value))
    return {name: sorted(counts) for name, counts in found.items()}


def quantile(counts: Sequence[tuple[float, float]], q: float) -> float | None:
    """The q-quantile of cumulative bucket counts, linear within a bucket as Prometheus' histogram_quantile does; the
    largest finite bound when it lies beyond; None without observations."""
    total = counts[-1][1] if counts else 0.0
    if total == 0.0:
        return None
    rank = q * total
    low, below = 0.0, 0.0
    for high, reached in counts:
        if reached >= rank:
            if high == float("inf"):
                return low
            return low + (high - low) * (rank - below) / (reached - below)
        low, below = high, reached
    return low


def _arms() -> dict[str, Any]:
    outcomes: dict[str, dict[str, float]] = defaultdict(dict)
    for sample in (sample for metric in metrics.ARM_REQUESTS.collect() for sample in metric.samples):
        if sample.name.endswith("_total"):
            outcomes[sample.labels["arm"]][sample.labels["outcome"]] = sample.value
    times = buckets(metrics.ARM_SECONDS, "arm")
    return {
        arm: {"outcomes": outcomes[arm], "seconds": [quantile(times.get(arm, ()), q) for q in QUANTILES]}
        for arm in sorted(outcomes)
    }


def _stage(name: str) -> list[float | None]:
    counts = buckets(metrics.STAGE_SECONDS, "stage").get(name, ())
    return [quantile(counts, q) for q in QUANTILES]
