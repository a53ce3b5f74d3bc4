"""A ranker from simulated clicks: answers put together, looks estimated, bias corrected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.studies.ranker import FUSION, JUDGMENTS, NAIVE, Log, write
from services.datasets.folder import DatasetQuery
from services.evaluation.intervals import paired_bootstrap
from services.models.ranker.answers import AnswerGroups
from services.models.ranker.rows import Group, labelled, split_groups
from services.models.ranker.train import FILE, train
from services.rankers.features import NAMES
from services.rankers.onnx import OnnxRanker
from services.rewards.examination import MIN_EXAMINATION, ClickCounts, by_position
from services.rewards.rewards import examination
from services.simulation.click_models import PositionBased
from services.simulation.judge import Judge
from services.simulation.ranker_click_log import (
    PAGE_SIZE,
    PRIOR_COLUMN,
    SWAP_DEPTH,
    estimate_examination,
    fused_order,
    ids_by_score,
    popularity_order,
    simulate_answers,
    training_groups,
)
from services.simulation.traffic import Traffic
from tests.simulation.test_judge import assert_blind_to_grades

GOOD = NAMES.index("title_query_share")
FILLED = 55
"""Columns with something in them, however many there are: the rest is the same chance whatever is added to NAMES."""
SEED = 3


def pool(number: int) -> tuple[Group, dict[str, float]]:
    """15 items of which those with a high GOOD feature are wanted, whatever their popularity, and who wants them."""
    generator = np.random.default_rng(number)
    rows = np.zeros((15, len(NAMES)), dtype=np.float32)
    rows[:, :FILLED] = generator.random((15, FILLED), dtype=np.float32)
    wanted = rows[:, GOOD] + generator.normal(0, 0.1, 15) > 0.7
    ids = tuple(f"{number}-{i:02d}" for i in range(15))
    fused = rows[:, NAMES.index("fused")].astype(np.float64)
    return Group(f"q{number}", ids, rows, np.zeros(15), fused), dict(zip(ids, wanted.astype(float), strict=True))


MADE = [pool(number) for number in range(400)]
POOLS = {group.key: group for group, _ in MADE[:300]}
UNSEEN = [group for group, _ in MADE[300:]]
WANTED = {group.key: wanted for group, wanted in MADE}
TRAFFIC = Traffic([DatasetQuery(key, "train", key) for key in POOLS], SEED)


def judge() -> Judge:
    return Judge(WANTED, PositionBased(), SEED)


def reached(curve: Callable[[int], float]) -> list[float]:
    """NDCG@10 of the unseen queries by a ranker that learned from a log in the order of popularity."""
    answers = simulate_answers(POOLS, popularity_order, TRAFFIC, judge(), 3000, 0.1)
    training, validation = split_groups(training_groups(answers, POOLS, curve))
    trained = train(training, validation, source="log", trees=60, seed=SEED)
    ranker = OnnxRanker(trained.files[FILE], trained.meta, "1")
    return [judge().measures(ids_by_score(g, ranker.score(g.rows)), g.key, 0, ("ndcg@10",))["ndcg@10"] for g in UNSEEN]


@pytest.fixture(scope="module")
def corrected() -> list[float]:
    return reached(examination)


class TestCorrection:
    def test_it_is_clearly_better_than_clicks_as_they_are(self, corrected: list[float]) -> None:
        naive = reached(lambda position: 1.0)
        assert np.mean(corrected) > 0.88
        assert paired_bootstrap(corrected, naive).low > 0.01

    def test_the_wrong_way_round_it_is_worse(self, corrected: list[float]) -> None:
        """Result of the comparison above if examinations were multiplied rather than divided by."""
        broken = reached(lambda position: 1.0 / examination(position))
        assert paired_bootstrap(corrected, broken).low > 0.05

    def test_an_estimated_curve_does_as_well(self, corrected: list[float]) -> None:
        answers = list(simulate_answers(POOLS, popularity_order, TRAFFIC, judge(), 3000, 0.5))
        assert np.mean(reached(by_position(estimate_examination(answers, POOLS)))) > np.mean(corrected) - 0.02

    def test_grades_come_through_clicks_alone(self) -> None:
        def run(judge: Judge) -> bytes:
            answers = list(simulate_answers(POOLS, fused_order, TRAFFIC, judge, 300, 0.1))
            groups = training_groups(answers, POOLS, examination)
            return repr((answers, [(g.ids, g.gains.tolist(), g.rows.sum()) for g in groups])).encode()

        assert_blind_to_grades(run, WANTED)


class TestAnswered:
    def test_pages_are_in_the_order_asked_for_but_for_one_swap(self) -> None:
        for order in (fused_order, popularity_order):
            for answer in simulate_answers(POOLS, order, TRAFFIC, judge(), 200, 0.0):
                assert answer.shown == tuple(order(POOLS[answer.query_id])[:PAGE_SIZE].tolist())
            swapped = [
                sum(a != b for a, b in zip(answer.shown, order(POOLS[answer.query_id]), strict=False))
                for answer in simulate_answers(POOLS, order, TRAFFIC, judge(), 200, 1.0)
            ]
            assert set(swapped) == {0, 1, 2}
        popular = popularity_order(UNSEEN[0])
        assert (np.diff(UNSEEN[0].rows[popular, PRIOR_COLUMN]) <= 0).all()
        assert len(popular) < SWAP_DEPTH

    def test_the_same_seed_gives_the_same_log(self) -> None:
        one, other = (list(simulate_answers(POOLS, fused_order, TRAFFIC, judge(), 100, 0.5)) for _ in range(2))
        assert one == other
        assert any(answer.clicked for answer in one)
        assert list(simulate_answers({}, fused_order, TRAFFIC, judge(), 100, 0.5)) == []


class TestCurve:
    @pytest.mark.parametrize("eta", [0.0, 1.0, 2.0])
    def test_swaps_tell_how_far_people_look(self, eta: float) -> None:
        """Though the log's own order has the wanted items first."""
        user = PositionBased(eta=eta)
        generator = np.random.default_rng(1)
        shown = ClickCounts(5)
        for number in range(30_000):
            ids = ["a", "b", "c", "d", "e"]
            if generator.random() < 0.3:
                one, other = generator.integers(5, size=2)
                ids[one], ids[other] = ids[other], ids[one]
            grades = [2.0 - "abcde".index(i) / 2 for i in ids]
            shown.add(f"q{number % 50}", ids, user.clicks(grades, generator.random(5)))
        true = np.array([examination(position) ** eta for position in range(1, 6)])
        assert np.abs(shown.curve() - true).max() < 0.06

    def test_without_anything_moved_nothing_is_assumed(self) -> None:
        shown = ClickCounts(3)
        shown.add("q", ["a", "b", "c"], [0])
        assert shown.curve().tolist() == [1.0, 1.0, 1.0]

    def test_beyond_its_end_it_goes_on(self) -> None:
        curve = by_position(np.array([1.0, 0.5]))
        assert [curve(position) for position in (1, 2, 3, 100)] == [1.0, 0.5, 0.5, 0.5]
        assert MIN_EXAMINATION > 0


