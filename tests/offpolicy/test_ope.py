"""Off-policy estimates against worlds whose truth is known, and their intervals against what they promise."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from evaluation.studies import ope_coverage
from evaluation.studies.ope_coverage import TARGETS, World, compared, score, score_intervals
from services.offpolicy import ope
from services.offpolicy.reward_model import FOLDS, Actions, crossfit
from services.offpolicy.support import MIN_SAMPLE

Floats = NDArray[np.float64]
COUNTS = 3
ARMS = 2
ACTIONS = list(itertools.product(range(COUNTS), repeat=ARMS))
LOGGING = np.array([[[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], [[0.1, 0.8, 0.1], [0.3, 0.4, 0.3]]])
TARGET = np.array([[[0.1, 0.2, 0.7], [0.1, 0.8, 0.1]], [[0.0, 0.5, 0.5], [0.3, 0.4, 0.3]]])
"""(contexts, arms, counts): both draw each arm by itself."""


def additive(context: int, action: tuple[int, ...]) -> float:
    return 0.2 + 0.1 * context + 0.15 * action[0] - 0.05 * action[1] * (1 + context)


def interacting(context: int, action: tuple[int, ...]) -> float:
    return additive(context, action) + 0.35 * (action[0] == action[1])


@dataclass
class Sample:
    context: NDArray[np.int64]
    action: NDArray[np.int64]
    rewards: Floats
    logged: Floats
    target: Floats


def truth(policy: Floats, mean: object) -> float:
    """Exact value by enumeration of all outcomes."""
    total = 0.0
    for context in range(2):
        for action in ACTIONS:
            chance = math.prod(policy[context, arm, count] for arm, count in enumerate(action))
            total += 0.5 * chance * mean(context, action)  # type: ignore[operator]
    return total


def sample(n: int, seed: int, mean: object) -> Sample:
    generator = np.random.default_rng(seed)
    context = generator.integers(0, 2, n)
    action = np.array([[generator.choice(COUNTS, p=LOGGING[x, arm]) for arm in range(ARMS)] for x in context])
    expected = np.array([mean(x, tuple(a)) for x, a in zip(context, action, strict=True)])  # type: ignore[operator]
    rewards = (generator.random(n) < expected).astype(np.float64)
    arms = np.arange(ARMS)
    return Sample(
        context, action, rewards, LOGGING[context[:, None], arms, action], TARGET[context[:, None], arms, action]
    )


def many(logs: int, n: int, mean: object) -> list[Sample]:
    """One large log, cut into `logs` of n."""
    whole = sample(logs * n, 1, mean)
    return [
        Sample(*(part[i * n : (i + 1) * n] for part in (whole.context, whole.action, whole.rewards, whole.logged)),
               whole.target[i * n : (i + 1) * n])
        for i in range(logs)
    ]  # fmt: skip


def robust(log: Sample) -> float:
    actions = Actions(tuple(np.repeat(range(ARMS), COUNTS).tolist()), tuple(np.tile(range(COUNTS), ARMS).tolist()))
    taken = np.eye(COUNTS)[log.action].reshape(len(log.action), -1)
    proposed = TARGET[log.context].reshape(len(log.action), -1)
    context = log.context[:, None].astype(np.float64)
    known, (meant,) = crossfit(context, actions, taken, [proposed], log.rewards)
    return ope.doubly_robust(log.rewards, ope.product(log.logged, log.target), known, meant).value


def wrong(log: Sample) -> float:
    """DR with a model that has everything the wrong way round."""
    predicted = np.array([1.0 - additive(x, tuple(a)) for x, a in zip(log.context, log.action, strict=True)])
    meant = np.array([
        sum(math.prod(TARGET[x, arm, c] for arm, c in enumerate(a)) * (1.0 - additive(x, a)) for a in ACTIONS)
        for x in (0, 1)
    ])[log.context]  # fmt: skip
    return ope.doubly_robust(log.rewards, ope.product(log.logged, log.target), predicted, meant).value


def plain(log: Sample) -> float:
    return ope.ips(log.rewards, ope.product(log.logged, log.target)).value


def normalised(log: Sample) -> float:
    return ope.snips(log.rewards, ope.product(log.logged, log.target)).value


def slates(log: Sample) -> float:
    return ope.ips(log.rewards, ope.pseudo_inverse(log.logged, log.target)).value


@pytest.fixture(scope="module")
def additive_logs() -> list[Sample]:
    return many(400, 250, additive)


@pytest.fixture(scope="module")
def interacting_logs() -> list[Sample]:
    return many(400, 250, interacting)


def bias(values: list[float], value: float) -> float:
    """Bias in standard errors of the mean over logs."""
    return float((np.mean(values) - value) / (np.std(values) / math.sqrt(len(values))))


class TestBias:
    @pytest.mark.parametrize("estimate", [plain, robust, wrong])
    def test_none_whatever_the_reward_is(self, interacting_logs: list[Sample], estimate: object) -> None:
        values = [estimate(log) for log in interacting_logs]  # type: ignore[operator]
        assert abs(bias(values, truth(TARGET, interacting))) < 3.5
        assert abs(bias(values, truth(LOGGING, interacting))) > 10, "else nothing would be shown"

    def test_of_the_pseudo_inverse_is_none_where_arms_add_up_and_large_where_they_do_not(
        self, additive_logs: list[Sample], interacting_logs: list[Sample]
    ) -> None:
        assert abs(bias([slates(log) for log in additive_logs], truth(TARGET, additive))) < 3.5
        assert abs(bias([slates(log) for log in interacting_logs], truth(TARGET, interacting))) > 8

    def test_of_self_normalising_falls_with_the_size_of_the_log(self, interacting_logs: list[Sample]) -> None:
        value = truth(TARGET, interacting)
        assert normalised(sample(20_000, 3, interacting)) == pytest.approx(value, abs=0.02)
        assert np.mean([normalised(log) for log in interacting_logs]) == pytest.approx(value, abs=0.01)


def test_self_normalised_and_doubly_robust_err_less_and_the_pseudo_inverse_least_where_it_holds(
    additive_logs: list[Sample],
) -> None:
    value = truth(TARGET, additive)

    def rmse(estimate: object) -> float:
        return float(np.sqrt(np.mean([(estimate(log) - value) ** 2 for log in additive_logs])))  # type: ignore[operator]

    errors = {estimate.__name__: rmse(estimate) for estimate in (plain, normalised, robust, slates)}
    assert errors["normalised"] < 0.8 * errors["plain"]
    assert errors["robust"] < 0.85 * errors["plain"]
    assert errors["slates"] < 0.9 * errors["plain"]


class TestWeights:
    def test_are_products_over_arms(self) -> None:
        logged, target = np.array([[0.5, 0.2], [0.25, 1.0]]), np.array([[1.0, 0.1], [0.5, 0.0]])
        assert ope.product(logged, target).tolist() == [1.0, 0.0]
        assert ope.pseudo_inverse(logged, target).tolist() == [1.5, 1.0]

    def test_that_are_clipped_trade_variance_for_a_bias_towards_0(self, interacting_logs: list[Sample]) -> None:
        free = [plain(log) for log in interacting_logs]
        tight = [ope.ips(log.rewards, ope.product(log.logged, log.target, clip=2.0)).value for log in interacting_logs]
        assert np.var(tight) < 0.5 * np.var(free)
        assert all(less <= more + 1e-12 for less, more in zip(tight, free, strict=True))

    def test_give_the_effective_sample_size(self) -> None:
        assert ope.effective_size(np.ones(7)) == 7.0
        assert ope.effective_size(np.array([5.0, 0.0, 0.0])) == 1.0
        assert ope.effective_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
        assert ope.effective_size(np.zeros(3)) == 0.0

    def test_have_an_expected_size_that_the_policies_alone_determine(self) -> None:
        log = sample(40_000, 5, additive)
        ratio = np.divide(TARGET**2, LOGGING).sum(axis=2).prod(axis=1)
        expected = ope.expected_size(ratio[log.context])
        assert expected == pytest.approx(ope.effective_size(ope.product(log.logged, log.target)), rel=0.05)
        assert ope.expected_size(np.array([1.0, math.inf])) == 0.0
        assert ope.expected_size(np.array([])) == 0.0
        assert ope.expected_size(np.array([2.0, 9.0]), np.array([1.0, 0.0])) == 0.5

    @pytest.mark.parametrize(
        ("logged", "target", "said"),
        [
            ([[0.0]], [[0.5]], "above 0"),
            ([[1.5]], [[0.5]], "at most 1"),
            ([[math.nan]], [[0.5]], "above 0"),
            ([[0.5]], [[-0.1]], "probability"),
            ([[0.5]], [[math.nan]], "probability"),
            ([[0.5]], [[0.5, 0.5]], "per decision and arm"),
            ([0.5], [0.5], "per decision and arm"),
        ],
    )
    def test_are_of_probabilities_only(self, logged: list[object], target: list[object], said: str) -> None:
        for weigh in (ope.product, ope.pseudo_inverse):
            with pytest.raises(ValueError, match=said):
                weigh(np.array(logged), np.array(target))


class TestEdges:
    REWARDS = np.array([0.3, 0.0, 0.7, 0.1])

    def test_a_target_that_is_the_logging_policy_earned_exactly_what_was_earned(self) -> None:
        logged = np.array([[0.3, 0.7], [0.1, 0.9], [1.0, 0.013], [0.77, 0.5]])
        mean = ope.on_policy(self.REWARDS).value
        assert mean == self.REWARDS.sum() / 4
        for weigh in (ope.product, ope.pseudo_inverse):
            weights = weigh(logged, logged)
            assert ope.ips(self.REWARDS, weights).value == mean
            assert ope.snips(self.REWARDS, weights).value == mean
            assert ope.ips(self.REWARDS, weights).effective == 4.0

    def test_the_difference_between_a_policy_and_itself_is_0_for_certain(self) -> None:
        weights = np.array([2.0, 0.0, 5.0, 1.0])
        for estimate in (ope.ips, ope.snips):
            difference = estimate(self.REWARDS, weights).minus(estimate(self.REWARDS, weights)).interval()
            assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
            assert difference.effective == ope.effective_size(weights)

    def test_what_was_never_done_is_not_known(self) -> None:
        nothing = np.zeros(4)
        with pytest.raises(ope.NoSupport):
            ope.ips(self.REWARDS, nothing)
        with pytest.raises(ope.NoSupport):
            ope.snips(self.REWARDS, nothing)
        with pytest.raises(ope.NoSupport):
            ope.doubly_robust(self.REWARDS, nothing, nothing, nothing)
        with pytest.raises(ope.NoSupport):
            ope.snips(self.REWARDS, np.array([-1.0, 0.5, 0.0, 0.0]))
        with pytest.raises(ope.NoSupport):  # only where it does not count
            ope.ips(self.REWARDS, np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0]))

    def test_one_decision_gives_a_value_and_no_certainty(self) -> None:
        estimate = ope.snips(np.array([0.4]), np.array([3.0])).interval()
        assert (estimate.low, estimate.high, estimate.effective, estimate.n) == (-math.inf, math.inf, 1.0, 1)
        assert estimate.value == pytest.approx(0.4)
        assert ope.ips(np.array([0.4]), np.array([3.0])).value == pytest.approx(1.2)

    def test_weights_of_0_are_decisions_all_the_same(self) -> None:
        weights = np.array([2.0, 0.0, 0.0, 1.0])
        assert ope.ips(self.REWARDS, weights).value == pytest.approx((2 * 0.3 + 0.1) / 4)
        assert ope.snips(self.REWARDS, weights).value == pytest.approx((2 * 0.3 + 0.1) / 3)

    def test_shares_count_decisions_in_part(self) -> None:
        weights, shares = np.array([2.0, 1.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.25, 0.0])
        terms = shares * weights * self.REWARDS
        assert ope.ips(self.REWARDS, weights, shares).value == pytest.approx(terms.sum() / 1.75)
        assert ope.snips(self.REWARDS, weights, shares).value == pytest.approx(terms.sum() / (shares @ weights))
        assert ope.ips(self.REWARDS, weights, shares).effective == pytest.approx(
            (shares @ weights) ** 2 / ((shares * weights) ** 2).sum()
        )
        predicted, meant = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.2, 0.1, 0.9])
        expected = (shares * (meant + weights * (self.REWARDS - predicted))).sum() / 1.75
        assert ope.doubly_robust(self.REWARDS, weights, predicted, meant, shares).value == pytest.approx(expected)
        for estimator in (
            ope.ips(self.REWARDS, weights, shares),
            ope.snips(self.REWARDS, weights, shares),
            ope.doubly_robust(self.REWARDS, weights, predicted, meant, shares),
        ):
            assert estimator.influence.mean() == pytest.approx(0.0, abs=1e-12)

    @pytest.mark.parametrize(
        ("rewards", "weights", "shares"),
        [
            ([], [], None),
            ([0.1], [1.0, 1.0], None),
            ([0.1], [1.0], [1.0, 1.0]),
            ([math.nan], [1.0], None),
            ([0.1], [math.inf], None),
            ([0.1], [1.0], [-1.0]),
            ([0.1], [1.0], [0.0]),
            ([[0.1]], [[1.0]], None),
        ],
    )
    def test_what_is_no_log_is_refused(self, rewards: list[float], weights: list[float], shares: object) -> None:
        given = None if shares is None else np.array(shares)
        for estimate in (ope.ips, ope.snips):
            with pytest.raises(ValueError, match=r"decision|finite|shares"):
                estimate(np.array(rewards), np.array(weights), given)

    def test_predictions_and_differences_are_of_the_same_decisions(self) -> None:
        ones = np.ones(4)
        with pytest.raises(ValueError, match="prediction"):
            ope.doubly_robust(self.REWARDS, ones, np.ones(3), ones)
        with pytest.raises(ValueError, match="same decisions"):
            ope.on_policy(self.REWARDS).minus(ope.on_policy(self.REWARDS[:3]))


class TestIntervals:
    def test_are_the_normal_one_where_the_normal_one_is_right(self) -> None:
        values = np.random.default_rng(1).uniform(-1.0, 1.0, 10_000)
        estimate = ope.on_policy(values).interval()
        error = values.std() / 100.0
        assert estimate.high - estimate.value == pytest.approx(1.96 * error, rel=0.02)
        assert estimate.value - estimate.low == pytest.approx(1.96 * error, rel=0.02)

    def test_reach_further_on_the_side_of_the_longer_tail(self) -> None:
        values = np.zeros(1000)
        values[:10] = 1.0
        right, left = ope.on_policy(values).interval(), ope.on_policy(-values).interval()
        error = values.std() / math.sqrt(1000)
        assert right.high - right.value > 2.2 * error
        assert right.value - right.low < 2.0 * error
        assert (left.low, left.high) == (pytest.approx(-right.high), pytest.approx(-right.low))

    def test_move_and_stretch_with_the_rewards(self) -> None:
        generator = np.random.default_rng(2)
        rewards, weights = generator.exponential(1.0, 300), generator.exponential(1.0, 300)
        one, other = ope.snips(rewards, weights).interval(), ope.snips(3.0 * rewards - 5.0, weights).interval()
        for name in ("value", "low", "high"):
            assert getattr(other, name) == pytest.approx(3.0 * getattr(one, name) - 5.0)
        assert one == ope.snips(rewards, weights).interval()

    def test_of_paired_differences_are_shorter_than_of_either(self) -> None:
        generator = np.random.default_rng(3)
        rewards = generator.random(1000)
        weights = np.where(generator.random(1000) < 0.05, 1.5, 1.0)
        one, other = ope.snips(rewards, weights), ope.on_policy(rewards)
        difference = one.minus(other).interval()
        assert difference.value == pytest.approx(one.value - other.value)
        assert difference.effective == one.effective < other.effective
        assert difference.high - difference.low < 0.3 * (other.interval().high - other.interval().low)

    @pytest.mark.parametrize("freedom", [3.0, 4.5, 10.0, 30.0, 1000.0])
    def test_use_the_quantiles_of_student(self, freedom: float) -> None:
        assert ope._student(freedom) == pytest.approx(student.ppf(0.975, freedom), rel=1e-9)
        assert ope._student(1.0) == ope._student(3.0)

    def test_cover_what_they_promise_where_there_is_support_and_are_not_wide(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """1,000 seeds and more targets: python -m evaluation.studies.ope_coverage."""
        world, n = World(0.1), 5000
        names = [name for name, target in world.targets.items() if n / target.moment >= MIN_SAMPLE]
        assert len(names) == len(TARGETS) - 1
        scores = score(world, names, n, seeds=200)
        with capsys.disabled():
            print()
            for (name, kind), one in scores.items():
                print(f"{name:26}{kind:20}{one}")
        for one in scores.values():
            assert one.coverage >= 0.92
            assert one.above / one.seeds <= 0.03
            assert one.width / one.seeds < 4.0 * 1.96 * one.rmse

    def test_cover_more_than_those_that_are_usual_and_are_far_shorter_than_those_that_never_fail(self) -> None:
        scores = score_intervals(World(0.1), "the static mix", 4000, seeds=100, resamples=200)
        widths = {method: one.width for method, one in scores.items()}
        for usual in ("normal", "percentile bootstrap", "BCa bootstrap"):
            assert scores[usual].covered < scores["ours"].covered
        assert scores["empirical Bernstein"].coverage == 1.0
        assert widths["normal"] < widths["ours"] < 0.5 * widths["empirical Bernstein"]


class TestTheWorldOfTheCoverage:
    def test_is_as_hard_as_ours(self) -> None:
        world = World(0.1)
        clicked = float((world.chances * world.clicked).sum(axis=1).mean())
        assert 0.1 < clicked < 0.3
        assert world.chances.sum(axis=1) == pytest.approx(np.ones(ope_coverage.CONTEXTS))
        totals = ope_coverage.COUNTS[ope_coverage.ACTIONS].sum(axis=1)
        possible = world.chances > 0.0
        assert not possible[:, (totals > ope_coverage.BUDGET) | (totals < ope_coverage.FLOOR)].any()
        assert possible[:, (totals <= ope_coverage.BUDGET) & (totals >= ope_coverage.FLOOR)].all()

    def test_logs_what_it_says(self) -> None:
        world = World(0.1)
        context, action, rewards = world.log(200_000, 0)
        assert rewards.mean() == pytest.approx(world.value, abs=0.0006)
        weights = ope.product(world.arms[context, action], world.targets["one arm, all searches"].arms[context, action])
        assert weights.mean() == pytest.approx(1.0, abs=0.05)
        assert (weights**2).mean() == pytest.approx(world.targets["one arm, all searches"].moment, rel=0.05)

    def test_compares_intervals_that_hold_their_estimate(self) -> None:
        estimator = ope.on_policy(np.random.default_rng(4).exponential(1.0, 500))
        for method, (low, high) in compared(estimator, 400, 0).items():
            assert low < estimator.value < high, method
            assert high - low < 1.2 if method == "empirical Bernstein" else high - low < 0.3


class TestRewardModel:
    ACTIONS = Actions((0, 0, 1, 1), (0, 10, 0, 10))

    def world(self, n: int, seed: int) -> tuple[Floats, Floats, Floats]:
        """Context, actions taken, and rewards that a linear model can say exactly."""
        generator = np.random.default_rng(seed)
        context = generator.normal(size=(n, 2))
        drawn = generator.integers(0, 2, (n, 2))
        taken = np.concatenate([np.eye(2)[drawn[:, 0]], np.eye(2)[drawn[:, 1]]], axis=1)
        rewards = 0.5 + context[:, 0] * np.log1p(10) * drawn[:, 0] - 0.3 * drawn[:, 1]
        return context, taken, rewards

    def test_finds_what_there_is_to_find(self) -> None:
        context, taken, rewards = self.world(20_000, 1)
        other = np.tile([0.5, 0.5, 0.0, 1.0], (len(rewards), 1))
        predicted, (proposed,) = crossfit(context, self.ACTIONS, taken, [other], rewards)
        assert np.abs(predicted - rewards).max() < 0.1
        expected = 0.5 + 0.5 * context[:, 0] * np.log1p(10) - 0.3
        assert np.abs(proposed - expected).max() < 0.1

    def test_has_not_seen_what_it_predicts(self) -> None:
        context, taken, rewards = self.world(200, 2)
        before, _ = crossfit(context, self.ACTIONS, taken, [], rewards)
        rewards[17] += 1000.0
        after, _ = crossfit(context, self.ACTIONS, taken, [], rewards)
        same = np.isclose(before, after, atol=1e-9)
        assert same[17 % FOLDS :: FOLDS].all()
        assert not same[(17 + 1) % FOLDS :: FOLDS].any()

    def test_leaves_out_what_does_not_count(self) -> None:
        context, taken, rewards = self.world(200, 3)
        shares = np.ones(200)
        shares[17] = 0.0
        before, _ = crossfit(context, self.ACTIONS, taken, [], rewards, shares)
        rewards[17] += 1000.0
        after, _ = crossfit(context, self.ACTIONS, taken, [], rewards, shares)
        assert np.allclose(before, after)

    def test_says_the_mean_where_it_knows_nothing(self) -> None:
        rewards = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
        nothing = np.zeros((10, 4))
        predicted, (proposed,) = crossfit(np.zeros((10, 0)), self.ACTIONS, nothing, [nothing], rewards)
        assert predicted[0] == pytest.approx((rewards.sum() - 0.1 - 0.6) / 8)
        assert proposed.tolist() == predicted.tolist()
