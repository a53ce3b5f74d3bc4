from __future__ import annotations

import math

import numpy as np
import pytest

from services.evaluation.measures import bootstrap, dcg, exponential, linear, ndcg, paired_bootstrap


class TestNdcg:
    def test_by_hand(self) -> None:
        """Order b (1), a (2), c (0): (1 / log2(2) + 3 / log2(3)) / (3 / log2(2) + 1 / log2(3))."""
        value = ndcg([2, 1, 0], [0.5, 0.9, 0.1], ["a", "b", "c"])
        assert value == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))
        assert value == pytest.approx(0.79670, abs=1e-5)

    def test_the_ideal_is_over_all_judged_items(self) -> None:
        assert ndcg([1, 0], [2, 1], ["a", "b"], ideal_grades=[1, 0, 2]) == pytest.approx(1 / (3 + 1 / math.log2(3)))

    def test_ties_go_by_id(self) -> None:
        assert ndcg([0, 1], [1.0, 1.0], ["b", "a"], k=1) == 1.0
        assert ndcg([1, 0], [1.0, 1.0], ["b", "a"], k=1) == 0.0

    def test_only_the_first_k_count(self) -> None:
        grades = [0] * 10 + [1]
        assert ndcg(grades, range(11, 0, -1), [str(i) for i in range(11)]) == 0.0

    def test_nothing_relevant_is_zero(self) -> None:
        assert ndcg([0, 0], [1, 2], ["a", "b"]) == 0.0
        assert ndcg([], [], []) == 0.0
        assert ndcg([], [], [], ideal_grades=[2.0]) == 0.0

    def test_gains(self) -> None:
        assert [exponential(g) for g in (0, 1, 2)] == [0, 1, 3]
        assert [linear(g) for g in (-1, 0, 2.5)] == [0, 0, 2.5]
        assert dcg([1, 1, 1], k=2) == pytest.approx(1 + 1 / math.log2(3))
        assert ndcg([0.2, 1.0], [2, 1], ["a", "b"], gain=linear) == pytest.approx(
            (0.2 + 1 / math.log2(3)) / (1 + 0.2 / math.log2(3))
        )


class TestBootstrap:
    def test_the_interval_of_a_mean_is_what_theory_says(self) -> None:
        values = np.random.default_rng(5).normal(3.0, 1.0, 400)
        interval = bootstrap(values.tolist())
        error = 1.96 * values.std() / math.sqrt(len(values))
        assert interval.mean == pytest.approx(values.mean())
        assert interval.low == pytest.approx(values.mean() - error, abs=0.02)
        assert interval.high == pytest.approx(values.mean() + error, abs=0.02)

    def test_pairs_are_kept_together(self) -> None:
        baseline = np.random.default_rng(6).random(200)
        interval = paired_bootstrap((baseline + 0.01).tolist(), baseline.tolist())
        assert interval.low == pytest.approx(0.01)
        assert interval.high == pytest.approx(0.01)

    def test_weights(self) -> None:
        assert bootstrap([0.0, 1.0], [1.0, 3.0]).mean == 0.75
        assert bootstrap([5.0, 1.0], [0.0, 1.0]) == bootstrap([1.0])

    def test_the_same_seed_gives_the_same_interval(self) -> None:
        values = np.random.default_rng(7).random(50).tolist()
        assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
        assert bootstrap(values, seed=1) != bootstrap(values, seed=2)

    @pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0], [-1.0, 2.0]])
    def test_useless_weights_are_refused(self, weights: list[float]) -> None:
        with pytest.raises(ValueError, match="bootstrap needs"):
            bootstrap([1.0, 2.0], weights)

    def test_no_values_are_refused(self) -> None:
        with pytest.raises(ValueError, match="bootstrap needs"):
            bootstrap([])
