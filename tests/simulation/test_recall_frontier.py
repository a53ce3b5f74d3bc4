from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from services.simulation.recall_frontier import (
    COST_STEP,
    best_at_price,
    best_by_group,
    best_by_query,
    best_static,
    evaluate_plans,
    plan_grid,
)

QUERIES, PLANS = 12, 9


@pytest.fixture
def world() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    values = generator.random((QUERIES, PLANS))
    costs = generator.integers(0, 40, (QUERIES, PLANS)).astype(float)
    costs[:, 0] = 0.0
    weights = generator.random(QUERIES)
    groups = np.array(["a", "b", "c"] * (QUERIES // 3))
    return values, costs, weights / weights.sum(), groups


def test_every_combination_is_a_plan() -> None:
    plans = plan_grid(("x", "y"), {"x": (0, 5), "y": (0, 10, 25)})
    assert plans.tolist() == [[0, 0], [0, 10], [0, 25], [5, 0], [5, 10], [5, 25]]


@pytest.mark.parametrize("budget", [5.0, 12.0, 30.0])
def test_the_best_mix_for_all_is_that_of_a_search_by_hand(world, budget: float) -> None:  # type: ignore[no-untyped-def]
    values, costs, weights, _ = world
    points = [evaluate_plans(values, costs, weights, np.full(QUERIES, plan)) for plan in range(PLANS)]
    best = max(point.value for point in points if point.cost <= budget)
    assert points[best_static(values, costs, weights, budget)].value == best


@pytest.mark.parametrize("budget", [5.0, 12.0, 30.0])
def test_the_best_mix_a_group_is_that_of_a_search_by_hand(world, budget: float) -> None:  # type: ignore[no-untyped-def]
    values, costs, weights, groups = world
    names = sorted(set(groups.tolist()))

    def point(plans: dict[str, int]):  # type: ignore[no-untyped-def]
        return evaluate_plans(values, costs, weights, np.array([plans[group] for group in groups]))

    every = [point(dict(zip(names, plans, strict=True))) for plans in product(range(PLANS), repeat=len(names))]
    within = [p.value for p in every if p.cost <= budget]
    safely = [p.value for p in every if p.cost <= budget - COST_STEP * len(names)]
    found = point(best_by_group(values, costs, weights, groups, budget))
    assert found.cost <= budget + 1e-9
    assert max(safely) - 1e-9 <= found.value <= max(within) + 1e-9


def test_groups_find_at_least_as_much_as_one_mix_and_queries_as_groups(world) -> None:  # type: ignore[no-untyped-def]
    values, costs, weights, groups = world
    for budget in (4.0, 9.0, 16.0, 25.0):
        one = evaluate_plans(values, costs, weights, np.full(QUERIES, best_static(values, costs, weights, budget)))
        plans = best_by_group(values, costs, weights, groups, budget)
        group = evaluate_plans(values, costs, weights, np.array([plans[g] for g in groups]))
        query = best_by_query(values, costs, weights, budget)
        assert one.value <= group.value + 0.02  # a group's costs are rounded up
        assert group.value <= query.value + 1e-9
        assert query.cost <= budget + 1e-9


def test_a_price_buys_what_is_worth_it() -> None:
    values, costs = np.array([[0.0, 0.5, 0.6]]), np.array([[0.0, 10.0, 20.0]])
    assert [int(best_at_price(values, costs, price)[0]) for price in (0.0, 0.02, 0.06)] == [2, 1, 0]
    assert int(best_at_price(np.array([[0.5, 0.5]]), np.array([[9.0, 3.0]]), 0.0)[0]) == 1, "the cheaper of equals"


def test_what_cannot_be_had_is_said() -> None:
    values, costs, weights = np.ones((2, 1)), np.full((2, 1), 30.0), np.full(2, 0.5)
    with pytest.raises(ValueError, match="10"):
        best_static(values, costs, weights, 10.0)
    with pytest.raises(ValueError, match="10"):
        best_by_group(values, costs, weights, np.array(["a", "a"]), 10.0)
