"""Policies, their sampling, their limits, and the switch between them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from services import metrics
from services.errors import ModelInvalid
from services.policies.base import LearningPolicy, Outcome, Policy, part
from services.policies.budget import allocate
from services.policies.fixed import FIXED_COUNTS, FixedPolicy, UniformPolicy
from services.policies.modes import PolicySwitch
from services.policies.plans import STATIC
from services.policies.relevance import PRIOR
from services.policies.sampling import draw, mask, uniform
from services.policies.vw import MARGIN_Z, MIN_SURVEYS, WORTH_STD, VWPolicy
from services.types import ArmChoice, ArmOption, Survey
from tests.contracts.policy import FEATURES, ROOMY, LearningPolicyContract, PolicyContract, counts_of
from tests.metric_values import value_of

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
        return VWPolicy(FixedPolicy(MIX), 0.3, 100, 10, model=dump)


@pytest.fixture(scope="module")
def trained_dump() -> bytes:
    return trained().dump()


class TestTrainedVWPolicy(LearningPolicyContract):
    @pytest.fixture(autouse=True)
    def _model(self, trained_dump: bytes) -> None:
        self.model = trained_dump

    def policy(self, budget: int, floor: int) -> LearningPolicy:
        return VWPolicy(FixedPolicy(MIX), 0.3, budget, floor, model=self.model)

    def loaded(self, dump: bytes) -> LearningPolicy:
        return VWPolicy(FixedPolicy(MIX), 0.3, 100, 10, model=dump)


# --- a small world: the lexical arm finds plain queries, the structured one faceted queries --------------------------

WORLD = (ArmOption("lexical", (0, 5, 10, 25)), ArmOption("structured", (0, 5, 10, 25)))
PRICE = 0.01
KINDS = ("plain", "faceted")
FINDS = {"plain": "lexical", "faceted": "structured"}
ITEMS = 40
"""The first half of the candidates is of the arm that finds what was meant, the second of the other."""
LOOKED = tuple(1.0 / math.log2(2 + place) for place in range(10))


def chance(kind: str, rank: int) -> float:
    """Probability that the item at `rank` of the right arm is wanted: a plain query has one wanted item, a faceted one
    many."""
    return 0.8 * (rank == 1) if kind == "plain" else 0.9 - 0.04 * rank


def world(rng: random.Random) -> tuple[str, dict[str, float]]:
    kind = rng.choice(KINDS)
    features = {"slot_keyword": 0.8 * (kind == "faceted") + 0.1 * rng.random(), "rarity_max": rng.random()}
    return kind, {name: round(value, 6) for name, value in features.items()}


def lists(kind: str) -> dict[str, tuple[int, ...]]:
    half = ITEMS // 2
    first, second = (*range(1, half + 1), *[0] * half), (*[0] * half, *range(1, half + 1))
    return {arm: first if arm == FINDS[kind] else second for arm in ("lexical", "structured")}


def lesson(rng: random.Random, **changes: Any) -> Outcome:
    """A surveyed answer that showed the first ten items, and what a user with position bias clicked of them."""
    kind, features = world(rng)
    clicks = [rng.random() < look * (0.1 + 0.65 * chance(kind, place + 1)) for place, look in enumerate(LOOKED)]
    survey = Survey("q", 0.0, lists(kind), {}, tuple(range(10)))
    fields: dict[str, Any] = {
        "features": features,
        "survey": survey,
        "examination": LOOKED,
        "clicked": tuple(map(float, clicks)),
    }
    return Outcome(**(fields | changes))


def trained(lessons: int = 1500, seed: int = 5, **options: Any) -> VWPolicy:
    rng = random.Random(seed)
    policy = VWPolicy(FixedPolicy(MIX), **options)
    for _ in range(lessons):
        policy.learn(lesson(rng))
    return policy


def gain(kind: str, counts: Mapping[str, int]) -> float:
    """Share of what is wanted that the counts find, less the price of the candidates."""
    all_wanted = sum(chance(kind, rank) for rank in range(1, ITEMS // 2 + 1))
    found = sum(chance(kind, rank) for rank in range(1, min(counts[FINDS[kind]], ITEMS // 2) + 1))
    return min(found, 10.0) / max(1.0, min(all_wanted, 10.0)) - PRICE * sum(counts.values())


def mean_gain(policy: Policy, requests: int = 400) -> float:
    rng = random.Random(99)
    total = 0.0
    for _ in range(requests):
        kind, features = world(rng)
        total += gain(kind, counts_of(policy.decide(features, WORLD, rng.getrandbits(63))))
    return total / requests


def test_vw_learns_from_clicks_what_which_query_needs() -> None:
    """The best static counts cannot tell the kinds apart; the learned policy must, beyond what pages showed, too."""
    statics = [FixedPolicy({"lexical": a, "structured": b}, floor=0) for a in (0, 5, 10, 25) for b in (0, 5, 10, 25)]
    best_static = max(mean_gain(static) for static in statics)
    policy = trained(exploration=0.0)
    cheap = policy.at_price(PRICE / 2)  # worth counts late finds for less than shares do
    assert mean_gain(cheap) > best_static + 0.05
    plain, faceted = ({"slot_keyword": value, "rarity_max": 0.5} for value in (0.05, 0.85))
    assert counts_of(cheap.decide(faceted, WORLD, 1)) == {"lexical": 0, "structured": 25}
    assert counts_of(policy.at_price(2 * PRICE).decide(plain, WORLD, 1)) == {"lexical": 5, "structured": 0}


def test_vw_keeps_the_arm_that_knows_the_order_of_what_others_find() -> None:
    """The lexical arm finds both items that are wanted; memory has one of them, first, and nothing else."""
    options = (ArmOption("memory", (0, 5)), ArmOption("lexical", (0, 5, 10, 25)))
    memory, lexical = (1, *[0] * 24), (8, 9, *range(1, 8), *range(10, 26))
    parts = {part("memory"): (0.5, *[0.0] * 24), part("lexical"): tuple(0.4 - 0.01 * rank for rank in lexical)}

    def chosen(facts: Mapping[str, tuple[float, ...]]) -> dict[str, int]:
        policy = VWPolicy(FixedPolicy({"memory": 5, "lexical": 10}), exploration=0.0, price=PRICE)
        survey = Survey("q", 0.0, {"memory": memory, "lexical": lexical}, facts, tuple(range(10)))
        for _ in range(1000):
            policy.learn(Outcome({"slot_title": 1.0}, survey, LOOKED, (1.0, 1.0, *[0.0] * 8)))
        return counts_of(policy.decide({"slot_title": 1.0}, options, 1))

    assert chosen(parts) == {"memory": 5, "lexical": 10}
    assert chosen({}) == {"memory": 0, "lexical": 10}, "told what is found alone, as a release before was"


def test_vw_one_model_serves_any_price() -> None:
    policy = trained(exploration=0.3)
    spent = []
    for price in (0.0, 0.01, 0.03, 1.0):
        dear = policy.at_price(price)
        rng = random.Random(3)
        spent.append(sum(sum(counts_of(dear.decide(world(rng)[1], WORLD, 1)).values()) for _ in range(50)))
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > spent[-1] == 50 * 5, "the least that the floor allows"
    choices = policy.at_price(0.01).decide(FEATURES, WORLD, 1)
    assert all(choice.propensity == 1.0 for choice in choices.values()), "nothing is explored"


def test_vw_untrained_decides_as_the_static_mix() -> None:
    untrained, fixed = VWPolicy(FixedPolicy(MIX), 0.0, 60, 10), FixedPolicy(MIX, 60, 10)
    for seed in range(50):
        assert untrained.decide(FEATURES, ARMS, seed) == fixed.decide(FEATURES, ARMS, seed)


def test_vw_gives_each_allowed_count_its_share_of_exploration() -> None:
    """The nearer to the plan's count, the more; the farthest, to do without the arm, something."""
    (choice,) = VWPolicy(FixedPolicy(MIX), 0.2, 30, 0).decide(FEATURES, (ARMS[0],), 1).values()
    part = 0.2 / (0.25 + 0.5 + 1.0 + 0.5)
    assert dict(choice.distribution) == pytest.approx(
        {0: 0.25 * part, 5: 0.5 * part, 10: 0.8 + part, 25: 0.5 * part, 50: 0.0, 100: 0.0}
    )
    (choice,) = VWPolicy(FixedPolicy({"lexical": 100}), 0.2, 100, 0).decide(FEATURES, (ARMS[0],), 1).values()
    assert dict(choice.distribution)[0] == dict(choice.distribution)[5] == pytest.approx(0.02 / (1.975 + 0.1))


