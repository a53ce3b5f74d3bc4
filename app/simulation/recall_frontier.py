"""Recall by candidate budget on test queries, for the best static plans and for the learned policy. Uses the full lists
of all arms, so that every plan is evaluated without searching again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.offline.sandbox import RESULT_LIMIT, SEARCH_TIMEOUT
from app.system.system import System
from services.datasets.folder import DatasetQuery
from services.evaluation.compare import traffic_weights
from services.policies.base import KNOWN_ARMS, Policy
from services.simulation.judge import Judge
from services.simulation.recall_frontier import (
    Point,
    best_by_group,
    best_by_query,
    best_static,
    evaluate_plans,
    plan_grid,
)
from services.simulation.traffic import traffic_mix
from services.types import ArmChoice, ArmOption, Decision, PolicyMode, Query

BUDGETS = (10, 25, 50, 100)
"""Mean candidates per request."""
EXCLUDED_ARMS = frozenset(KNOWN_ARMS.others)
"""Arms with a count of 0 in every plan: their candidates are not chosen for the query."""
NOT_RETURNED = np.iinfo(np.int32).max
BISECTION_STEPS = 20
MAX_PRICE = 0.1
"""Price of a candidate, in rewards, at which no candidate is worth it."""


@dataclass(frozen=True, slots=True)
class ProbedQuery:
    """A query with the full lists of all arms, and the input of a policy."""

    query: DatasetQuery
    features: Mapping[str, float]
    options: tuple[ArmOption, ...]
    depths: Mapping[str, NDArray[np.int32]]
    """The `depths` of services.simulation.judge.Judge.plan_recall, arms in the order of the options."""


class LargestCounts:
    """A Decider that requests the largest count from every arm."""

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> Decision:
        """The decision, with propensity 1."""
        choices = {o.name: ArmChoice(o.counts[-1], 1.0, ((o.counts[-1], 1.0),)) for o in options}
        return Decision("everything", PolicyMode.STATIC, None, seed, choices)


async def probe_queries(system: System, queries: Sequence[DatasetQuery]) -> list[ProbedQuery]:
    """Search every query with the largest counts; nothing is logged."""
    probed_queries = []
    for query in queries:
        request = Query(query.text, user_id=query.user_id, limit=RESULT_LIMIT, timeout=SEARCH_TIMEOUT)
        collected = await system.search.collect(request, LargestCounts())
        depths: dict[str, NDArray[np.int32]] = {}
        for place, option in enumerate(collected.options):
            for rank, candidate in enumerate(collected.lists.get(option.name, ()), 1):
                if candidate.object_id not in depths:
                    depths[candidate.object_id] = np.full(len(collected.options), NOT_RETURNED, dtype=np.int32)
                depths[candidate.object_id][place] = rank
        probed_queries.append(ProbedQuery(query, collected.features, collected.options, depths))
    return probed_queries


def frontier(
    judge: Judge, index: int, validation: Sequence[ProbedQuery], test: Sequence[ProbedQuery], learned: Policy
) -> list[dict[str, Any]]:
    """Points as {budget, by, recall, candidates}: capped recall@10 of the union and candidates requested, means over
    test queries in the traffic mix. Plans and prices are chosen on validation, except for the oracle. Empty when
    validation lacks a slice of test."""
    slices = [np.array([probe.query.slice for probe in probed]) for probed in (validation, test)]
    if not len(validation) or not set(slices[1].tolist()) <= set(slices[0].tolist()):
        return []
    plans = _plans(test)
    (values, costs, weights), (test_values, test_costs, test_weights) = (
        _table(judge, index, probed, plans) for probed in (validation, test)
    )
    lines = []

    def line(budget: int | None, by: str, point: Point) -> None:
        lines.append({"budget": budget, "by": by, "recall": point.value, "candidates": point.cost})

    for budget in BUDGETS:
        static = best_static(values, costs, weights, budget)
        line(budget, "best static", evaluate_plans(test_values, test_costs, test_weights, np.full(len(test), static)))
        plan_of = best_by_group(values, costs, weights, slices[0], budget)
        places = np.array([plan_of[name] for name in slices[1].tolist()])
        line(budget, "best told the slice", evaluate_plans(test_values, test_costs, test_weights, places))
        line(budget, "oracle a query", best_by_query(test_values, test_costs, test_weights, budget))
        if (priced := policy_at_budget(judge, index, validation, learned, budget)) is not None:
            line(budget, "learned, priced", policy_point(judge, index, test, priced))
    line(None, "learned", policy_point(judge, index, test, learned))
    return lines


def policy_at_budget(
    judge: Judge, index: int, validation: Sequence[ProbedQuery], learned: Policy, budget: float
) -> Policy | None:
    """The policy at the lowest candidate price that keeps it within the budget on validation. None for a policy without
    `at_price(price)`, which returns the greedy policy at that price."""
    at_price = getattr(learned, "at_price", None)
    if at_price is None:
        return None
    low, high = 0.0, MAX_PRICE
    for _ in range(BISECTION_STEPS):
        price = (low + high) / 2
        if policy_point(judge, index, validation, at_price(price)).cost > budget:
            low = price
        else:
            high = price
    policy: Policy = at_price(high)
    return policy


def policy_point(judge: Judge, index: int, probed: Sequence[ProbedQuery], policy: Policy) -> Point:
    """Mean capped recall and cost of the policy's decisions."""
    weights, value, cost = _weights(probed), 0.0, 0.0
    for weight, probe in zip(weights.tolist(), probed, strict=True):
        choices = policy.decide(probe.features, probe.options, index)
        plan = np.array([[choices[option.name].count for option in probe.options]], dtype=np.int32)
        value += weight * float(judge.plan_recall(probe.depths, plan, probe.query.query_id, index)[0])
        cost += weight * float(plan.sum())
    return Point(value, cost)


def _plans(probed: Sequence[ProbedQuery]) -> NDArray[np.int32]:
    """Every combination of the counts that the arms offer, [plans, arms]."""
    offered: dict[str, tuple[int, ...]] = {}
    for probe in probed:
        for option in probe.options:
            counts = (0,) if option.name in EXCLUDED_ARMS else option.counts
            offered[option.name] = max(offered.get(option.name, (0,)), counts, key=len)
    return plan_grid(tuple(offered), offered)


def _table(
    judge: Judge, index: int, probed: Sequence[ProbedQuery], plans: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(values, costs, weights) for services.simulation.recall_frontier. An arm that is unavailable for a query costs
    nothing."""
    values = np.empty((len(probed), len(plans)))
    costs = np.empty_like(values)
    for place, probe in enumerate(probed):
        values[place] = judge.plan_recall(probe.depths, plans, probe.query.query_id, index)
        costs[place] = plans @ np.array([len(option.counts) > 1 for option in probe.options], dtype=np.int32)
    return values, costs, _weights(probed)


def _weights(probed: Sequence[ProbedQuery]) -> NDArray[np.float64]:
    queries = [probe.query for probe in probed]
    weights = traffic_weights(
        [query.slice for query in queries], [query.weight for query in queries], traffic_mix(queries)
    )
    return np.array(weights) / sum(weights)
