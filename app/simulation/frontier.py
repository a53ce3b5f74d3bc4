"""How much is found for how many candidates, at best and by what was learned, on test queries: by the full lists of all
arms, so that any counts can be looked at without asking again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.offline.sandbox import LIMIT, PATIENCE
from app.system.system import System
from services.datasets.folder import DatasetQuery
from services.evaluation.compare import traffic
from services.policies.base import KNOWN_ARMS, Policy
from services.simulation.frontier import Point, best_by_group, best_by_query, best_static, chosen, grid
from services.simulation.judge import Judge
from services.simulation.users import mix_of
from services.types import ArmChoice, ArmOption, Decision, PolicyMode, Query

BUDGETS = (10, 25, 50, 100)
"""Mean candidates a request."""
LEFT_OUT = frozenset(KNOWN_ARMS.others)
"""Arms that no best mix asks: what they find by chance answers no query in particular."""
BEYOND = np.iinfo(np.int32).max
HALVINGS = 20
DEAREST = 0.1
"""Price of a candidate, in rewards, at which nothing is worth it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A query with all that arms have for it, and what a policy would be told."""

    query: DatasetQuery
    features: Mapping[str, float]
    options: tuple[ArmOption, ...]
    depths: Mapping[str, NDArray[np.int32]]
    """As services.simulation.judge.Judge.covered takes them, arms as in the options."""


class Everything:
    """As a Decider: all that every arm has."""

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> Decision:
        choices = {o.name: ArmChoice(o.counts[-1], 1.0, ((o.counts[-1], 1.0),)) for o in options}
        return Decision("everything", PolicyMode.STATIC, None, seed, choices)


async def seen(system: System, queries: Sequence[DatasetQuery]) -> list[Seen]:
    found = []
    for query in queries:
        asked = Query(query.text, user_id=query.user_id, limit=LIMIT, timeout=PATIENCE)
        collected = await system.search.collect(asked, Everything())
        depths: dict[str, NDArray[np.int32]] = {}
        for place, option in enumerate(collected.options):
            for rank, candidate in enumerate(collected.lists.get(option.name, ()), 1):
                if candidate.object_id not in depths:
                    depths[candidate.object_id] = np.full(len(collected.options), BEYOND, dtype=np.int32)
                depths[candidate.object_id][place] = rank
        found.append(Seen(query, collected.features, collected.options, depths))
    return found


def frontier(
    judge: Judge, index: int, validation: Sequence[Seen], test: Sequence[Seen], learned: Policy
) -> list[dict[str, Any]]:
    """Lines of {budget, by, recall, candidates}: capped recall@10 of what is found, and candidates asked for, means in
    the traffic mix on test queries; counts and prices are chosen on validation, but those of the oracle. Empty when
    validation lacks a slice of test."""
    slices = [np.array([one.query.slice for one in those]) for those in (validation, test)]
    if not len(validation) or not set(slices[1].tolist()) <= set(slices[0].tolist()):
        return []
    plans = _plans(test)
    (values, costs, weights), (test_values, test_costs, test_weights) = (
        _table(judge, index, those, plans) for those in (validation, test)
    )
    lines = []

    def line(budget: int | None, by: str, point: Point) -> None:
        lines.append({"budget": budget, "by": by, "recall": point.value, "candidates": point.cost})

    for budget in BUDGETS:
        static = best_static(values, costs, weights, budget)
        line(budget, "best static", chosen(test_values, test_costs, test_weights, np.full(len(test), static)))
        told = best_by_group(values, costs, weights, slices[0], budget)
        places = np.array([told[name] for name in slices[1].tolist()])
        line(budget, "best told the slice", chosen(test_values, test_costs, test_weights, places))
        line(budget, "oracle a query", best_by_query(test_values, test_costs, test_weights, budget))
        if (priced := tuned(judge, index, validation, learned, budget)) is not None:
            line(budget, "learned, priced", point(judge, index, test, priced))
    line(None, "learned", point(judge, index, test, learned))
    return lines


def tuned(judge: Judge, index: int, validation: Sequence[Seen], learned: Policy, budget: float) -> Policy | None:
    """The policy at the least price of a candidate at which it stays within the budget on validation. None for one that
    has no `at_price(price)`, which gives the policy that decides greedily when a candidate costs so much."""
    at_price = getattr(learned, "at_price", None)
    if at_price is None:
        return None
    low, high = 0.0, DEAREST
    for _ in range(HALVINGS):
        price = (low + high) / 2
        if point(judge, index, validation, at_price(price)).cost > budget:
            low = price
        else:
            high = price
    policy: Policy = at_price(high)
    return policy


def point(judge: Judge, index: int, those: Sequence[Seen], policy: Policy) -> Point:
    """What the policy's own decisions find, and cost."""
    weights, value, cost = _weights(those), 0.0, 0.0
    for weight, one in zip(weights.tolist(), those, strict=True):
        choices = policy.decide(one.features, one.options, index)
        plan = np.array([[choices[option.name].count for option in one.options]], dtype=np.int32)
        value += weight * float(judge.covered(one.depths, plan, one.query.query_id, index)[0])
        cost += weight * float(plan.sum())
    return Point(value, cost)


def _plans(those: Sequence[Seen]) -> NDArray[np.int32]:
    """Every combination of what arms offer at all."""
    offered: dict[str, tuple[int, ...]] = {}
    for one in those:
        for option in one.options:
            counts = (0,) if option.name in LEFT_OUT else option.counts
            offered[option.name] = max(offered.get(option.name, (0,)), counts, key=len)
    return grid(tuple(offered), offered)


def _table(
    judge: Judge, index: int, those: Sequence[Seen], plans: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(values, costs, weights) as services.simulation.frontier takes them. An arm that has nothing to go on costs
    nothing."""
    values = np.empty((len(those), len(plans)))
    costs = np.empty_like(values)
    for place, one in enumerate(those):
        values[place] = judge.covered(one.depths, plans, one.query.query_id, index)
        costs[place] = plans @ np.array([len(option.counts) > 1 for option in one.options], dtype=np.int32)
    return values, costs, _weights(those)


def _weights(those: Sequence[Seen]) -> NDArray[np.float64]:
    queries = [one.query for one in those]
    weights = traffic([query.slice for query in queries], [query.weight for query in queries], mix_of(queries))
    return np.array(weights) / sum(weights)