def test_vw_does_not_leave_the_static_mix_on_little_evidence() -> None:
    """However dear candidates are."""
    few, enough = (trained(lessons, exploration=0.0).at_price(0.1) for lessons in (MIN_SURVEYS - 1, MIN_SURVEYS))
    static = {"lexical": 10, "structured": 5}
    assert counts_of(few.decide(FEATURES, WORLD, 1)) == static
    assert counts_of(enough.decide(FEATURES, WORLD, 1)) != static


def test_vw_keeps_the_static_mix_where_the_difference_is_within_its_error(trained_dump: bytes) -> None:
    policy = VWPolicy(FixedPolicy(MIX), 0.0, model=trained_dump)
    static, costs = {"lexical": 10, "structured": 5}, policy.plans.counts.sum(axis=1)
    possible = policy.possible({option.name: option.counts for option in WORLD})[:STATIC]
    margin = MARGIN_Z * WORTH_STD / math.sqrt(1500)
    stayed = near = 0
    rng = random.Random(8)
    for turn in range(200):
        _, features = world(rng)
        price = 0.0001 * turn
        worth = policy.worth(features)
        assert worth is not None
        gains = worth - price * costs
        lead = gains[:STATIC][possible].max() - gains[STATIC]
        stays = policy.at_price(price).plan(features, WORLD) == static
        assert stays == (lead <= margin)
        stayed += stays
        near += 0.0 < lead <= margin
    assert 0 < near <= stayed < 200


