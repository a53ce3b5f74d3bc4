from __future__ import annotations

import math
from collections.abc import Mapping

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, Judged, P, R, nDCG

from services.errors import InvalidRequest
from services.evaluation.intervals import bootstrap, bootstraps, paired_bootstrap
from services.evaluation.measures import (
    NAMES,
    average_precision,
    capped_recall,
    dcg,
    exponential,
    judged,
    linear,
    named,
    ndcg,
    ranked_ndcg,
    recall,
    reciprocal_rank,
)


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


RANKED = ["a", "b", "c", "d"]


class TestOrders:
    def test_by_hand(self) -> None:
        grades = {"b": 1.0, "d": 2.0, "lost": 1.0, "a": 0.0}
        assert reciprocal_rank(RANKED, grades) == 1 / 2
        assert average_precision(RANKED, grades) == pytest.approx((1 / 2 + 2 / 4) / 3)
        assert average_precision(RANKED, grades, 3) == pytest.approx(1 / 2 / 3)
        assert recall(RANKED, grades, 3) == pytest.approx(1 / 3)
        assert judged(RANKED, grades, 3) == pytest.approx(2 / 3)
        assert judged(RANKED, grades, 100) == 3 / 4
        assert ranked_ndcg(RANKED, grades) == ndcg([0, 1, 0, 2], [4, 3, 2, 1], RANKED, ideal_grades=[1, 2, 1, 0])

    def test_what_stands_after_k_does_not_count(self) -> None:
        grades = {"d": 1.0}
        for measure in (ranked_ndcg, reciprocal_rank, average_precision, recall, judged):
            assert measure(RANKED, grades, 3) == 0.0
            assert measure(RANKED, grades, 4) > 0.0

    def test_nothing_relevant_or_nothing_found_is_zero(self) -> None:
        for measure in (ranked_ndcg, reciprocal_rank, average_precision, recall, capped_recall):
            assert measure(RANKED, {}, 10) == measure(RANKED, {"a": 0.0}, 10) == measure([], {"a": 1.0}, 10) == 0.0
        assert judged([], {"a": 1.0}) == 0.0
        assert judged(RANKED, {"a": 0.0}) == 1 / 4

    def test_a_fraction_of_a_grade_is_relevant(self) -> None:
        assert recall(RANKED, {"a": 0.5}) == 1.0


class TestCappedRecall:
    def test_more_relevant_items_than_k_can_be_met_by_k(self) -> None:
        grades = dict.fromkeys(["a", "b", "c", "x"], 1.0)
        assert capped_recall({"a", "b", "z"}, grades, 2) == 1.0
        assert capped_recall({"a", "b", "c"}, grades, 2) == 1.0
        assert capped_recall({"a", "z"}, grades, 2) == 1 / 2
        assert capped_recall({"a", "z"}, grades, 10) == 1 / 4

    def test_order_and_repeats_do_not_matter(self) -> None:
        grades = {"a": 1.0, "b": 2.0, "c": 0.0}
        assert capped_recall(["c", "z", "a"], grades, 1) == 1.0
        assert capped_recall(["a", "a"], grades, 2) == 1 / 2


class TestNames:
    def test_every_family_has_a_name(self) -> None:
        grades = {"a": 0.0, "b": 1.0, "d": 2.0, "lost": 1.0}
        functions = (ranked_ndcg, reciprocal_rank, average_precision, recall, capped_recall, judged)
        for name, function in zip(NAMES, functions, strict=True):
            for k in (1, 2, 10):
                assert named(name.replace("@k", f"@{k}"))(RANKED, grades) == function(RANKED, grades, k)

    @pytest.mark.parametrize("name", ["ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@ten", "dcg@10", "NDCG@10", "", "@5"])
    def test_others_are_refused_with_those_there_are(self, name: str) -> None:
        with pytest.raises(InvalidRequest, match=r"capped_recall@k, judged@k"):
            named(name)


# --- an independent reference -------------------------------------------------------------------------------------

ITEMS = [f"d{number:02}" for number in range(40)]
REFERENCE_NAME = dict(zip(ITEMS, reversed(ITEMS), strict=True))
"""Ids turned round. trec_eval, behind most of ir-measures, puts the larger id first among equal scores, this product
the smaller one: under these names the reference sees our order, by a tie rule of its own."""


class Judgements:
    """300 seeded queries: coarse scores with many ties, unjudged items, relevant ones that were not found, queries with
    nothing relevant, and lists shorter than k."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.grades: dict[str, dict[str, int]] = {}
        self.scored: dict[str, dict[str, float]] = {}
        for number in range(300):
            judged_items = generator.choice(ITEMS, generator.integers(1, 25), replace=False).tolist()
            most = 0 if number % 10 == 0 else 3
            self.grades[f"q{number}"] = {i: int(generator.integers(0, most + 1)) for i in judged_items}
            found = generator.choice(ITEMS, generator.integers(1, 31), replace=False).tolist()
            self.scored[f"q{number}"] = {i: float(generator.integers(0, 6)) / 4 for i in found}

    def ranked(self, query: str) -> list[str]:
        found = self.scored[query]
        return sorted(found, key=lambda i: (-found[i], i))

    def reference(
        self, measure: ir_measures.Measure, exponential_gain: bool = False, names: Mapping[str, str] = REFERENCE_NAME
    ) -> dict[str, float]:
        """Values by query. The reference's gain is the grade itself, so exponential gains are passed as grades."""
        qrels = {
            query: {names[i]: 2**grade - 1 if exponential_gain else grade for i, grade in grades.items()}
            for query, grades in self.grades.items()
        }
        run = {query: {names[i]: score for i, score in found.items()} for query, found in self.scored.items()}
        return {metric.query_id: metric.value for metric in ir_measures.iter_calc([measure], qrels, run)}


