"""Bootstrap confidence intervals of means over queries and of paired differences. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 200
"""Resamples drawn at a time: bounds memory to this many times the number of queries."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap(
    values: Sequence[float], weights: Sequence[float] | None = None, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Weighted mean over queries with its 95 % percentile bootstrap interval (Efron and Tibshirani 1993).

    Raises ValueError without values or without positive weight.
    """
    table = np.asarray(values, dtype=np.float64)[:, None]
    return bootstraps(table, weights, resamples=resamples, seed=seed)[0]


def paired_bootstrap(
    candidate: Sequence[float],
    baseline: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Weighted mean of candidate - baseline over the same queries with its 95 % interval: queries are resampled, never
    the two systems separately (Smucker, Allan, Carterette, CIKM 2007). Raises ValueError as `bootstrap` does."""
    differences = np.asarray(candidate, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return bootstrap(differences.tolist(), weights, resamples=resamples, seed=seed)


def bootstraps(
    table: NDArray[np.float64], weights: Sequence[float] | None = None, *, resamples: int = 2000, seed: int = 0
) -> list[Interval]:
    """`bootstrap` of every column of `table`, [queries, columns], with the same resamples of the queries; for a column
    of differences this is `paired_bootstrap`. Raises ValueError as `bootstrap` does."""
    weight = np.ones(len(table)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(table) or weight.shape != table.shape[:1] or (weight < 0).any() or weight.sum() <= 0:
        raise ValueError("a bootstrap needs at least one value, and one weight per value, not all 0")
    table, weight = table[weight > 0], weight[weight > 0]  # otherwise a resample could have no weight
    n = len(table)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, table.shape[1]))
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn = generator.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        drawn_weight = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n) * weight
        means[start : start + size] = drawn_weight @ table / drawn_weight.sum(axis=1, keepdims=True)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    mean = weight @ table / weight.sum()
    return [Interval(float(m), float(lo), float(hi)) for m, lo, hi in zip(mean, low, high, strict=True)]
