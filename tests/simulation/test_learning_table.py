"""Learning tables of runs, checked by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from services.simulation.learning_table import FinishedRun, compare_windows, learning_curve, markdown_table, table_rows
from services.simulation.recovery import recovery, share_of_best


def made(row: str, seed: int = 1, **arrays: Any) -> FinishedRun:
    """A run of the row; `reward` says how long it was."""
    found = {name: np.array(values) for name, values in arrays.items()}
    return FinishedRun(row, seed, len(found["reward"]), found, {"lexical": {"50": 1.0}})


def judged(row: str, seed: int, ndcg: Sequence[float], slices: Sequence[str], weights: Sequence[float]) -> FinishedRun:
    table = [[value, value / 2, 10.0 * (1 + i)] for i, value in enumerate(ndcg)]
    names = {"test_serving_2": table, "test_slices_2": slices, "test_weights_2": weights}
    return made(row, seed, reward=[0.0, 0.0], **names)


SLICES, WEIGHTS = ["a", "a", "b"], [1.0, 1.0, 2.0]


class TestLines:
    def test_each_query_is_its_mean_over_the_seeds_and_weighs_its_share(self) -> None:
        runs = [judged("static", seed, [0.1 * seed, 0.4, 0.5], SLICES, WEIGHTS) for seed in (1, 3)]
        found = {line.part: line for line in table_rows(runs, "static")}
        assert list(found) == ["all", "a", "b"]
        assert found["all"].ndcg.mean == pytest.approx((0.2 + 0.4 + 2 * 0.5) / 4)
        assert found["all"].recall.mean == pytest.approx((0.2 + 0.4 + 2 * 0.5) / 8)
        assert found["all"].candidates == pytest.approx((10 + 20 + 2 * 30) / 4)
        assert found["a"].ndcg.mean == pytest.approx(0.3)
        assert found["a"].candidates == pytest.approx(15)
        assert found["b"].ndcg.mean == pytest.approx(0.5)
        assert {line.difference for line in found.values()} == {None}

    def test_differences_are_paired_by_query(self) -> None:
        """All queries better by the same: the interval has no width, however the queries differ."""
        static = judged("static", 1, [0.1, 0.5, 0.9], SLICES, WEIGHTS)
        better = judged("LTRR", 1, [0.15, 0.55, 0.95], SLICES, WEIGHTS)
        found = {(line.row, line.part): line for line in table_rows([static, better], "static")}
        for part in ("all", "a", "b"):
            difference = found["LTRR", part].difference
            assert difference is not None
            assert (difference.mean, difference.low, difference.high) == pytest.approx((0.05, 0.05, 0.05))
        assert found["LTRR", "all"].ndcg.high - found["LTRR", "all"].ndcg.low > 0.1

    def test_without_the_static_row_there_is_nothing_to_differ_from(self) -> None:
        (line, *_) = table_rows([judged("LTRR", 1, [0.1, 0.5, 0.9], SLICES, WEIGHTS)], "static")
        assert line.difference is None

    def test_policies_without_exploration_have_lines_of_their_own(self) -> None:
        run = judged("LTRR", 1, [0.1, 0.5, 0.9], SLICES, WEIGHTS)
        greedy = {"test_greedy_2": run.arrays["test_serving_2"] + 0.01}
        run = FinishedRun(run.row, run.seed, run.impressions, {**run.arrays, **greedy}, run.spread)
        found = [line for line in table_rows([run], "static") if line.part == "all"]
        assert [line.policy for line in found] == ["serving", "greedy"]
        assert found[1].ndcg.mean - found[0].ndcg.mean == pytest.approx(0.01)

    def test_the_table_has_the_lines_of_one_part(self) -> None:
        static = judged("static", 1, [0.1, 0.5, 0.9], SLICES, WEIGHTS)
        better = judged("LTRR", 1, [0.15, 0.55, 0.95], SLICES, WEIGHTS)
        head, rule, *rows = markdown_table(table_rows([static, better], "static"), "b").splitlines()
        assert "candidates per request" in head
        assert set(rule) == {"|", "-"}
        assert len(rows) == 2
        cells = [cell.strip() for cell in rows[1].strip("|").split("|")]
        assert cells == [
            *("LTRR", "serving", "0.9500 [0.9500, 0.9500]", "+0.0500 [+0.0500, +0.0500]"),
            *("0.4750 [0.4750, 0.4750]", "30.0"),
        ]
        assert rows[0].split("|")[4].strip() == ""


class TestWindows:
    def test_worse_is_what_lies_wholly_below_two_percent(self) -> None:
        static = made("static", reward=[1.0] * 8)
        learned = made("LTRR", reward=[1.1, 1.1, 0.99, 0.99, 0.97, 0.97, 0.5, 1.5])
        found = compare_windows([learned], [static], 2)
        assert [(window.first, window.last) for window in found] == [(0, 2), (2, 4), (4, 6), (6, 8)]
        assert [window.gain.mean for window in found] == pytest.approx([0.1, -0.01, -0.03, 0.0])
        assert [window.significantly_worse for window in found] == [False, False, True, False]

    def test_gains_are_shares_of_what_the_static_mix_earned(self) -> None:
        static, learned = made("static", reward=[4.0, 0.0]), made("LTRR", reward=[4.2, 0.2])
        (window,) = compare_windows([learned], [static], 2)
        assert window.gain.mean == pytest.approx(0.1)
        assert window.gain.high - window.gain.low == pytest.approx(0.0), "paired by search"

    def test_seeds_are_compared_with_their_own(self) -> None:
        static = [made("static", seed, reward=[float(seed)] * 2) for seed in (1, 2)]
        learned = [made("LTRR", seed, reward=[float(seed)] * 2) for seed in (2, 1, 3)]
        (window,) = compare_windows(learned, static, 2)
        assert (window.gain.mean, window.gain.low, window.gain.high) == (0.0, 0.0, 0.0)
        with pytest.raises(ValueError, match="no seed"):
            compare_windows([made("LTRR", 3, reward=[1.0])], [made("static", 1, reward=[1.0])])

    def test_the_last_one_may_be_short_and_the_shorter_run_ends_it(self) -> None:
        found = compare_windows([made("LTRR", reward=[1.0] * 5)], [made("static", reward=[1.0] * 9)], 2)
        assert [(window.first, window.last) for window in found] == [(0, 2), (2, 4), (4, 5)]


class TestRecovery:
    STATIC = made("LTRR without a", reward=[1.0] * 12)

    def test_it_is_the_first_window_within_two_percent(self) -> None:
        learned = made("LTRR", reward=[0.0, 0.0, 0.5, 0.5, 0.9, 0.9, 0.985, 0.985, 0.5, 0.5, 2.0, 2.0])
        found = recovery([learned], [self.STATIC], 2, 10, 2)
        assert (found.at, found.reference, found.back_after) == (2, "LTRR without a", 6)
        assert [(window.first, window.last) for window in found.windows] == [(2, 4), (4, 6), (6, 8), (8, 10)]
        assert [window.gain.mean for window in found.windows] == pytest.approx([-0.5, -0.1, -0.015, -0.5])

    def test_there_may_be_none(self) -> None:
        learned = made("LTRR", reward=[0.9] * 12)
        assert recovery([learned], [self.STATIC], 0, 12, 5).back_after is None
        with pytest.raises(ValueError, match="no search"):
            recovery([learned], [self.STATIC], 12, 14)

    def test_it_is_the_mean_of_seeds_that_counts(self) -> None:
        reference = [made("r", seed, reward=[1.0] * 2) for seed in (1, 2)]
        learned = [made("LTRR", 1, reward=[0.9] * 2), made("LTRR", 2, reward=[1.1] * 2)]
        assert recovery(learned, reference, 0, 2, 2).back_after == 2

    def test_shares_of_the_best_are_of_what_could_be_earned(self) -> None:
        runs = [made("LTRR", 1, reward=[9.0, 1.0, 1.0], best=[9.0, 2.0, 2.0])]
        runs.append(made("LTRR", 2, reward=[9.0, 0.0, 1.0], best=[9.0, 1.0, 1.0]))
        assert share_of_best(runs, 1, 9) == pytest.approx(3.0 / 6.0)
        assert math.isnan(share_of_best(runs, 3, 9))


class TestCurve:
    def test_it_is_the_mean_of_seeds_by_windows_with_the_least_and_the_most(self) -> None:
        runs = [made("LTRR", 1, reward=[1.0, 3.0, 5.0]), made("LTRR", 2, reward=[3.0, 5.0, 1.0])]
        assert learning_curve(runs, "reward", 2) == ([2.0, 3.0], [3.0, 3.0], [2.0, 1.0], [4.0, 5.0])

    def test_regret_is_what_is_missing_to_the_best(self) -> None:
        run = made("LTRR", reward=[1.0, 3.0], best=[2.0, 3.5])
        assert learning_curve([run], "regret", 2)[1] == [0.75]
