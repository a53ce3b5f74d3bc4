"""Comparison of a ranker with the order it replaces, on held-out queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.evaluation.intervals import Interval, bootstrap, paired_bootstrap
from services.evaluation.measures import dcg, linear, ndcg
from services.models.ranker.rows import Group, debiased

DEPTH = 10
"""k of NDCG@k and DCG@k."""


def judge(score: Callable[[Group], NDArray[Any]], groups: Sequence[Group]) -> tuple[dict[str, Any], Interval]:
    """(weighted means of ranker and baseline with intervals, the interval of their difference). `score`: a group's
    scores [items] by a ranker that was not trained on it.

    Judged groups are measured in NDCG. Groups from clicks are measured in DCG of gains over examinations, on the items
    shown, over the mean DCG of the best orders: a sum, so the estimate is unbiased (Joachims et al., WSDM 2017). NDCG
    would not be: with one clicked item it only depends on that item's rank, which favours the order shown. Films,
    20,000 answers: -.015 in NDCG for a ranker that is better by .004 in DCG and by .001 on judgements.
    """
    weights = [group.weight for group in groups]
    clicked = groups[0].examinations is not None
    measure = _additive(groups) if clicked else _normalised
    learned = [measure(group, score(group)) for group in groups]
    baseline = [measure(group, group.baseline) for group in groups]
    difference = paired_bootstrap(learned, baseline, weights)
    slices = sorted({group.slice for group in groups} - {""})
    metrics: dict[str, Any] = {
        "measure": "DCG" if clicked else "NDCG",
        "ranker": _plain(bootstrap(learned, weights)),
        "baseline": _plain(bootstrap(baseline, weights)),
        "difference": _plain(difference),
        "slices": {
            name: {
                "queries": len(members),
                "ranker": float(np.mean([learned[i] for i in members])),
                "baseline": float(np.mean([baseline[i] for i in members])),
            }
            for name in slices
            for members in [[i for i, group in enumerate(groups) if group.slice == name]]
        },
    }
    return metrics, difference


def _normalised(group: Group, scores: NDArray[Any]) -> float:
    return ndcg(group.gains.tolist(), scores.tolist(), group.ids, DEPTH, group.ideal or None, gain=linear)


def _additive(groups: Sequence[Group]) -> Callable[[Group, NDArray[Any]], float]:
    """DCG divided by the weighted mean of the best DCG of all `groups`."""
    best = [dcg(sorted(debiased(group).tolist(), reverse=True), DEPTH) for group in groups]
    scale = float(np.average(best, weights=[group.weight for group in groups])) or 1.0

    def measure(group: Group, scores: NDArray[Any]) -> float:
        ranked = sorted(zip((-scores).tolist(), group.ids, debiased(group).tolist(), strict=True))
        return dcg((worth for _, _, worth in ranked), DEPTH) / scale

    return measure


def _plain(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