def row(value: float) -> NDArray[np.float32]:
    return np.full((2, 3), value, dtype=np.float32)


class TestAnswers:
    def test_looks_and_worth_add_up_until_answers_have_doubled(self) -> None:
        answers = AnswerGroups(lambda position: 1.0 / position)
        for number in range(1, 5):
            answers.add("q", ("a", "b") if number % 2 else ("b", "a"), row(number)).earn("a", 1.0)
        one, two, three = answers.rewarded()
        assert [found.worth().tolist() for found in (one, two, three)] == [[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]
        assert two.ids() == ("b", "a")
        assert two.examinations().tolist() == [1.5, 1.5]
        assert two.mean_positions().tolist() == [1.5, 1.5]

    def test_rows_are_of_before_what_was_earned(self) -> None:
        """Memory counts clicks: a row of afterwards would hold the answer."""
        answers = AnswerGroups()
        for number in range(1, 4):
            answers.add("q", ("a", "b"), row(number)).earn("a", 1.0)
        assert [found.rows()[0, 0] for found in answers.rewarded()] == [1.0, 2.0]

    def test_persons_and_pages(self) -> None:
        answers = AnswerGroups()
        first, second = (answers.add("q", ("a", "b"), row(1.0), person=person) for person in ("ann", "bob"))
        assert first is not second
        page = answers.add("q", ("a", "c"), row(1.0), first=11, person="ann")
        assert page is first, "what a person saw before is not begun anew"
        assert page.ids() == ("a", "b", "c")
        assert page.examinations().tolist() == [examination(1) + examination(11), examination(2), examination(12)]

    def test_what_was_disliked_or_never_shown_is_worth_nothing(self) -> None:
        answers = AnswerGroups()
        found = answers.add("q", ("a", "b"), row(1.0))
        found.earn("a", -1.0)
        found.earn("z", 1.0)
        assert answers.rewarded() == []
        found.earn("b", 1.0)
        assert found.worth().tolist() == [0.0, 1.0]


def test_labels_for_groups_that_were_found_without(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "catalogue.jsonl").touch()
    (folder / "queries.tsv").write_text("query_id\tsplit\tquery\nq1\ttrain\tx\nq2\ttrain\ty\nq3\ttest\tz\n")
    (folder / "qrels.tsv").write_text("query_id\tdoc_id\tgrade\nq1\ta\t2\nq1\tlost\t1\nq2\ta\t0\nq3\ta\t1\n")
    groups = [Group(key, ("a", "b"), row(0.0), np.zeros(2), np.zeros(2)) for key in ("q1", "q2", "q3")]
    (found,) = labelled(groups, folder, "train")
    assert (found.key, found.gains.tolist(), sorted(found.ideal)) == ("q1", [3.0, 0.0], [1.0, 3.0])


def test_the_table_has_every_ranker_with_its_differences(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    fused = generator.random((50, 2)) * 0.5
    reached = {JUDGMENTS: fused + 0.3, NAIVE: fused - 0.1, FUSION: fused}
    asked = {"data": "made", "split": "test", "impressions": 1000, "swaps": 0.1, "eta": 1.0, "seed": 1, "out": "else"}
    write([Log("fused order", 7, [1.0, 0.5], reached)], tmp_path, asked)
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    found = results["logs"]["fused order"]["rows"]
    assert found[JUDGMENTS]["over naive"]["low"] == pytest.approx(0.4)
    assert found[NAIVE]["over fusion"]["mean"] == pytest.approx(-0.1)
    assert "out" not in results["asked"]
    lines = (tmp_path / "table.md").read_text("utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:] == [JUDGMENTS, NAIVE, FUSION]
    assert (tmp_path / "results.svg").read_text("utf-8").startswith("<?xml")
