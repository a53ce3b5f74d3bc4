"""What the best counts find for how many candidates: one mix for all, one a slice, one a query. Pure.

A plan is a count per arm. values[q, p]: what plan p finds for query q (capped recall); costs[q, p]: the candidates it
asks for; weights[q]: the query's share of traffic, which sum to 1. A budget is the mean number of candidates a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

STEP = 0.05
"""Candidates that the search for the best counts a slice tells apart."""
HALVINGS = 50
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Point:
    """What a choice of plans finds, and the mean number of candidates it asks for."""

    value: float
    cost: float


def grid(arms: Sequence[str], counts: Mapping[str, Sequence[int]]) -> NDArray[np.int32]:
    """[plans, arms]: every combination of the arms' counts."""
    return np.array(list(product(*(counts[arm] for arm in arms))), dtype=np.int32)


def chosen(values: Floats, costs: Floats, weights: Floats, plans: Places) -> Point:
    """`plans`: the place of each query's plan."""
    rows = np.arange(len(values))
    return Point(float(weights @ values[rows, plans]), float(weights @ costs[rows, plans]))


def best_static(values: Floats, costs: Floats, weights: Floats, budget: float) -> int:
    """The plan that finds most when all queries have the same, within the budget. Raises ValueError when none fits."""
    found, spent = weights @ values, weights @ costs
    within = spent <= budget + _SLACK
    if not within.any():
        raise ValueError(f"no plan costs {budget} candidates or less")
    return int(np.where(within, found, -np.inf).argmax())


def best_by_group(
    values: Floats, costs: Floats, weights: Floats, groups: NDArray[np.str_], budget: float
) -> dict[str, int]:
    """Group -> plan: those that find most together within the budget, exact up to STEP candidates a group (a knapsack
    with one choice a group). Raises ValueError when nothing fits."""
    places = round(budget / STEP)
    best = np.full(places + 1, -np.inf)
    best[0] = 0.0
    taken: list[tuple[str, NDArray[np.int64], NDArray[np.int64]]] = []
    for group in sorted(set(groups.tolist())):
        inside = groups == group
        found = weights[inside] @ values[inside]
        steps = np.ceil((weights[inside] @ costs[inside]) / STEP - _SLACK).astype(np.int64)
        reached = np.full(places + 1, -np.inf)
        choice = np.zeros(places + 1, dtype=np.int64)
        for plan in _undominated(found, steps):
            step = int(steps[plan])
            if step > places:
                continue
            candidate = np.full(places + 1, -np.inf)
            candidate[step:] = best[: places + 1 - step] + found[plan]
            better = candidate > reached
            reached[better] = candidate[better]
            choice[better] = plan
        best = reached
        taken.append((group, choice, steps))
    if not np.isfinite(best).any():
        raise ValueError(f"no plans cost {budget} candidates or less")
    place = int(best.argmax())
    plans: dict[str, int] = {}
    for group, choice, steps in reversed(taken):
        plans[group] = int(choice[place])
        place -= int(steps[plans[group]])
    return plans


def priced(values: Floats, costs: Floats, price: float) -> Places:
    """Per query the plan with the most value minus price × cost; the cheaper of equals."""
    worth = values - price * costs
    ties = worth >= worth.max(axis=1, keepdims=True) - 1e-12
    found: Places = np.where(ties, costs, np.inf).argmin(axis=1)
    return found


def best_by_query(values: Floats, costs: Floats, weights: Floats, budget: float) -> Point:
    """A plan a query within the budget: all at the one price that meets it, between the two choices next to the budget
    in proportion, so that it is met exactly. Nobody can do better but by one plan's worth (Lagrangian relaxation)."""
    low, high = 0.0, 1.0
    dear, cheap = (chosen(values, costs, weights, priced(values, costs, price)) for price in (low, high))
    if dear.cost <= budget:
        return dear
    for _ in range(HALVINGS):
        price = (low + high) / 2
        point = chosen(values, costs, weights, priced(values, costs, price))
        if point.cost > budget:
            low, dear = price, point
        else:
            high, cheap = price, point
    if dear.cost - cheap.cost <= _SLACK:
        return cheap
    share = (budget - cheap.cost) / (dear.cost - cheap.cost)
    return Point(cheap.value + share * (dear.value - cheap.value), budget)


def _undominated(found: Floats, steps: NDArray[np.int64]) -> list[int]:
    """Plans that find more than every cheaper one, cheapest first."""
    kept: list[int] = []
    most = -np.inf
    for plan in np.lexsort((-found, steps)).tolist():
        if found[plan] > most + _SLACK:
            kept.append(plan)
            most = found[plan]
    return kept
