"""Training of a ranker, its conversion to ONNX and its gate. Needs the `train` extra. Deterministic: equal groups give
equal bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import lightgbm
import numpy as np
import onnx

from services.errors import InvalidRequest
from services.evaluation.intervals import Interval
from services.models.clicks import stable_hash
from services.models.ranker.convert import convert, parity
from services.models.ranker.ensemble import POINTWISE, Ensemble, fit, importance
from services.models.ranker.judge import DEPTH, judge
from services.models.ranker.rows import MIN_GROUPS, Group, rerank_depth
from services.models.trained import Trained
from services.rankers.features import NAMES
from services.rankers.onnx import FILE, FORMAT, OnnxRanker

STOPPING_SHARE = 0.15
"""Share of the training queries for early stopping; validation queries only judge the result."""
MAX_TREES, PATIENCE = 600, 50
"""Largest number of trees; early stopping after PATIENCE trees without improvement."""
FOLDS = 3
"""Folds of cross-fitting on a log."""


def train(
    training: Sequence[Group],
    validation: Sequence[Group],
    *,
    source: str,
    trees: int = MAX_TREES,
    patience: int = PATIENCE,
    seed: int = 0,
    objective: str = POINTWISE,
) -> Trained:
    """Train on `training` and judge on `validation` against each group's baseline order.

    Gate: the lower end of the 95 % interval of the difference (paired bootstrap over queries, see judge.py) is at least
    0. `source` (labels | log) goes into the metadata. `objective`: one of OBJECTIVES. The stopping queries decide the
    number of trees; the final model is trained on them too.

    Raises InvalidRequest when there is too little data, ModelInvalid when the scores of the converted model differ.
    """
    _check(training, validation)
    ensemble = _fit_forest(training, trees, patience, seed, objective)
    metrics, difference = judge(lambda group: ensemble.score(group.rows), validation)
    meta = {"source": source, "objective": objective, "seed": seed}
    meta |= {"queries": {"training": sum(map(len, _split(training))), "validation": len(validation)}}
    return _package(ensemble, training, meta, metrics, difference)


def train_on_clicks(
    groups: Sequence[Group], *, trees: int = MAX_TREES, patience: int = PATIENCE, seed: int = 0
) -> Trained:
    """Train on all `groups` of a log, and judge on all of them by cross-fitting: each by a ranker trained on the other
    folds. Clicks are so noisy that a fifth of them cannot detect a gain of 1 %. Raises as `train` does."""
    folds = [[group for group in groups if _fold(group.key) == fold] for fold in range(FOLDS)]
    rankers = []
    for fold, held in enumerate(folds):
        training = [group for other, part in enumerate(folds) if other != fold for group in part]
        _check(training, held)
        rankers.append(_fit_forest(training, trees, patience, seed, POINTWISE))
    metrics, difference = judge(lambda group: rankers[_fold(group.key)].score(group.rows), groups)
    meta = {"source": "log", "objective": POINTWISE, "seed": seed, "folds": FOLDS}
    meta |= {"queries": {"training": sum(map(len, _split(groups))), "validation": len(groups)}}
    return _package(_fit_forest(groups, trees, patience, seed, POINTWISE), groups, meta, metrics, difference)


def _fold(key: str) -> int:
    """The fold of a query, 0 to FOLDS - 1."""
    return stable_hash(key, b"fold") % FOLDS


def _fit_forest(groups: Sequence[Group], trees: int, patience: int, seed: int, objective: str) -> Ensemble:
    fitting, stopping = _split(groups)
    ensemble = fit(fitting, stopping, trees, patience, seed, objective)
    if not stopping:
        return ensemble
    return fit([*fitting, *stopping], [], ensemble.trees.best_iteration, patience, seed, objective)


def _package(
    ensemble: Ensemble,
    groups: Sequence[Group],
    meta: dict[str, Any],
    metrics: dict[str, Any],
    difference: Interval,
) -> Trained:
    """The ensemble converted for the model store; `groups`: its training data."""
    table = np.concatenate([group.rows for group in groups])
    reference = np.median(table, axis=0)
    model = convert(ensemble)
    meta |= {
        "format": FORMAT,
        "features": list(NAMES),
        "reference": [float(value) for value in reference],
        "depth": rerank_depth(groups),
        "trees": ensemble.trees.num_trees(),
        "fused_slope": ensemble.slope,
        "libraries": {"lightgbm": lightgbm.__version__, "onnx": onnx.__version__},
        "metrics": metrics,
        "importance": importance(ensemble.trees),
    }
    meta["parity"] = parity(ensemble, OnnxRanker(model, meta, "candidate"), table)
    promote = difference.low >= 0.0
    verdict = "not worse than" if promote else "may be worse than"
    reason = (
        f"{metrics['measure']}@{DEPTH} {verdict} the order it replaces: difference {difference} over "
        f"{meta['queries']['validation']} queries"
    )
    meta["gate"] = {"promote": promote, "reason": reason}
    return Trained({FILE: model}, meta, promote, reason)


def _check(training: Sequence[Group], validation: Sequence[Group]) -> None:
    shared = {group.key for group in training} & {group.key for group in validation}
    if shared:
        raise InvalidRequest(f"{len(shared)} queries are in training and in validation")
    useful = sum(bool((group.gains > 0).any()) for group in training)
    if useful < MIN_GROUPS or not any(group.weight > 0 for group in validation):
        raise InvalidRequest(
            f"too little to learn from: {useful} training queries with a relevant item in their pool (at least "
            f"{MIN_GROUPS} needed), {len(validation)} validation queries"
        )


def _split(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """(fitting, stopping) groups by a hash of the wanted item, so that queries for the same item stay together:
    memorising an item must not look like a reason for more trees."""
    useful = [group for group in groups if group.weight > 0 and (group.gains > 0).any()]  # others have no order
    wanted = [[group.ids[index] for index in np.flatnonzero(group.gains)] for group in useful]
    counts = Counter(object_id for ids in wanted for object_id in ids)
    sides: tuple[list[Group], list[Group]] = ([], [])
    for group, ids in zip(useful, wanted, strict=True):
        name = max(ids, key=lambda object_id: (counts[object_id], object_id))
        sides[stable_hash(name, b"stopping") / 2**64 < STOPPING_SHARE].append(group)
    return sides
