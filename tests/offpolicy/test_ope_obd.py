"""The estimators on real traffic: a sample of the Open Bandit Dataset, where two policies served the same shop.

One item is shown at each of three places; `random` draws it uniformly, `bts` by Bernoulli Thompson sampling. From the
log of each the value of the other is estimated, and compared with what the other earned itself. The reference is
written in plain loops by the formulas of the paper (Saito et al., "Open Bandit Dataset and Pipeline", NeurIPS 2021
datasets and benchmarks), by item and place, without the code under test.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from services.offpolicy import ope
from services.offpolicy.reward_model import Actions, crossfit
from services.offpolicy.support import MIN_SAMPLE

ITEMS = {"men": 34, "women": 46}
PLACES = (1, 2, 3)
ON_POLICY = {("random", "men"): 46, ("random", "women"): 46, ("bts", "men"): 69, ("bts", "women"): 46}
"""Clicks in 10,000 rows, as the data set's README says."""


@dataclass(frozen=True)
class Row:
    item: int
    place: int
    click: float
    propensity: float


@pytest.fixture(scope="module")
def logs(shared: Path) -> dict[tuple[str, str], list[Row]]:
    return {(policy, shop): rows(shared / "data" / "obd-small", policy, shop) for policy, shop in ON_POLICY}


def rows(folder: Path, policy: str, shop: str) -> list[Row]:
    with gzip.open(folder / policy / shop / f"{shop}.csv.gz", "rt", encoding="utf-8") as lines:
        return [
            Row(int(row["item_id"]), int(row["position"]), float(row["click"]), float(row["propensity_score"]))
            for row in csv.DictReader(lines)
        ]


def behaviour(log: list[Row], shop: str, policy: str) -> dict[tuple[int, int], float]:
    """(item, place) -> how often the policy shows the item there: known for random; for bts, whose propensities change
    from hour to hour, its shares in its own log, which are their mean over the week without bias."""
    if policy == "random":
        return {(item, place): 1.0 / ITEMS[shop] for item in range(ITEMS[shop]) for place in PLACES}
    shown = Counter((row.item, row.place) for row in log)
    places = Counter(row.place for row in log)
    return {(item, place): shown[item, place] / places[place] for item in range(ITEMS[shop]) for place in PLACES}


def by_hand(log: list[Row], wanted: dict[tuple[int, int], float]) -> tuple[float, float, float]:
    """IPS, SNIPS and effective sample size."""
    total = weights = squares = 0.0
    for row in log:
        weight = wanted[row.item, row.place] / row.propensity
        total += weight * row.click
        weights += weight
        squares += weight * weight
    return total / len(log), total / weights, weights * weights / squares


def robust_by_hand(
    log: list[Row], wanted: dict[tuple[int, int], float], predicted: dict[tuple[int, int], float]
) -> float:
    """DR with one prediction per item and place."""
    total = 0.0
    for row in log:
        imagined = 0.0
        for (item, place), probability in wanted.items():
            if place == row.place:
                imagined += probability * predicted[item, place]
        weight = wanted[row.item, row.place] / row.propensity
        total += imagined + weight * (row.click - predicted[row.item, row.place])
    return total / len(log)


def smoothed(log: list[Row], shop: str) -> dict[tuple[int, int], float]:
    """Click rate per item and place, drawn towards the mean by 100 rows."""
    mean = sum(row.click for row in log) / len(log)
    clicks: Counter[tuple[int, int]] = Counter()
    shown: Counter[tuple[int, int]] = Counter()
    for row in log:
        clicks[row.item, row.place] += row.click  # type: ignore[assignment]
        shown[row.item, row.place] += 1
    return {
        (item, place): (clicks[item, place] + 100 * mean) / (shown[item, place] + 100)
        for item in range(ITEMS[shop])
        for place in PLACES
    }


def table(log: list[Row], wanted: dict[tuple[int, int], float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards (n,), propensities and wanted probabilities (n, 1)."""
    return (
        np.array([row.click for row in log]),
        np.array([[row.propensity] for row in log]),
        np.array([[wanted[row.item, row.place]] for row in log]),
    )


def test_the_sample_is_the_one_that_is_described(logs: dict[tuple[str, str], list[Row]]) -> None:
    for key, log in logs.items():
        assert len(log) == 10_000
        assert sum(row.click for row in log) == ON_POLICY[key]


@pytest.mark.parametrize("shop", ["men", "women"])
@pytest.mark.parametrize(("serving", "asked"), [("random", "bts"), ("bts", "random")])
def test_the_value_of_the_other_policy_as_by_hand_and_as_it_earned_itself(
    logs: dict[tuple[str, str], list[Row]], shop: str, serving: str, asked: str
) -> None:
    log, other = logs[serving, shop], logs[asked, shop]
    wanted = behaviour(other, shop, asked)
    plain, normalised, size = by_hand(log, wanted)
    rewards, logged, target = table(log, wanted)
    weights = ope.product(logged, target)
    ips, snips = ope.ips(rewards, weights).interval(), ope.snips(rewards, weights).interval()
    assert ips.value == pytest.approx(plain, rel=1e-12)
    assert snips.value == pytest.approx(normalised, rel=1e-12)
    assert ips.effective == pytest.approx(size, rel=1e-12)
    assert ope.ips(rewards, ope.pseudo_inverse(logged, target)).value == pytest.approx(plain, rel=1e-12)  # one arm

    predicted = smoothed(other, shop)
    imagined = {place: sum(p * predicted[i, at] for (i, at), p in wanted.items() if at == place) for place in PLACES}
    robust = ope.doubly_robust(
        rewards,
        weights,
        np.array([predicted[row.item, row.place] for row in log]),
        np.array([imagined[row.place] for row in log]),
    ).interval()
    assert robust.value == pytest.approx(robust_by_hand(log, wanted, predicted), rel=1e-9)

    columns = [(item, place) for item in range(ITEMS[shop]) for place in PLACES]
    taken = np.array([[float((row.item, row.place) == column) for column in columns] for row in log])
    proposed = np.array([[wanted[column] * (column[1] == row.place) for column in columns] for row in log])
    context = np.array([[float(row.place == place) for place in PLACES] for row in log])
    actions = Actions((0,) * len(columns), tuple(range(len(columns))))
    known, (meant,) = crossfit(context, actions, taken, [proposed], rewards)
    fitted = ope.doubly_robust(rewards, weights, known, meant).interval()

    earned = sum(row.click for row in other) / len(other)
    error = math.sqrt(earned * (1 - earned) / len(other))
    print(f"\n{asked} from the log of {serving}, {shop}: earned {earned:.4f} +- {1.96 * error:.4f}")
    print(f"  effective sample {size:.0f}")
    for name, estimate in (("IPS", ips), ("SNIPS", snips), ("DR", robust), ("DR, cross-fitted", fitted)):
        print(f"  {name:16} {estimate}")
        assert estimate.low - 1.96 * error <= earned <= estimate.high + 1.96 * error
        # The women's bts shows some items nearly never: its log hardly knows the uniform policy, and the size says so.
        if (serving, shop) == ("bts", "women"):
            assert size < 10 < MIN_SAMPLE
        else:
            assert size > MIN_SAMPLE
            assert estimate.high - estimate.low < 0.01
