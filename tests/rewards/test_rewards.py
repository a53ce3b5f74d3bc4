"""Rewards, recomputed by hand."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.learning.feedback import Event
from services.rewards.rewards import ACTIONS, arm_rewards, clicked, examination, gain, principal_weight, reward
from services.types import ArmChoice, ArmOption, Decision, Degraded, Impression, Interaction
from tests.builders.records import make_impression, make_interaction

WEIGHTS = {"click": 1.0, "purchase": 4.0, "dislike": -2.0, "dwell": 2.0, "abandon": 0.0}


def decided(counts: dict[str, int], lists: dict[str, str], **changes: Any) -> Impression:
    """An answer whose arms, asked for `counts`, returned the items named by the letters of `lists`."""
    arms = {arm: ArmChoice(count, 1.0, ((count, 1.0),)) for arm, count in counts.items()}
    return make_impression(
        decision=Decision("vw", "learned", None, 1, arms),
        options=tuple(ArmOption(arm, (0, 2, 10)) for arm in counts),
        lists={arm: tuple((item, 1.0) for item in items) for arm, items in lists.items()},
        degraded=(),
        **changes,
    )


def on(item: str | None, position: int | None, action: str = "click", **changes: Any) -> Interaction:
    return make_interaction(object_id=item, position=position, action_name=action, **changes)


def test_examination_is_the_discount_of_dcg() -> None:
    assert [examination(k) for k in (1, 3, 7, 15)] == pytest.approx([1.0, 1 / 2, 1 / 3, 1 / 4])
    assert examination(10) == pytest.approx(0.2890648)


def test_actions_are_those_of_the_contract() -> None:
    assert get_args(Event.model_fields["action_name"].annotation) == ACTIONS


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (on("a", 1), 1 / 4),
        (on("a", 1, "purchase"), 1.0),
        (on("a", 1, "dislike"), -1 / 2),
        (on("a", 1, "dwell", value=0.0), 0.0),
        (on("a", 1, "dwell", value=15.0), 1 / 4),
        (on("a", 1, "dwell", value=30.0), 1 / 2),
        (on("a", 1, "dwell", value=1e300), 1 / 2),
        (on("a", 1, "dwell"), 0.0),
        (on(None, None, "abandon"), 0.0),
        (on("a", 1, "like"), 0.0),  # no weight given
        (on("a", 1, status="late"), 0.0),
    ],
)
def test_gain_is_relative_to_the_largest_weight(event: Interaction, expected: float) -> None:
    assert gain(event, WEIGHTS) == pytest.approx(expected)


def test_reward_adds_discounted_gains_and_is_clipped() -> None:
    assert reward([], WEIGHTS) == 0.0
    assert reward([on("a", 1), on("c", 3)], WEIGHTS) == pytest.approx(1 / 4 + 1 / 4 / 2)
    assert reward([on("a", 1, "purchase"), on("b", 3, "dislike")], WEIGHTS) == pytest.approx(1 - 1 / 2 / 2)
    assert reward([on("a", 1, "purchase"), on("b", 1, "purchase")], WEIGHTS) == 1.0
    assert reward([on(x, 1, "dislike") for x in "abcd"], WEIGHTS) == -1.0


def test_taken_is_what_people_were_glad_of_in_the_end() -> None:
    impression = make_impression(shown=("a", "b", "c", "d", "e", "f", "g"))
    events = [
        on("a", 1),
        *(on("b", 2), on("b", 2, "dislike")),
        *(on("c", 3, "purchase"), on("c", 3, "dislike")),
        on("d", 4, "abandon"),
        on("e", 5, "purchase", status="late"),
        *(on("f", 6), on("f", 6), on("f", 6)),
        on("elsewhere", 7),
        on(None, None),
    ]
    assert clicked(impression, events, WEIGHTS) == (1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0)
    assert clicked(impression, [], WEIGHTS) == (0.0,) * 7


def test_credit_is_shared_among_the_arms_that_held_the_item_within_their_count() -> None:
    answer = decided({"x": 2, "y": 2, "z": 10, "off": 0}, {"x": "abc", "y": "bd", "z": "cb"})
    earned = arm_rewards(answer, [on("a", 1), on("b", 3), on("c", 7)], WEIGHTS, 0.01)
    # a: x alone; b at 3: x, y and z; c at 7: z alone, since x held it beyond its count of 2.
    click = 1 / 4
    assert earned == pytest.approx(
        {
            "x": click + click / 2 / 3 - 0.02,
            "y": click / 2 / 3 - 0.02,
            "z": click / 2 / 3 + click / 3 - 0.10,
            "off": 0.0,
        }
    )


def test_items_that_no_arm_found_credit_none() -> None:
    answer = decided({"x": 2}, {"x": "ab"})
    assert arm_rewards(answer, [on("tail", 9), on(None, None, "abandon")], WEIGHTS, 0.0) == {"x": 0.0}


def test_failed_arms_and_arms_without_a_choice_are_absent() -> None:
    answer = decided({"x": 2, "down": 2, "mute": 0}, {"x": "ab"})
    answer = make_impression(
        decision=answer.decision,
        lists=answer.lists,
        options=(ArmOption("x", (0, 2)), ArmOption("down", (0, 2)), ArmOption("mute", (0,))),
        degraded=(Degraded("down", "timeout"),),
    )
    assert set(arm_rewards(answer, [on("a", 1)], WEIGHTS, 0.01)) == {"x"}


items = st.sampled_from("abcdef")
events = st.lists(
    st.builds(
        on,
        items | st.none(),
        st.none() | st.integers(1, 1000),
        st.sampled_from(ACTIONS),
        value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    ),
    max_size=8,
)
weights = st.dictionaries(st.sampled_from(ACTIONS), st.floats(-1e300, 1e300))
arms = st.dictionaries(st.sampled_from(["x", "y", "z"]), st.tuples(st.integers(0, 100), st.text("abcdef", max_size=6)))


@given(arms, events, weights, st.floats(0.0, 1e6))
def test_rewards_are_finite_and_bounded_whatever_comes(
    arms: dict[str, tuple[int, str]], events: list[Interaction], weights: dict[str, float], price: float
) -> None:
    answer = decided({arm: count for arm, (count, _) in arms.items()}, {arm: found for arm, (_, found) in arms.items()})
    earned = arm_rewards(answer, events, weights, price)
    assert set(earned) == set(arms)
    for value in (*earned.values(), reward(events, weights)):
        assert math.isfinite(value)
        assert -1.0 <= value <= 1.0


@given(arms, events)
def test_what_the_arms_earn_is_what_the_items_they_found_were_worth(
    arms: dict[str, tuple[int, str]], events: list[Interaction]
) -> None:
    tiny = {"click": 1.0, "purchase": 5.0, "dislike": -1.0, "like": 2.0, "dwell": 0.5}
    # One event, so that nothing is clipped.
    answer = decided({arm: count for arm, (count, _) in arms.items()}, {arm: found for arm, (_, found) in arms.items()})
    for event in events:
        found = any(event.object_id in set(items[:count]) for count, items in arms.values() if event.object_id)
        total = sum(arm_rewards(answer, [event], tiny, 0.0).values())
        assert total == pytest.approx(reward([event], tiny) if found else 0.0)


def test_a_principal_counts_in_full_up_to_the_cap_and_hardly_beyond() -> None:
    assert [principal_weight(n, 30) for n in (0, 29)] == [1.0, 1.0]
    assert principal_weight(30, 30) == pytest.approx((30 / 31) ** 2)
    assert principal_weight(59, 30) == pytest.approx(1 / 4)
    assert sum(principal_weight(n, 30) for n in range(100_000)) < 2 * 30


@given(st.integers(0, 10**9), st.integers(1, 1000))
def test_principal_weight_never_rises(n: int, cap: int) -> None:
    assert 0.0 < principal_weight(n + 1, cap) <= principal_weight(n, cap) <= 1.0
