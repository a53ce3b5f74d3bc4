"""Asking a policy about counts that another one drew: what it would have logged, without drawing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.policies.base import Retracing
from services.policies.budget import allocate, retrace
from services.policies.fixed import FixedPolicy, UniformPolicy
from services.policies.sampling import Distribution
from services.types import ArmChoice, ArmOption
from tests.contracts.policy import FEATURES, counts_of, limits, options, repeatable, seeds

MIX = {"lexical": 10, "structured": 5}
SMALL = tuple(ArmOption(arm, (0, 5, 10)) for arm in ("memory", "vector", "lexical"))


def policies(budget: int, floor: int) -> Sequence[Retracing]:
    return FixedPolicy(MIX, budget, floor), UniformPolicy(budget, floor)


def asked(policy: Retracing, arms: Sequence[ArmOption], counts: Mapping[str, int]) -> dict[str, ArmChoice]:
    return policy.retrace(FEATURES, arms, counts)


def chance(choices: Mapping[str, ArmChoice]) -> float:
    return math.prod(choice.propensity for choice in choices.values())


@repeatable
@given(options(), limits(), seeds)
def test_of_its_own_counts_it_is_what_was_logged(
    arms: tuple[ArmOption, ...], limit: tuple[int, int], seed: int
) -> None:
    for policy in policies(*limit):
        logged = policy.decide(FEATURES, arms, seed)
        assert asked(policy, arms, counts_of(logged)) == logged


@repeatable
@given(limits())
def test_the_probabilities_of_all_possible_decisions_sum_to_1(limit: tuple[int, int]) -> None:
    budget, floor = limit
    reach = max(total for total in map(sum, itertools.product((0, 5, 10), repeat=3)) if total <= budget)
    for policy in policies(budget, floor):
        total = 0.0
        for drawn in itertools.product((0, 5, 10), repeat=3):
            counts = dict(zip(("memory", "vector", "lexical"), drawn, strict=True))
            probability = chance(asked(policy, SMALL, counts))
            assert probability == 0.0 or min(floor, reach) <= sum(drawn) <= budget
            total += probability
        assert total == pytest.approx(1.0)


def test_what_was_spent_by_the_counts_given_masks_what_comes_after() -> None:
    choices = asked(UniformPolicy(budget=15, floor=0), SMALL, {"memory": 10, "vector": 5, "lexical": 0})
    assert [choice.distribution for choice in choices.values()] == [
        ((0, 1 / 3), (5, 1 / 3), (10, 1 / 3)),
        ((0, 1 / 2), (5, 1 / 2), (10, 0.0)),
        ((0, 1.0), (5, 0.0), (10, 0.0)),
    ]
    assert [choice.propensity for choice in choices.values()] == [1 / 3, 1 / 2, 1.0]


def test_what_it_would_never_do_has_probability_0_and_what_follows_is_still_asked() -> None:
    choices = asked(FixedPolicy(MIX, 100, 0), SMALL, {"memory": 5, "vector": 0, "lexical": 10})
    assert [choice.propensity for choice in choices.values()] == [0.0, 1.0, 1.0]
    never = asked(UniformPolicy(budget=10, floor=0), SMALL, {"memory": 10, "vector": 10, "lexical": 0})
    assert [choice.propensity for choice in never.values()] == [1 / 3, 0.0, 0.0]
    assert never["lexical"].distribution == ((0, 0.0), (5, 0.0), (10, 0.0))
    unknown = asked(UniformPolicy(budget=100, floor=0), SMALL, {"memory": 7, "vector": 0, "lexical": 0})
    assert unknown["memory"].propensity == 0.0
    with pytest.raises(KeyError):
        asked(UniformPolicy(), SMALL, {"memory": 0})


@repeatable
@given(options(), limits(), seeds, st.floats(0.0, 1.0))
def test_any_distribution_is_retraced_as_it_was_allocated(
    arms: tuple[ArmOption, ...], limit: tuple[int, int], seed: int, greed: float
) -> None:
    def distribute(option: ArmOption, allowed: tuple[int, ...]) -> Distribution:
        assert allowed
        share = (1.0 - greed) / len(allowed)
        return tuple((c, (share + greed * (c == allowed[-1])) if c in allowed else 0.0) for c in option.counts)

    drawn = allocate(arms, *limit, seed, distribute)
    assert retrace(arms, *limit, counts_of(drawn), distribute) == drawn