def test_vw_asks_no_arm_that_cannot_answer() -> None:
    """An arm that is away costs nothing, which must not make its plans attractive."""
    policy = trained(exploration=0.0).at_price(PRICE)
    without = (ArmOption("lexical", (0, 5, 10, 25)), ArmOption("structured", (0,)))
    assert counts_of(policy.decide({"slot_keyword": 0.85}, without, 1))["lexical"] > 0


def test_vw_learns_nothing_without_a_survey() -> None:
    policy = VWPolicy(FixedPolicy(MIX))
    before = policy.dump()
    policy.learn(lesson(random.Random(1), survey=None))
    policy.learn(lesson(random.Random(1), weight=0.0))
    assert policy.dump() == before


def test_vw_weighs_a_lesson() -> None:
    """The first item's probability of being wanted after one click on it."""

    def odds_after(weight: float) -> float:
        policy = VWPolicy(FixedPolicy(MIX))
        rng = random.Random(1)
        policy.learn(lesson(rng, weight=weight, clicked=(1.0, *[0.0] * 9)))
        return float(policy.relevance.mean[:3].sum())

    assert odds_after(1.0) > odds_after(0.25) > odds_after(0.0) == sum(PRIOR)


def test_vw_asks_for_ever_fewer_surveys() -> None:
    wished = [trained(lessons).survey_share for lessons in (0, 100, 400, 1600)]
    assert wished[:2] == [1.0, 1.0]
    assert wished[2] > wished[3] > 0.01
    assert FixedPolicy(MIX).survey_share == UniformPolicy().survey_share == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"clicked": (math.nan, *[0.0] * 9)},
        {"examination": (math.inf, *[0.5] * 9)},
        {"features": {"tokens": math.nan}},
        {"survey": Survey("q", 0.0, lists("plain"), {"slots_best": (math.nan,) * ITEMS}, (0,))},
        {"survey": Survey("q", 0.0, lists("plain"), {"slots_best": (0.5,)}, (0,))},
        {"survey": Survey("q", 0.0, {"lexical": (1, 2), "structured": (1,)}, {}, (0,))},
        {"examination": ()},
        {"weight": math.nan},
        {"weight": 1.5},
        {"weight": -0.1},
    ],
)
def test_vw_refuses_a_bad_lesson_whole(changes: Mapping[str, Any]) -> None:
    policy = VWPolicy(FixedPolicy(MIX))
    before = policy.dump()
    with pytest.raises(ValueError, match=r"finite|weight|length|shown"):
        policy.learn(lesson(random.Random(1), **changes))
    assert policy.dump() == before


