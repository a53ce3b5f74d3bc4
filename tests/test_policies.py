"""Policies, their sampling, their limits, and the switch between them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services import metrics
from services.errors import ModelInvalid
from services.policies.base import LearningPolicy, Outcome, Policy
from services.policies.budget import allocate
from services.policies.fixed import FIXED_COUNTS, FixedPolicy, UniformPolicy
from services.policies.modes import PolicySwitch
from services.policies.sampling import draw, mask, uniform
from services.policies.vw import MIN_EVIDENCE, VWPolicy
from services.types import ArmChoice, ArmOption
from tests.contracts.policy import FEATURES, ROOMY, LearningPolicyContract, PolicyContract, counts_of

MIX = {"lexical": 10, "structured": 5}
ARMS = tuple(ArmOption(arm, (0, 5, 10, 25, 50, 100)) for arm in FIXED_COUNTS)


class TestFixedPolicy(PolicyContract):
    explores = False

    def policy(self, budget: int, floor: int) -> Policy:
        return FixedPolicy(MIX, budget, floor)

    def test_takes_its_counts_for_certain(self) -> None:
        choices = FixedPolicy(MIX, 100, 10).decide(FEATURES, ROOMY, 1)
        assert counts_of(choices) == {"lexical": 10, "structured": 5, "vector": 0, "memory": 0}
        assert all(choice.propensity == 1.0 for choice in choices.values())

    def test_falls_to_the_nearest_smaller_count(self) -> None:
        arms = (ArmOption("lexical", (0, 8, 25)), ArmOption("structured", (0, 10)))
        assert counts_of(FixedPolicy(MIX, 100, 0).decide(FEATURES, arms, 1)) == {"lexical": 8, "structured": 0}

    def test_takes_the_smallest_allowed_count_when_the_floor_forbids_less(self) -> None:
        arms = (ArmOption("structured", (0, 25, 50)),)
        assert counts_of(FixedPolicy(MIX, 100, 10).decide(FEATURES, arms, 1)) == {"structured": 25}

    def test_earlier_arms_leave_less_for_later_ones(self) -> None:
        choices = FixedPolicy({arm.name: 25 for arm in ROOMY}, 60, 0).decide(FEATURES, ROOMY, 1)
        assert counts_of(choices) == {"lexical": 25, "structured": 25, "vector": 10, "memory": 0}

    def test_refuses_what_cannot_be(self) -> None:
        with pytest.raises(ValueError, match="negative"):
            FixedPolicy({"lexical": -1})
        with pytest.raises(ValueError, match="floor"):
            FixedPolicy(MIX, budget=5, floor=10)


class TestUniformPolicy(PolicyContract):
    def policy(self, budget: int, floor: int) -> Policy:
        return UniformPolicy(budget, floor)

    def test_allowed_counts_are_equally_likely(self) -> None:
        (choice,) = UniformPolicy(30, 0).decide(FEATURES, (ARMS[0],), 1).values()
        assert choice.distribution == ((0, 0.25), (5, 0.25), (10, 0.25), (25, 0.25), (50, 0.0), (100, 0.0))


class TestUntrainedVWPolicy(LearningPolicyContract):
    def policy(self, budget: int, floor: int) -> LearningPolicy:
        return VWPolicy(FixedPolicy(MIX), 0.3, budget, floor)

    def loaded(self, dump: bytes) -> LearningPolicy:
        return VWPolicy(FixedPolicy(MIX), 0.3, 100, 10, dump)


@pytest.fixture(scope="module")
def trained_dump() -> bytes:
    return trained(exploration=0.3).dump()


class TestTrainedVWPolicy(LearningPolicyContract):
    @pytest.fixture(autouse=True)
    def _model(self, trained_dump: bytes) -> None:
        self.model = trained_dump

    def policy(self, budget: int, floor: int) -> LearningPolicy:
        return VWPolicy(FixedPolicy(MIX), 0.3, budget, floor, self.model)

    def loaded(self, dump: bytes) -> LearningPolicy:
        return VWPolicy(FixedPolicy(MIX), 0.3, 100, 10, dump)


# --- a small world: the lexical arm finds plain queries, the structured one faceted queries --------------------------

WORLD = (ArmOption("lexical", (0, 5, 10, 25)), ArmOption("structured", (0, 5, 10, 25)))
PRICE = 0.01
NEEDED = {"plain": {"lexical": 10}, "faceted": {"structured": 25}}
"""Kind of query -> the count from which on an arm finds what was meant."""


def gains(kind: str, counts: Mapping[str, int]) -> dict[str, float]:
    found = {arm: 0.5 * (count >= NEEDED[kind].get(arm, 1000)) for arm, count in counts.items()}
    return {arm: found[arm] - PRICE * count for arm, count in counts.items()}


def world(rng: random.Random) -> tuple[str, dict[str, float]]:
    kind = rng.choice(sorted(NEEDED))
    features = {"slot_keyword": 0.8 * (kind == "faceted") + 0.1 * rng.random(), "noise": rng.random(), "bias": 1.0}
    return kind, {name: round(value, 6) for name, value in features.items()}


def trained(exploration: float, rounds: int = 1500, seed: int = 5) -> VWPolicy:
    rng = random.Random(seed)
    policy = VWPolicy(FixedPolicy(MIX), exploration)
    for _ in range(rounds):
        kind, features = world(rng)
        counts = counts_of(policy.decide(features, WORLD, rng.getrandbits(63)))
        policy.learn(Outcome(features, WORLD, counts, gains(kind, counts)))
    return policy


def mean_gain(policy: Policy, requests: int = 400) -> float:
    rng = random.Random(99)
    total = 0.0
    for _ in range(requests):
        kind, features = world(rng)
        total += sum(gains(kind, counts_of(policy.decide(features, WORLD, rng.getrandbits(63)))).values())
    return total / requests


def test_vw_learns_which_arm_which_query_needs() -> None:
    """The best static counts cannot tell the kinds apart; the learned policy, still exploring, must."""
    statics = [FixedPolicy({"lexical": a, "structured": b}, floor=0) for a in (0, 5, 10, 25) for b in (0, 5, 10, 25)]
    best_static = max(mean_gain(static) for static in statics)
    learned = trained(exploration=0.1, rounds=3000)
    assert best_static == pytest.approx(0.15, abs=0.02)
    assert mean_gain(learned) > best_static + 0.1
    greedy = VWPolicy(FixedPolicy(MIX), 0.0, floor=0, model=learned.dump())
    assert counts_of(greedy.decide({"slot_keyword": 0.05, "bias": 1.0}, WORLD, 1)) == {"lexical": 10, "structured": 0}
    assert counts_of(greedy.decide({"slot_keyword": 0.85, "bias": 1.0}, WORLD, 1)) == {"lexical": 0, "structured": 25}


def test_vw_untrained_decides_as_the_static_mix() -> None:
    untrained, fixed = VWPolicy(FixedPolicy(MIX), 0.0, 60, 10), FixedPolicy(MIX, 60, 10)
    for seed in range(50):
        assert untrained.decide(FEATURES, ARMS, seed) == fixed.decide(FEATURES, ARMS, seed)


def test_vw_gives_each_allowed_count_its_share_of_exploration() -> None:
    (choice,) = VWPolicy(FixedPolicy(MIX), 0.2, 30, 0).decide(FEATURES, (ARMS[0],), 1).values()
    assert dict(choice.distribution) == pytest.approx({0: 0.05, 5: 0.05, 10: 0.85, 25: 0.05, 50: 0.0, 100: 0.0})


def lesson(count: int, reward: float, **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "features": FEATURES,
        "options": WORLD,
        "counts": {"lexical": count, "structured": 5},
        "rewards": {"lexical": reward},
    }
    return Outcome(**(fields | changes))


def test_vw_does_not_leave_the_default_on_little_evidence() -> None:
    policy = VWPolicy(FixedPolicy(MIX), 0.0, floor=0)
    for _ in range(int(MIN_EVIDENCE) - 1):
        policy.learn(lesson(10, -0.5))
        policy.learn(lesson(25, 0.5))
    assert policy.decide(FEATURES, WORLD, 1)["lexical"].count == 10
    for _ in range(200):
        policy.learn(lesson(10, -0.5))
        policy.learn(lesson(25, 0.5))
    assert policy.decide(FEATURES, WORLD, 1)["lexical"].count == 25


def test_vw_keeps_the_default_where_noise_could_explain_the_difference() -> None:
    """Same means, one lucky streak: the predicted difference is smaller than its standard error."""
    policy = VWPolicy(FixedPolicy(MIX), 0.0, floor=0)
    for turn in range(40):
        policy.learn(lesson(10, 0.5 if turn % 2 else -0.5))
        policy.learn(lesson(25, 0.5 if turn % 2 or turn == 0 else -0.5))
    costs = policy.costs(FEATURES, WORLD)
    assert costs["lexical", 25] < costs["lexical", 10]
    assert policy.decide(FEATURES, WORLD, 1)["lexical"].count == 10


def test_vw_learns_nothing_of_censored_and_unavailable_arms() -> None:
    policy = VWPolicy(FixedPolicy(MIX))
    before = policy.dump()
    policy.learn(lesson(10, 0.5, rewards={}))
    policy.learn(lesson(0, 0.5, options=(ArmOption("lexical", (0,)),)))
    assert policy.dump() == before
    policy.learn(lesson(10, 0.9))
    costs = policy.costs({}, WORLD)
    assert costs["lexical", 10] < 0.0
    assert costs["structured", 5] > costs["lexical", 10]


def test_vw_weighs_a_lesson() -> None:
    def cost_after(weight: float) -> float:
        policy = VWPolicy(FixedPolicy(MIX))
        policy.learn(lesson(10, 1.0, weight=weight))
        return policy.costs(FEATURES, WORLD)["lexical", 10]

    assert cost_after(1.0) < cost_after(0.25) < cost_after(0.0) == 0.0


def test_vw_cuts_extreme_rewards() -> None:
    wild, tame = VWPolicy(FixedPolicy(MIX)), VWPolicy(FixedPolicy(MIX))
    wild.learn(lesson(10, 1e9))
    tame.learn(lesson(10, 1.0))
    assert wild.dump() == tame.dump()


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": {"lexical": math.nan}},
        {"rewards": {"lexical": 0.1, "structured": math.inf}},
        {"features": {"tokens": math.nan}},
        {"weight": math.nan},
        {"weight": 1.5},
        {"weight": -0.1},
        {"counts": {"lexical": 7}},
        {"counts": {}},
    ],
)
def test_vw_refuses_a_bad_lesson_whole(changes: Mapping[str, Any]) -> None:
    policy = VWPolicy(FixedPolicy(MIX))
    before = policy.dump()
    with pytest.raises(ValueError, match=r"finite|weight|offer"):
        policy.learn(lesson(10, 0.5, **changes))
    assert policy.dump() == before


def test_vw_refuses_models_that_are_not_its_own(trained_dump: bytes) -> None:
    other_form = trained_dump.replace(b"--learning_rate 0.02", b"--learning_rate 0.03")
    cut_header = trained_dump[:40]
    cut_weights = trained_dump[: trained_dump.index(b"}", 12) + 400]
    for damaged in (b"", b"nonsense", other_form, cut_header, cut_weights):
        with pytest.raises(ModelInvalid):
            VWPolicy(FixedPolicy(MIX), model=damaged)


def test_vw_carries_the_name_that_its_store_gave_it(trained_dump: bytes) -> None:
    policy = VWPolicy(FixedPolicy(MIX), model=trained_dump, version="v7")
    assert policy.version == "v7"
    assert VWPolicy(FixedPolicy(MIX), model=trained_dump).version == trained(0.3).version
    policy.learn(lesson(10, 0.5))
    assert policy.version != "v7"


@pytest.mark.parametrize("exploration", [-0.1, 1.1, math.nan])
def test_vw_refuses_an_impossible_exploration(exploration: float) -> None:
    with pytest.raises(ValueError, match="exploration"):
        VWPolicy(FixedPolicy(MIX), exploration)


# --- sampling and limits ----------------------------------------------------------------------------------------------


def test_uniform_is_the_same_everywhere_and_for_ever() -> None:
    """Pinned: another value would make every decision logged so far impossible to draw again."""
    drawn = [uniform(seed, arm) for seed, arm in ((0, "lexical"), (1, "lexical"), (2**63 - 1, "vectör"))]
    assert drawn == [0.8489312750527825, 0.7349396216854718, 0.5282451567364157]


def test_draw_never_takes_a_count_without_probability() -> None:
    distribution = ((0, 0.0), (5, 0.5), (10, 0.0), (25, 0.5 - 1e-12), (50, 0.0))
    assert {draw(seed, "lexical", distribution) for seed in range(200)} == {5, 25}
    with pytest.raises(ValueError, match="lexical"):
        draw(1, "lexical", ((0, 0.0),))


def test_arms_draw_independently_under_one_seed() -> None:
    half = ((0, 0.5), (5, 0.5))
    pairs = [(draw(seed, "lexical", half), draw(seed, "vector", half)) for seed in range(1000)]
    assert all(200 < pairs.count(pair) < 300 for pair in ((0, 0), (0, 5), (5, 0), (5, 5)))


def test_mask_renormalises() -> None:
    masked = mask(((0, 0.5), (5, 0.25), (10, 0.25)), (0, 10))
    assert dict(masked) == pytest.approx({0: 2 / 3, 5: 0.0, 10: 1 / 3})
    with pytest.raises(ValueError, match="allowed"):
        mask(((0, 1.0), (5, 0.0)), (5,))


def test_the_floor_is_met_by_arms_that_can_still_serve() -> None:
    """Nothing from the first arm is fine while the second can reach the floor; when it cannot, 0 is masked."""
    asked: list[tuple[int, ...]] = []

    def nothing(option: ArmOption, allowed: tuple[int, ...]) -> tuple[tuple[int, float], ...]:
        asked.append(allowed)
        return tuple((count, float(count == min(allowed))) for count in option.counts)

    arms = (ArmOption("lexical", (0, 10, 25)), ArmOption("vector", (0, 10, 50)))
    assert counts_of(allocate(arms, 100, 10, 1, nothing)) == {"lexical": 0, "vector": 10}
    gone = (arms[0], ArmOption("vector", (0,)))
    assert counts_of(allocate(gone, 100, 10, 1, nothing)) == {"lexical": 10, "vector": 0}
    assert asked == [(0, 10, 25), (10, 50), (10, 25), (0,)]


# --- the switch -------------------------------------------------------------------------------------------------------


class Broken:
    """A policy that fails, as a damaged model would."""

    name = "vw"
    version = "broken"

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        raise ArithmeticError("the model predicts costs that are not finite")


@pytest.fixture
def learned(trained_dump: bytes) -> VWPolicy:
    return VWPolicy(FixedPolicy(MIX), 0.3, model=trained_dump, version="v1")


def test_learned_mode_serves_the_learned_policy(learned: VWPolicy) -> None:
    decision = PolicySwitch(learned, FixedPolicy(MIX)).decide(FEATURES, ARMS, 7)
    assert (decision.policy, decision.mode, decision.model_version, decision.seed) == ("vw", "learned", "v1", 7)
    assert decision.arms == learned.decide(FEATURES, ARMS, 7)
    assert decision.shadow is None


def test_static_mode_asks_the_fixed_policy_alone() -> None:
    before = metrics.POLICY_FALLBACKS._value.get()
    decision = PolicySwitch(Broken(), FixedPolicy(MIX), "static").decide(FEATURES, ARMS, 7)
    assert (decision.policy, decision.mode, decision.model_version) == ("fixed", "static", None)
    assert decision.arms == FixedPolicy(MIX).decide(FEATURES, ARMS, 7)
    assert metrics.POLICY_FALLBACKS._value.get() == before


def test_shadow_mode_serves_fixed_and_logs_what_the_learned_one_wanted(learned: VWPolicy) -> None:
    decision = PolicySwitch(learned, FixedPolicy(MIX), "shadow").decide(FEATURES, ARMS, 7)
    assert (decision.policy, decision.mode, decision.model_version) == ("fixed", "shadow", "v1")
    assert decision.arms == FixedPolicy(MIX).decide(FEATURES, ARMS, 7)
    assert decision.shadow == learned.decide(FEATURES, ARMS, 7)


@pytest.mark.parametrize("mode", ["learned", "shadow"])
def test_a_failing_policy_is_replaced_for_the_decision_and_counted(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    before = metrics.POLICY_FALLBACKS._value.get()
    switch = PolicySwitch(Broken(), FixedPolicy(MIX), mode)
    decision = switch.decide(FEATURES, ARMS, 7)
    assert (decision.policy, decision.mode, decision.model_version) == ("fixed", mode, None)
    assert decision.arms == FixedPolicy(MIX).decide(FEATURES, ARMS, 7)
    assert decision.shadow is None
    assert switch.mode == mode
    assert metrics.POLICY_FALLBACKS._value.get() == before + 1
    assert "policy_failed" in caplog.text


def test_predictions_that_are_not_finite_fall_back(learned: VWPolicy) -> None:
    weights = learned._predictor.weights()
    learned.decide(FEATURES, ARMS, 1)  # takes over the learned weights; from here on nothing refreshes them
    weights[:] = math.nan
    assert PolicySwitch(learned, FixedPolicy(MIX)).decide(FEATURES, ARMS, 7).policy == "fixed"


def test_modes_and_models_change_under_way(learned: VWPolicy) -> None:
    switch = PolicySwitch(Broken(), FixedPolicy(MIX))
    switch.learned = learned
    assert switch.decide(FEATURES, ARMS, 7).policy == "vw"
    switch.mode = "static"
    assert switch.decide(FEATURES, ARMS, 7).policy == "fixed"
    assert metrics.POLICY_MODE.labels("static")._value.get() == 1
    assert metrics.POLICY_MODE.labels("learned")._value.get() == 0
    with pytest.raises(ValueError, match="shadow"):
        switch.mode = "off"
    assert switch.mode == "static"
