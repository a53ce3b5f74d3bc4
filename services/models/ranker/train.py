"""Train a ranker, turn it into ONNX, and judge whether it may go live. Needs the `train` extra. Deterministic: same
groups, same bytes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import onnx

from services.errors import InvalidRequest
from services.models.ranker.convert import convert, parity
from services.models.ranker.ensemble import POINTWISE, fit, importance
from services.models.ranker.judge import DEPTH, judge
from services.models.ranker.rows import FEWEST, Group
from services.rankers.features import NAMES
from services.rankers.onnx import FILE, FORMAT, OnnxRanker

STOPPING_SHARE = 0.15
"""Of the training queries, held back to decide how many trees: the validation queries judge the result only."""


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
    trees: int = 600,
    patience: int = 50,
    seed: int = 0,
    objective: str = POINTWISE,
) -> Trained:
    """Train on `training`, judge on `validation` against each group's baseline order.

    Gate: the lower end of the 95 % interval of the difference (paired bootstrap over queries, see judge.py) is not
    below 0.

    `source` (labels | log) goes into the meta data. `objective`: one of OBJECTIVES. The stopping queries decide how
    many trees there are, and are then trained on like the others.

    Raises InvalidRequest when there is too little to learn from, ModelInvalid when the converted model does not give
    the scores of the trained one.
    """
    _check(training, validation)
    fitting, stopping = _split(training)
    ensemble = fit(fitting, stopping, trees, patience, seed, objective)
    if stopping:
        ensemble = fit([*fitting, *stopping], [], ensemble.trees.best_iteration, patience, seed, objective)
    table = np.concatenate([group.rows for group in training])
    reference = np.median(table, axis=0)
    model = convert(ensemble)
    meta: dict[str, Any] = {
        "format": FORMAT,
        "features": list(NAMES),
        "reference": [float(value) for value in reference],
        "source": source,
        "objective": objective,
        "seed": seed,
        "trees": ensemble.trees.num_trees(),
        "fused_slope": ensemble.slope,
        "queries": {"training": len(fitting), "stopping": len(stopping), "validation": len(validation)},
        "libraries": {"lightgbm": lightgbm.__version__, "onnx": onnx.__version__},
    }
    ranker = OnnxRanker(model, meta, "candidate")
    meta["parity"] = parity(ensemble, ranker, np.concatenate([group.rows for group in validation]))
    metrics, difference = judge(ranker, validation)
    meta["metrics"] = metrics
    meta["importance"] = importance(ensemble.trees)
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