def test_vw_refuses_models_that_are_not_its_own(trained_dump: bytes) -> None:
    other_mix = VWPolicy(FixedPolicy({"lexical": 25})).dump()
    for damaged in (b"", b"nonsense", trained_dump[:40], trained_dump[: len(trained_dump) // 2], other_mix):
        with pytest.raises(ModelInvalid):
            VWPolicy(FixedPolicy(MIX), model=damaged)


def test_vw_carries_the_name_that_its_store_gave_it(trained_dump: bytes) -> None:
    policy = VWPolicy(FixedPolicy(MIX), model=trained_dump, version="v7")
    assert policy.version == "v7"
    assert VWPolicy(FixedPolicy(MIX), model=trained_dump).version == trained().version
    policy.learn(lesson(random.Random(1)))
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
    survey_share = 1.0

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
    before = value_of(metrics.POLICY_FALLBACKS)
    decision = PolicySwitch(Broken(), FixedPolicy(MIX), "static").decide(FEATURES, ARMS, 7)
    assert (decision.policy, decision.mode, decision.model_version) == ("fixed", "static", None)
    assert decision.arms == FixedPolicy(MIX).decide(FEATURES, ARMS, 7)
    assert value_of(metrics.POLICY_FALLBACKS) == before


def test_shadow_mode_serves_fixed_and_logs_what_the_learned_one_wanted(learned: VWPolicy) -> None:
    decision = PolicySwitch(learned, FixedPolicy(MIX), "shadow").decide(FEATURES, ARMS, 7)
    assert (decision.policy, decision.mode, decision.model_version) == ("fixed", "shadow", "v1")
    assert decision.arms == FixedPolicy(MIX).decide(FEATURES, ARMS, 7)
    assert decision.shadow == learned.decide(FEATURES, ARMS, 7)


@pytest.mark.parametrize("mode", ["learned", "shadow"])
def test_a_failing_policy_is_replaced_for_the_decision_and_counted(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    before = value_of(metrics.POLICY_FALLBACKS)
    switch = PolicySwitch(Broken(), FixedPolicy(MIX), mode)
    decision = switch.decide(FEATURES, ARMS, 7)
    assert (decision.policy, decision.mode, decision.model_version) == ("fixed", mode, None)
    assert decision.arms == FixedPolicy(MIX).decide(FEATURES, ARMS, 7)
    assert decision.shadow is None
    assert switch.mode == mode
    assert value_of(metrics.POLICY_FALLBACKS) == before + 1
    assert "policy_failed" in caplog.text


def test_predictions_that_are_not_finite_fall_back(learned: VWPolicy) -> None:
    centres = learned.kinds.centres
    assert centres is not None
    centres[:] = math.nan
    assert PolicySwitch(learned, FixedPolicy(MIX)).decide(FEATURES, ARMS, 7).policy == "fixed"


def test_modes_and_models_change_under_way(learned: VWPolicy) -> None:
    switch = PolicySwitch(Broken(), FixedPolicy(MIX))
    switch.learned = learned
    assert switch.decide(FEATURES, ARMS, 7).policy == "vw"
    switch.mode = "static"
    assert switch.decide(FEATURES, ARMS, 7).policy == "fixed"
    assert value_of(metrics.POLICY_MODE.labels("static")) == 1
    assert value_of(metrics.POLICY_MODE.labels("learned")) == 0
    with pytest.raises(ValueError, match="shadow"):
        switch.mode = "off"
    assert switch.mode == "static"
