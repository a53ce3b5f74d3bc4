"""How good an order is, and whether one is better than another. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK = 200
"""Resamples drawn at once, so that memory stays at this many times the number of queries."""


def exponential(grade: float) -> float:
    """Gain 2^grade - 1 (Burges et al., ICML 2005): grade 2 is worth three of grade 1."""
    return float(2.0**grade - 1.0)


def linear(grade: float) -> float:
    """Gain = grade, for grades that are gains already (weights of actions); below 0 counts as 0."""
    return max(grade, 0.0)


def dcg(gains: Iterable[float], k: int = 10) -> float:
    """Sum of gain / log2(1 + rank) over the first k (Järvelin and Kekäläinen, TOIS 2002)."""
    return sum(gain / math.log2(1 + rank) for rank, gain in zip(range(1, k + 1), gains, strict=False))


def ndcg(
    grades: Sequence[float],
    scores: Sequence[float],
    ids: Sequence[str],
    k: int = 10,
    ideal_grades: Iterable[float] | None = None,
    gain: Callable[[float], float] = exponential,
) -> float:
    """DCG@k of the order by score (ties by id, ascending) over the DCG@k of the best order; 0..1.

    grades, scores, ids: one each per ranked item; an unjudged one has grade 0. ideal_grades: of all judged items of the
    query, ranked or not (default: `grades`), so that what was not retrieved costs. 0 when nothing is relevant: leave
    such queries out of a mean.
    """
    best = dcg(sorted((gain(g) for g in (grades if ideal_grades is None else ideal_grades)), reverse=True), k)
    if best <= 0.0:
        return 0.0
    ranked = sorted(zip((-score for score in scores), ids, grades, strict=True))
    return dcg((gain(grade) for _, _, grade in ranked[:k]), k) / best


@dataclass(frozen=True, slots=True)
class Interval:
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
    value = np.asarray(values, dtype=np.float64)
    weight = np.ones(len(value)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(value) or value.shape != weight.shape or (weight < 0).any() or weight.sum() <= 0:
        raise ValueError("a bootstrap needs at least one value, and one weight each, not all 0")
    value, weight = value[weight > 0], weight[weight > 0]  # else a resample could weigh nothing
    generator = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < resamples:
        drawn = generator.integers(0, len(value), (min(_CHUNK, resamples - len(means)), len(value)))
        mean = (weight[drawn] * value[drawn]).sum(axis=1) / weight[drawn].sum(axis=1)
        means.extend(mean.tolist())
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float((weight * value).sum() / weight.sum()), float(low), float(high))


def paired_bootstrap(
    candidate: Sequence[float],
    baseline: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of candidate - baseline over the same queries, with its 95 % interval: queries are resampled, never the two
    sides apart (Smucker, Allan, Carterette, CIKM 2007)."""
    differences = np.asarray(candidate, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)
    return bootstrap(differences.tolist(), weights, resamples=resamples, seed=seed)
