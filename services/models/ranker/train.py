"""Train a ranker, turn it into ONNX, and judge whether it may go live. Needs the `train` extra.

Gradient boosted trees by LightGBM, pointwise: what an item is worth once it is looked at, by cross entropy; of clicks
their number over that of the looks (inverse propensity, Joachims et al., WSDM 2017). Ordering by the expected gain is
the best order there is (Cossock and Zhang, IEEE Transactions on Information Theory 2008). LambdaMART (Burges 2010,
MSR-TR-2010-82) is kept to compare with: clicks' noise leads it astray, and their bias further than this one (measured
by `python -m app.simulate_ranker`). Deterministic: same groups, same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from services.errors import InvalidRequest, ModelInvalid
from services.evaluation.intervals import Interval, bootstrap, paired_bootstrap
from services.evaluation.measures import dcg, linear, ndcg
from services.models.ranker.rows import FEWEST, Group, debiased
from services.rankers.base import Rows
from services.rankers.features import NAMES
from services.rankers.onnx import FILE, FORMAT, OnnxRanker

KIND = "ranker"
DEPTH = 10
"""k of NDCG@k and DCG@k."""
STOPPING_SHARE = 0.15
"""Of the training queries, held back to decide how many trees: the validation queries judge the result only."""
PARITY = 1e-4
"""Largest difference allowed between the trained ensemble and the one that is served."""
LEVELS = 31
"""Classes of relevance that LambdaMART tells apart."""

PARAMETERS: dict[str, Any] = {
    "lambda_l2": 1.0,
    "use_missing": False,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
LISTWISE, POINTWISE = "listwise", "pointwise"
OBJECTIVES: dict[str, dict[str, Any]] = {
    POINTWISE: {
        "objective": "cross_entropy",
        "metric": "cross_entropy",
        "learning_rate": 0.03,
        "feature_fraction": 0.5,
        "num_leaves": 15,
        "min_data_in_leaf": 100,
        "extra_trees": True,
    },
    LISTWISE: {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [DEPTH],
        "learning_rate": 0.05,
        "feature_fraction": 0.8,
        "num_leaves": 31,
        "min_data_in_leaf": 50,
        "lambdarank_truncation_level": 2 * DEPTH,
    },
}


_OBJECTIVE = re.compile(r"^(objective=|\[objective: )[a-z_]+", re.MULTILINE)
"""Where a model's text says what it was trained for."""


@dataclass(frozen=True, slots=True)
class Trained:
    """`files` and `meta` are for the model store; `promote`: whether the gate lets the model go live, `reason`: why."""

    files: dict[str, bytes]
    meta: dict[str, Any]
    promote: bool
    reason: str


def train(
    training: Sequence[Group],
    validation: Sequence[Group],
    *,
    source: str,
    trees: int = 300,
    patience: int = 50,
    seed: int = 0,
    objective: str = POINTWISE,
) -> Trained:
    """Train on `training`, judge on `validation` against each group's baseline order.

    Gate: the lower end of the 95 % interval of the difference (paired bootstrap over queries) is not below 0; for
    judgements in NDCG@10. Clicked groups are judged by gains over looks, and only on how they reorder what was shown,
    in DCG@10: a sum, of which this is an unbiased estimate (Joachims et al., WSDM 2017). Its ratio to the best order of
    each query, NDCG, is not: where one item was clicked it is the rank of that item, and people click what stands
    first. Films, 20,000 answers: -.015 in NDCG, for a ranker that is better by .004 in DCG and by .001 on judgements.

    `source` (labels | log) goes into the meta data. `objective`: one of OBJECTIVES. The stopping queries decide how
    many trees there are, and are then trained on like the others.

    Raises InvalidRequest when there is too little to learn from, ModelInvalid when the converted model does not give
    the scores of the trained one.
    """
    _check(training, validation)
    fitting, stopping = _split(training)
    booster = _fit(fitting, stopping, trees, patience, seed, objective)
    if stopping:
        booster = _fit([*fitting, *stopping], [], booster.best_iteration, patience, seed, objective)
    table = np.concatenate([group.rows for group in training])
    reference = np.median(table, axis=0)
    model = _convert(booster)
    meta: dict[str, Any] = {
        "format": FORMAT,
        "features": list(NAMES),
        "reference": [float(value) for value in reference],
        "source": source,
        "objective": objective,
        "seed": seed,
        "trees": booster.num_trees(),
        "queries": {"training": len(fitting), "stopping": len(stopping), "validation": len(validation)},
        "libraries": {"lightgbm": lightgbm.__version__, "onnx": onnx.__version__},
    }
    ranker = OnnxRanker(model, meta, "candidate")
    meta["parity"] = _parity(booster, ranker, np.concatenate([group.rows for group in validation]))
    metrics, difference = _judge(ranker, validation)
    meta["metrics"] = metrics
    meta["importance"] = _importance(booster)
    promote = difference.low >= 0.0
    verdict = "not worse than" if promote else "may be worse than"
    reason = (
        f"{metrics['measure']}@{DEPTH} {verdict} the order it replaces: difference {difference} over "
        f"{len(validation)} queries"
    )
    meta["gate"] = {"promote": promote, "reason": reason}
    return Trained({FILE: model}, meta, promote, reason)