AS_THEY_ARE = {item: item for item in ITEMS}
"""Reference for the parts of ir-measures outside trec_eval, which order ties by ascending id, as we do."""


@pytest.fixture(scope="module", params=[1, 2])
def data(request: pytest.FixtureRequest) -> Judgements:
    return Judgements(request.param)


class TestAgainstTheReference:
    def compare(self, data: Judgements, name: str, theirs: Mapping[str, float]) -> None:
        measure = named(name)
        ours = {query: measure(data.ranked(query), grades) for query, grades in data.grades.items()}
        assert len(theirs) == len(ours) == 300
        assert ours == pytest.approx(dict(theirs), abs=1e-6)
        assert len(set(ours.values())) > 2

    @pytest.mark.parametrize("k", [1, 5, 10, 100])
    def test_ndcg(self, data: Judgements, k: int) -> None:
        self.compare(data, f"ndcg@{k}", data.reference(nDCG @ k, exponential_gain=True))

    def test_ndcg_with_linear_gain(self, data: Judgements) -> None:
        theirs = data.reference(nDCG @ 10)
        for query, grades in data.grades.items():
            found = data.scored[query]
            value = ndcg([grades.get(i, 0) for i in found], [*found.values()], [*found], 10, grades.values(), linear)
            assert value == pytest.approx(theirs[query])

    @pytest.mark.parametrize("k", [3, 10])
    def test_reciprocal_rank(self, data: Judgements, k: int) -> None:
        # A query with nothing relevant is absent from this reference.
        theirs = dict.fromkeys(data.grades, 0.0) | data.reference(RR @ k, names=AS_THEY_ARE)
        self.compare(data, f"mrr@{k}", theirs)

    def test_reciprocal_rank_of_the_whole_list(self, data: Judgements) -> None:
        self.compare(data, "mrr@1000", data.reference(RR))

    @pytest.mark.parametrize("k", [5, 10])
    def test_average_precision(self, data: Judgements, k: int) -> None:
        self.compare(data, f"map@{k}", data.reference(AP @ k))

    def test_average_precision_of_the_whole_list(self, data: Judgements) -> None:
        self.compare(data, "map@1000", data.reference(AP))
        theirs = data.reference(AP)
        assert all(average_precision(data.ranked(q), g) == pytest.approx(theirs[q]) for q, g in data.grades.items())

    @pytest.mark.parametrize("k", [1, 5, 10, 100])
    def test_recall(self, data: Judgements, k: int) -> None:
        self.compare(data, f"recall@{k}", data.reference(R @ k))

    @pytest.mark.parametrize("k", [5, 10])
    def test_capped_recall(self, data: Judgements, k: int) -> None:
        """Recall from the number of relevant items in the whole list: its precision at 100, times 100."""
        found = data.reference(P @ 100)
        relevant = {query: sum(grade > 0 for grade in grades.values()) for query, grades in data.grades.items()}
        theirs = {
            query: min(round(100 * found[query]), k) / min(relevant[query], k) if relevant[query] else 0.0
            for query in data.grades
        }
        self.compare(data, f"capped_recall@{k}", theirs)

    @pytest.mark.parametrize("k", [5, 10, 100])
    def test_judged(self, data: Judgements, k: int) -> None:
        self.compare(data, f"judged@{k}", data.reference(Judged @ k, names=AS_THEY_ARE))


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

    def test_columns_share_their_resamples(self) -> None:
        generator = np.random.default_rng(8)
        table, weights = generator.random((70, 3)), generator.random(70).tolist()
        table[:, 2] = table[:, 0] - table[:, 1]
        each = bootstraps(table, weights, resamples=450)
        for column, interval in zip(table.T.tolist(), each, strict=True):
            alone = bootstrap(column, weights, resamples=450)
            assert (interval.mean, interval.low, interval.high) == pytest.approx((alone.mean, alone.low, alone.high))
        pair = paired_bootstrap(table[:, 0].tolist(), table[:, 1].tolist(), weights, resamples=450)
        assert each[2].low == pytest.approx(pair.low)

    def test_it_is_what_drawing_queries_one_by_one_gives(self) -> None:
        generator = np.random.default_rng(9)
        values, weights = generator.random(30), generator.random(30)
        drawn = np.random.default_rng(4).integers(0, 30, (100, 30))
        means = [np.average(values[row], weights=weights[row]) for row in drawn]
        interval = bootstrap(values.tolist(), weights.tolist(), resamples=100, seed=4)
        assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
        assert interval.mean == pytest.approx(np.average(values, weights=weights))

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
