"""The same queries over and over, by hand."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from services.datasets.folder import DatasetQuery
from services.simulation.repeated_queries import RepeatTraffic, gap_closed, repeat_results, sample_queries


def queries(name: str, number: int, user_id: str | None = None) -> list[DatasetQuery]:
    return [DatasetQuery(f"{name}{i}", "train", f"{name} {i}", name, user_id) for i in range(number)]


class TestSample:
    def test_it_is_spread_evenly_over_the_slices(self) -> None:
        found = sample_queries([*queries("title", 10), *queries("typo", 2), *queries("facet", 9)], 3)
        assert [query.query_id for query in found] == ["title0", "title3", "title6", "typo0", "typo1"]

    def test_other_data_has_other_slices(self) -> None:
        found = sample_queries([*queries("b", 2), *queries("a", 2), *queries("title", 0)], 1)
        assert [query.query_id for query in found] == ["a0", "b0"]

    def test_persons_are_left_out(self) -> None:
        assert sample_queries(queries("title", 5, "u1"), 3) == []


class TestRounds:
    def test_each_is_asked_in_turn_by_somebody_else(self) -> None:
        asked = sample_queries(queries("title", 3), 3)
        found = list(islice(RepeatTraffic(asked).since(), 7))
        assert [search.query.query_id for search in found] == ["title0", "title1", "title2"] * 2 + ["title0"]
        assert [search.index for search in found] == list(range(7))
        assert len({search.session_id for search in found}) == 7
        assert {search.user_id for search in found} == {None}
        assert np.diff([search.at for search in found]) == pytest.approx([86400 / 5000] * 6)
        assert next(RepeatTraffic(asked).since(5)) == found[5]


class TestClosed:
    def test_it_is_what_was_gained_of_what_was_missing(self) -> None:
        found = gap_closed(np.array([0.8, 1.0]), np.array([0.6, 0.9]))
        assert found.mean == pytest.approx(0.3 / 0.5)
        assert found.low == pytest.approx(0.5), "the first query alone"
        assert found.high == pytest.approx(1.0), "the second one alone"

    def test_it_may_be_a_loss(self) -> None:
        assert gap_closed(np.array([0.4]), np.array([0.5])).mean == pytest.approx(-0.2)

    def test_nothing_is_missing(self) -> None:
        found = gap_closed(np.ones(3), np.ones(3))
        assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_figures_are_by_slice_and_of_the_round_after_so_many() -> None:
    forgetful = np.full((3, 4), 0.5)
    remembering = np.array([[0.5] * 4, [0.5, 0.5, 0.7, 0.7], [0.6, 0.6, 1.0, 1.0]])
    found = {
        (line.part, line.after): line
        for line in repeat_results(remembering, forgetful, ["a", "a", "b", "b"], (0, 2, 9))
    }
    assert list(found) == [("all", 0), ("all", 2), ("a", 0), ("a", 2), ("b", 0), ("b", 2)]
    assert [line.queries for line in found.values()] == [4, 4, 2, 2, 2, 2]
    assert found["all", 0].closed.mean == 0.0
    assert found["all", 2].closed.mean == pytest.approx(1.2 / 2.0)
    assert found["a", 2].closed.mean == pytest.approx(0.2)
    assert found["b", 2].closed.mean == pytest.approx(1.0)
    assert found["b", 2].remembering.mean == 1.0
    assert found["b", 2].forgetful.mean == 0.5