def _check(training: Sequence[Group], validation: Sequence[Group]) -> None:
    shared = {group.key for group in training} & {group.key for group in validation}
    if shared:
        raise InvalidRequest(f"{len(shared)} queries are in training and in validation")
    useful = sum(bool((group.gains > 0).any()) for group in training)
    if useful < FEWEST or not any(group.weight > 0 for group in validation):
        raise InvalidRequest(
            f"too little to learn from: {useful} training queries with a relevant item in their pool (at least "
            f"{FEWEST} needed), {len(validation)} validation queries"
        )


def _split(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Fitting and stopping groups by a hash of the item that is wanted, so that queries for the same thing stay on one
    side: what is learned of an item by heart must not look like a reason for more trees."""
    useful = [group for group in groups if group.weight > 0 and (group.gains > 0).any()]  # else nothing to order
    wanted = [[group.ids[place] for place in np.flatnonzero(group.gains)] for group in useful]
    counts = Counter(object_id for ids in wanted for object_id in ids)
    sides: tuple[list[Group], list[Group]] = ([], [])
    for group, ids in zip(useful, wanted, strict=True):
        name = max(ids, key=lambda object_id: (counts[object_id], object_id))
        digest = hashlib.blake2b(name.encode(), digest_size=8, person=b"stopping").digest()
        sides[int.from_bytes(digest, "big") / 2**64 < STOPPING_SHARE].append(group)
    return sides


def _fit(
    fitting: Sequence[Group],
    stopping: Sequence[Group],
    trees: int,
    patience: int,
    seed: int,
    objective: str = POINTWISE,
) -> lightgbm.Booster:
    """As many trees as are best for the stopping queries, or `trees` when there are none."""
    parameters = PARAMETERS | OBJECTIVES[objective] | {"seed": seed}
    if objective == LISTWISE:
        values = np.unique(np.concatenate([debiased(group) for group in (*fitting, *stopping)]))
        if len(values) > LEVELS:
            values = np.linspace(0.0, values[-1], LEVELS)
        parameters |= {"label_gain": values.tolist()}
        targets = [_levels(groups, values) for groups in (fitting, stopping)]
    else:
        most = 1.0 if fitting[0].looks is not None else max(float(group.gains.max()) for group in (*fitting, *stopping))
        targets = [_shares(groups, most) for groups in (fitting, stopping)]
    data = _dataset(fitting, targets[0], parameters)
    callbacks: list[Any] = []
    watched: list[lightgbm.Dataset] = []
    if stopping:
        callbacks = [lightgbm.early_stopping(patience, verbose=False)]
        watched = [_dataset(stopping, targets[1], parameters, data)]
    return lightgbm.train(parameters, data, trees, valid_sets=watched, callbacks=callbacks)


Targets = tuple[NDArray[np.float64], NDArray[np.float64]]
"""(label, weight) of each item of each group, one after the other."""


def _levels(groups: Sequence[Group], values: NDArray[np.float64]) -> Targets:
    """Labels are places in `values`, the gains that are told apart; weights those of the groups."""
    gains, weights = _joined([debiased(group) for group in groups]), _joined(_weights(groups))
    labels = np.searchsorted(values, gains, side="left")  # rounded up: a small gain is still a gain
    return np.minimum(labels, len(values) - 1).astype(np.float64), weights


def _shares(groups: Sequence[Group], most: float) -> Targets:
    """Labels are what was earned, over the looks, 0..1; weights the number of looks (one for a judgement).

    The inverse propensity loss of an item is earned × log p + (looks - earned) × log (1 - p). Where a few answers
    earned more than was expected to be looked at at all, the second part would be negative, and is 0 instead.
    """
    earned = _joined([group.gains / most for group in groups])
    looks = _joined([np.ones(len(group.ids)) if group.looks is None else group.looks for group in groups])
    most_looks = np.maximum(looks, earned)
    return earned / most_looks, most_looks * _joined(_weights(groups))


def _weights(groups: Sequence[Group]) -> list[NDArray[np.float64]]:
    return [np.full(len(group.ids), group.weight) for group in groups]


def _joined(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(parts) if parts else np.zeros(0)


def _dataset(
    groups: Sequence[Group], targets: Targets, parameters: dict[str, Any], reference: lightgbm.Dataset | None = None
) -> lightgbm.Dataset:
    return lightgbm.Dataset(
        np.concatenate([group.rows for group in groups]),
        label=targets[0],
        group=[len(group.ids) for group in groups],
        weight=targets[1],
        feature_name=list(NAMES),
        params=parameters,
        reference=reference,
    )


def _scores(booster: lightgbm.Booster, table: Rows) -> NDArray[np.float64]:
    return np.asarray(booster.predict(table, raw_score=True, num_threads=1), dtype=np.float64)


def _convert(booster: lightgbm.Booster) -> bytes:
    text = round_thresholds(booster.model_to_string())
    converted = convert_lightgbm(
        lightgbm.Booster(model_str=_OBJECTIVE.sub(r"\1lambdarank", text)),  # scores as they are, no sigmoid
        initial_types=[("rows", FloatTensorType([None, len(NAMES)]))],
        target_opset=15,
        name=KIND,  # else a random one, and the same training would give other bytes
    )
    data: bytes = converted.SerializeToString()
    return data


def round_thresholds(model: str) -> str:
    """LightGBM's model text with every threshold at the largest float32 that is not above it.

    Trained thresholds are float64, served ones float32. For float32 features `value <= threshold` stays the same when
    the threshold is rounded down; rounded to the nearest, a value just above the threshold would become equal to it.
    """
    lines = []
    for line in model.splitlines():
        if line.startswith("threshold="):
            values = (_round_down(float(value)) for value in line.removeprefix("threshold=").split())
            line = "threshold=" + " ".join(map(repr, values))
        if not line.startswith("tree_sizes="):  # lengths of the trees' texts, which have changed; optional
            lines.append(line)
    return "\n".join(lines) + "\n"


def _round_down(value: float) -> float:
    rounded = np.float32(value)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > value else rounded)


def _parity(booster: lightgbm.Booster, ranker: OnnxRanker, table: Rows) -> dict[str, float]:
    difference = float(np.abs(_scores(booster, table) - ranker.score(table)).max(initial=0.0))
    if difference > PARITY:
        raise ModelInvalid(f"the converted model differs by {difference:.2g} from the trained one")
    return {"largest_difference": difference, "rows": len(table)}


def _judge(ranker: OnnxRanker, groups: Sequence[Group]) -> tuple[dict[str, Any], Interval]:
    """Weighted mean NDCG (of clicked groups DCG, as a share of that of the best orders) of ranker and baseline with
    intervals, and the interval of their difference."""
    weights = [group.weight for group in groups]
    clicked = groups[0].looks is not None
    measure = _additive(groups) if clicked else _normalised
    learned = [measure(group, ranker.score(group.rows)) for group in groups]
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
    """DCG over one number for all `groups`: their weighted mean of the best there is."""
    best = [dcg(sorted(debiased(group).tolist(), reverse=True), DEPTH) for group in groups]
    scale = float(np.average(best, weights=[group.weight for group in groups])) or 1.0

    def measure(group: Group, scores: NDArray[Any]) -> float:
        ranked = sorted(zip((-scores).tolist(), group.ids, debiased(group).tolist(), strict=True))
        return dcg((worth for _, _, worth in ranked), DEPTH) / scale

    return measure


def _importance(booster: lightgbm.Booster) -> dict[str, float]:
    """Share of the total gain per feature that is used, largest first."""
    gains = booster.feature_importance("gain")
    total = float(gains.sum()) or 1.0
    return {NAMES[i]: round(float(gains[i]) / total, 4) for i in np.argsort(-gains, kind="stable") if gains[i] > 0}


def _plain(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}
