"""The best recall within a candidate budget: with one plan for all queries, one per group, or one per query. Pure.

A plan is a count per arm. values[q, p]: the capped recall of plan p on query q; costs[q, p]: the candidates it
requests; weights[q]: the query's share of traffic, which sum to 1. A budget is a mean number of candidates per request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PlanIndices = NDArray[np.intp]

COST_STEP = 0.05
"""Resolution, in candidates, of the knapsack in `best_by_group`."""
BISECTION_STEPS = 50
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Point:
    """Mean value (recall) of a choice of plans, and the mean number of candidates it requests."""

    value: float
    cost: float


def plan_grid(arms: Sequence[str], counts: Mapping[str, Sequence[int]]) -> NDArray[np.int32]:
    """Every combination of the arms' counts, [plans, arms]."""
    return np.array(list(product(*(counts[arm] for arm in arms))), dtype=np.int32)


def evaluate_plans(values: Floats, costs: Floats, weights: Floats, plans: PlanIndices) -> Point:
    """Mean value and cost when query q uses the plan with index plans[q]."""
    rows = np.arange(len(values))
    return Point(float(weights @ values[rows, plans]), float(weights @ costs[rows, plans]))


def best_static(values: Floats, costs: Floats, weights: Floats, budget: float) -> int:
    """Index of the single plan with the highest value within the budget. Raises ValueError when none fits."""
    found, spent = weights @ values, weights @ costs
    within = spent <= budget + TOLERANCE
    if not within.any():
        raise ValueError(f"no plan costs {budget} candidates or less")
    return int(np.where(within, found, -np.inf).argmax())


def best_by_group(
    values: Floats, costs: Floats, weights: Floats, groups: NDArray[np.str_], budget: float
) -> dict[str, int]:
    """Group -> index of its plan: the highest total value within the budget, exact up to COST_STEP candidates per group
    (multiple-choice knapsack by dynamic programming). Raises ValueError when nothing fits."""
    steps_in_budget = round(budget / COST_STEP)
    best = np.full(steps_in_budget + 1, -np.inf)
    best[0] = 0.0
    choices: list[tuple[str, NDArray[np.int64], NDArray[np.int64]]] = []
    for group in sorted(set(groups.tolist())):
        members = groups == group
        found = weights[members] @ values[members]
        steps = np.ceil((weights[members] @ costs[members]) / COST_STEP - TOLERANCE).astype(np.int64)
        reached = np.full(steps_in_budget + 1, -np.inf)
        choice = np.zeros(steps_in_budget + 1, dtype=np.int64)
        for plan in _pareto_plans(found, steps):
            step = int(steps[plan])
            if step > steps_in_budget:
                continue
            candidate = np.full(steps_in_budget + 1, -np.inf)
            candidate[step:] = best[: steps_in_budget + 1 - step] + found[plan]
            better = candidate > reached
            reached[better] = candidate[better]
            choice[better] = plan
        best = reached
        choices.append((group, choice, steps))
    if not np.isfinite(best).any():
        raise ValueError(f"no plans cost {budget} candidates or less")
    remaining = int(best.argmax())
    plans: dict[str, int] = {}
    for group, choice, steps in reversed(choices):
        plans[group] = int(choice[remaining])
        remaining -= int(steps[plans[group]])
    return plans


def best_at_price(values: Floats, costs: Floats, price: float) -> PlanIndices:
    """Per query, the index of the plan with the highest value minus price × cost; ties go to the cheaper one."""
    net_value = values - price * costs
    ties = net_value >= net_value.max(axis=1, keepdims=True) - 1e-12
    found: PlanIndices = np.where(ties, costs, np.inf).argmin(axis=1)
    return found


def best_by_query(values: Floats, costs: Floats, weights: Floats, budget: float) -> Point:
    """The best plan per query within the budget, by Lagrangian relaxation: one price per candidate for all queries,
    interpolated linearly between the two choices next to the budget. No choice is better by more than one plan's
    value."""
    low, high = 0.0, 1.0
    costly, cheap = (
        evaluate_plans(values, costs, weights, best_at_price(values, costs, price)) for price in (low, high)
    )
    if costly.cost <= budget:
        return costly
    for _ in range(BISECTION_STEPS):
        price = (low + high) / 2
        point = evaluate_plans(values, costs, weights, best_at_price(values, costs, price))
        if point.cost > budget:
            low, costly = price, point
        else:
            high, cheap = price, point
    if costly.cost - cheap.cost <= TOLERANCE:
        return cheap
    share = (budget - cheap.cost) / (costly.cost - cheap.cost)
    return Point(cheap.value + share * (costly.value - cheap.value), budget)


def _pareto_plans(found: Floats, steps: NDArray[np.int64]) -> list[int]:
    """Pareto-optimal plans: those with more value than every cheaper one, cheapest first."""
    kept: list[int] = []
    highest = -np.inf
    for plan in np.lexsort((-found, steps)).tolist():
        if found[plan] > highest + TOLERANCE:
            kept.append(plan)
            highest = found[plan]
    return kept
