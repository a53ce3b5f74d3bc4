"""Contract of every ranker. Subclass, and give `ranker`."""

from __future__ import annotations

import numpy as np
import pytest

from services.rankers.base import Ranker, Rows
from services.rankers.features import NAMES


def random_rows(n: int, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).random((n, len(NAMES)), dtype=np.float32)


class RankerContract:
    @pytest.fixture
    def ranker(self) -> Ranker:
        raise NotImplementedError

    def test_it_says_what_it_is(self, ranker: Ranker) -> None:
        assert ranker.name
        assert ranker.version

    @pytest.mark.parametrize("n", [0, 1, 7, 1000])
    def test_one_finite_float32_score_a_row(self, ranker: Ranker, n: int) -> None:
        scores = ranker.score(random_rows(n))
        assert scores.shape == (n,)
        assert scores.dtype == np.float32
        assert np.isfinite(scores).all()

    def test_extreme_rows_get_finite_scores(self, ranker: Ranker) -> None:
        for value in (0.0, -1e6, 1e6, 1e-38):
            assert np.isfinite(ranker.score(np.full((3, len(NAMES)), value, dtype=np.float32))).all()

    def test_rows_are_scored_each_on_its_own(self, ranker: Ranker) -> None:
        rows = random_rows(60)
        scores = ranker.score(rows)
        turned = np.random.default_rng(1).permutation(60)
        assert (ranker.score(rows[turned]) == scores[turned]).all()
        assert (ranker.score(rows[:1]) == scores[:1]).all()

    def test_the_same_rows_get_the_same_scores(self, ranker: Ranker) -> None:
        assert (ranker.score(random_rows(20)) == ranker.score(random_rows(20))).all()

    def test_rows_are_left_as_they_were(self, ranker: Ranker) -> None:
        rows = random_rows(5)
        ranker.score(rows)[:] = 0.0
        ranker.contributions(rows)
        assert (rows == random_rows(5)).all()

    def test_contributions_name_features_and_are_finite(self, ranker: Ranker) -> None:
        contributions = ranker.contributions(random_rows(4))
        assert len(contributions) == 4
        assert ranker.contributions(random_rows(0)) == []
        for row in contributions:
            assert set(row) <= set(NAMES)
            assert all(isinstance(value, float) and np.isfinite(value) and value != 0.0 for value in row.values())
