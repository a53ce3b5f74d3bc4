"""Contract of every policy."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from services.policies.base import LearningPolicy, Outcome, Policy
from services.policies.sampling import draw
from services.types import ArmChoice, ArmOption, Survey

ARMS = ("lexical", "structured", "vector", "memory")
FEATURES = {"tokens": 0.3, "unknown": 0.5, "person": 1.0}
ROOMY = tuple(ArmOption(arm, (0, 5, 10, 25)) for arm in ARMS)

repeatable = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors],  # one test body, a class per policy
)
seeds = st.integers(0, 2**63 - 1)
features = st.dictionaries(st.text(max_size=12), st.floats(-1e3, 1e3), max_size=10)


@st.composite
def options(draw: st.DrawFn) -> tuple[ArmOption, ...]:
    counts = st.sets(st.integers(1, 100), max_size=4).map(lambda some: (0, *sorted(some)))
    return tuple(ArmOption(arm, draw(counts)) for arm in ARMS[: draw(st.integers(1, len(ARMS)))])


@st.composite
def limits(draw: st.DrawFn) -> tuple[int, int]:
    """(budget, floor)."""
    budget = draw(st.integers(0, 250))
    return budget, draw(st.integers(0, budget))


def counts_of(choices: Mapping[str, ArmChoice]) -> dict[str, int]:
    return {arm: choice.count for arm, choice in choices.items()}


def totals(arms: Sequence[ArmOption], budget: int) -> set[int]:
    """Every total within the budget that the arms can reach, by trying all combinations."""
    return {total for some in itertools.product(*(arm.counts for arm in arms)) if (total := sum(some)) <= budget}


def survey(seed: int, items: int = 30) -> Survey:
    """Full lists of two arms, which share every third item; the answer showed the first ten."""
    places = range(items)
    return Survey(
        query_id=str(seed),
        at=0.0,
        ranks={
            "lexical": tuple(place + 1 if (place + seed) % 3 else 0 for place in places),
            "structured": tuple(place + 1 if (place + seed) % 3 != 1 else 0 for place in places),
        },
        facts={"title_trigrams": tuple(((place * 7 + seed) % 10) / 10 for place in places)},
        shown=tuple(range(10)),
    )


class PolicyContract:
    """Subclasses give `policy(budget, floor)`, and whether it gives every allowed count some probability."""

    explores = True

    def policy(self, budget: int, floor: int) -> Policy:
        raise NotImplementedError

    @repeatable
    @given(options(), limits(), features, seeds)
    def test_each_choice_is_drawn_from_its_own_distribution(
        self, arms: tuple[ArmOption, ...], limit: tuple[int, int], seen: dict[str, float], seed: int
    ) -> None:
        choices = self.policy(*limit).decide(seen, arms, seed)
        assert list(choices) == [arm.name for arm in arms]
        for arm in arms:
            choice = choices[arm.name]
            assert tuple(count for count, _ in choice.distribution) == arm.counts
            assert abs(sum(probability for _, probability in choice.distribution) - 1.0) < 1e-9
            assert all(probability >= 0.0 for _, probability in choice.distribution)
            assert choice.count == draw(seed, arm.name, choice.distribution)
            assert choice.propensity == dict(choice.distribution)[choice.count] > 0.0

    @repeatable
    @given(options(), limits(), features, seeds)
    def test_counts_stay_within_the_budget_and_reach_the_floor(
        self, arms: tuple[ArmOption, ...], limit: tuple[int, int], seen: dict[str, float], seed: int
    ) -> None:
        budget, floor = limit
        total = sum(counts_of(self.policy(budget, floor).decide(seen, arms, seed)).values())
        assert min(floor, max(totals(arms, budget))) <= total <= budget

    @repeatable
    @given(options(), limits(), features, seeds)
    def test_exactly_the_counts_that_break_a_limit_are_masked(
        self, arms: tuple[ArmOption, ...], limit: tuple[int, int], seen: dict[str, float], seed: int
    ) -> None:
        """A count may have probability only if the arms after it can still bring the total between floor and budget."""
        budget, floor = limit
        choices = self.policy(budget, floor).decide(seen, arms, seed)
        need = min(floor, max(totals(arms, budget)))
        spent = 0
        for place, arm in enumerate(arms):
            rest = totals(arms[place + 1 :], budget)
            for count, probability in choices[arm.name].distribution:
                possible = any(need <= spent + count + more <= budget for more in rest)
                assert possible or probability == 0.0
                assert probability > 0.0 or not (possible and self.explores)
            spent += choices[arm.name].count

    @repeatable
    @given(features, seeds)
    def test_an_arm_that_cannot_answer_gets_nothing_for_certain(self, seen: dict[str, float], seed: int) -> None:
        arms = (ArmOption("memory", (0,)), *ROOMY[:2], ArmOption("personal", (0,)))
        choices = self.policy(100, 10).decide(seen, arms, seed)
        assert choices["memory"] == choices["personal"] == ArmChoice(0, 1.0, ((0, 1.0),))

    def test_no_arm_at_all_is_an_empty_decision(self) -> None:
        assert self.policy(100, 10).decide(FEATURES, (), 1) == {}

    @repeatable
    @given(options(), features, seeds)
    def test_the_same_input_gives_the_same_decision(
        self, arms: tuple[ArmOption, ...], seen: dict[str, float], seed: int
    ) -> None:
        policy, other = self.policy(100, 10), self.policy(100, 10)
        first = policy.decide(seen, arms, seed)
        policy.decide(FEATURES, ROOMY, seed + 1)
        backwards = dict(reversed(seen.items()))
        assert first == policy.decide(seen, arms, seed) == other.decide(backwards, arms, seed)

    def test_counts_come_as_often_as_the_logged_distribution_says(self) -> None:
        policy = self.policy(1000, 0)  # roomy: nothing is masked, so each arm has one distribution
        decisions = [policy.decide(FEATURES, ROOMY, seed) for seed in range(2000)]
        for arm in ROOMY:
            (distribution,) = {decision[arm.name].distribution for decision in decisions}
            possible = [(count, probability) for count, probability in distribution if probability > 0.0]
            drawn = Counter(decision[arm.name].count for decision in decisions)
            assert drawn.keys() <= dict(possible).keys()
            if len(possible) > 1:
                expected = [probability * len(decisions) for _, probability in possible]
                assert chisquare([drawn[count] for count, _ in possible], expected).pvalue > 0.001


class LearningPolicyContract(PolicyContract):
    """Subclasses give `policy` (trained or not) and `loaded(dump)`."""

    def policy(self, budget: int, floor: int) -> LearningPolicy:
        raise NotImplementedError

    def loaded(self, dump: bytes) -> LearningPolicy:
        raise NotImplementedError

    @staticmethod
    def outcome(seed: int, weight: float = 1.0) -> Outcome:
        """A surveyed answer of ten items, of which one or two were acted on."""
        seen = {"tokens": (seed % 7) / 10, "person": float(seed % 2), "unknown": 0.5}
        taken = tuple(float(place in (seed % 3, seed % 11)) for place in range(10))
        return Outcome(seen, survey(seed), tuple(1.0 / (1 + place) for place in range(10)), taken, weight)

    def test_deciding_leaves_no_trace(self) -> None:
        policy, other = self.policy(100, 10), self.policy(100, 10)
        for seed in range(30):
            outcome = self.outcome(seed)
            policy.learn(outcome)
            other.learn(outcome)
        assert policy.dump() == other.dump()  # only `policy` decided between the lessons

    def test_a_loaded_model_goes_on_bit_for_bit(self) -> None:
        straight, broken = self.policy(100, 10), self.policy(100, 10)
        for seed in range(60):
            if seed in (20, 45):
                broken = self.loaded(broken.dump())
            outcome = self.outcome(seed, weight=1.0 if seed % 4 else 0.5)
            straight.learn(outcome)
            broken.learn(outcome)
        assert straight.dump() == broken.dump()
        assert straight.version == broken.version
        for seed in range(20):
            assert straight.decide(FEATURES, ROOMY, seed) == broken.decide(FEATURES, ROOMY, seed)

    def test_the_version_changes_with_what_is_learned(self) -> None:
        policy = self.policy(100, 10)
        before = policy.version
        assert policy.version == before
        policy.learn(self.outcome(3))
        assert policy.version != before
