from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services.errors import InvalidRequest
from services.evaluation.compare import ALL, MEASURES, Comparison, JudgedQuery, Part, compare, traffic_weights
from services.evaluation.intervals import Interval, bootstrap, paired_bootstrap
from services.evaluation.measures import ranked_ndcg, recall, reciprocal_rank
from services.evaluation.plots import Curve, curves, points
from services.evaluation.runs import Run
from tests.commands import ROOT

ITEMS = [f"d{number}" for number in range(20)]


def run(name: str, seed: int, queries: int = 60) -> Run:
    generator = np.random.default_rng(seed)
    return Run.of(name, {f"q{i}": [(item, float(generator.random())) for item in ITEMS[:15]] for i in range(queries)})


def judged(queries: int = 60) -> list[JudgedQuery]:
    """Title queries weigh 1, topic queries 3; every sixth has nothing relevant."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(queries):
        grades = {item: float(generator.integers(1, 3)) * (i % 6 > 0) for item in generator.choice(ITEMS, 4, False)}
        found.append(JudgedQuery(f"q{i}", grades, ("title", "topic")[i % 2], 1.0 + 2 * (i % 2)))
    return found


def part_of(comparison: Comparison, name: str = ALL) -> Part:
    (part,) = (part for part in comparison.parts if part.name == name)
    return part


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare([run("one", 1), run("two", 2)], judged(), baseline="one")


class TestCompare:
    def test_means_and_intervals_are_those_of_the_queries_with_something_relevant(self, comparison: Comparison) -> None:
        two, queries = run("two", 2), [query for query in judged() if any(query.grades.values())]
        values = [ranked_ndcg(two.ids(query.query_id), query.grades) for query in queries]
        weights = [query.weight for query in queries]
        part = part_of(comparison)
        assert (part.name, part.queries, part.share, comparison.left_out) == (ALL, 50, 1.0, 10)
        assert [row.run for row in part.rows] == ["one", "two"]
        assert close(part.rows[1].values["ndcg@10"], bootstrap(values, weights))
        assert part.rows[1].values["ndcg@10"].mean == pytest.approx(np.average(values, weights=weights))
        firsts = [reciprocal_rank(two.ids(query.query_id), query.grades) for query in queries]
        assert close(part.rows[1].values["mrr@10"], bootstrap(firsts, weights))

    def test_differences_are_paired_with_the_baseline(self, comparison: Comparison) -> None:
        queries = [query for query in judged() if any(query.grades.values())]
        two, one = (
            [recall(found.ids(query.query_id), query.grades) for query in queries]
            for found in (run("two", 2), run("one", 1))
        )
        row = part_of(comparison).rows[1]
        paired = paired_bootstrap(two, one, [query.weight for query in queries])
        assert close(row.differences["recall@100"], paired)
        mine, base = row.values["ndcg@10"], part_of(comparison).rows[0].values["ndcg@10"]
        assert row.differences["ndcg@10"].mean == pytest.approx(mine.mean - base.mean)
        assert part_of(comparison).rows[0].differences == {}

    def test_slices_stand_for_themselves(self, comparison: Comparison) -> None:
        queries = [query for query in judged() if query.slice == "topic"]
        alone = part_of(compare([run("one", 1), run("two", 2)], queries, baseline="one"))
        topic = part_of(comparison, "topic")
        assert (topic.queries, topic.rows) == (30, alone.rows)
        assert [part.name for part in comparison.parts] == [ALL, "title", "topic"]
        assert part_of(comparison, "title").queries == 20
        assert part_of(comparison, "title").share == pytest.approx(20 / 110)
        assert topic.share == pytest.approx(90 / 110)
        means = [part_of(comparison, name).rows[0].values["ndcg@10"].mean for name in (ALL, "title", "topic")]
        assert means[0] == pytest.approx((20 * means[1] + 90 * means[2]) / 110)

    def test_one_slice_is_no_part_of_its_own_and_none_has_a_name(self) -> None:
        one = [JudgedQuery(f"q{i}", {"d1": 1.0}, "title") for i in range(3)]
        assert [part.name for part in compare([run("a", 1)], one).parts] == [ALL]
        mixed = [*one, JudgedQuery("q9", {"d1": 1.0})]
        assert [part.name for part in compare([run("a", 1)], mixed).parts] == [ALL, "none", "title"]

    def test_a_slice_without_weight_is_left_out(self) -> None:
        queries = [JudgedQuery("q1", {"d1": 1.0}, "title"), JudgedQuery("q2", {"d1": 1.0}, "topic", 0.0)]
        assert [part.name for part in compare([run("a", 1)], queries).parts] == [ALL, "title"]

    def test_a_query_that_a_run_lacks_counts_as_answered_with_nothing(self) -> None:
        queries = [JudgedQuery(f"q{i}", dict.fromkeys(ITEMS, 1.0)) for i in range(4)]
        whole, half = Run.of("whole", run("", 1, 4).lists), Run.of("half", run("", 1, 2).lists)
        found = part_of(compare([whole, half], queries, ["ndcg@10"]))
        assert [row.values["ndcg@10"].mean for row in found.rows] == [1.0, 0.5]
        assert [row.missing for row in found.rows] == [0, 2]

    def test_the_seed_decides(self) -> None:
        again = [compare([run("one", 1)], judged(), seed=seed, resamples=100).values() for seed in (3, 3, 4)]
        assert again[0] == again[1]
        assert again[0]["parts"] != again[2]["parts"]

    @pytest.mark.parametrize(
        ("names", "measures", "baseline", "said"),
        [
            (["a", "a"], MEASURES, None, "'a', 'a'"),
            ([], MEASURES, None, "not nothing"),
            (["a"], ["dcg@10"], None, "no measure 'dcg@10'"),
            (["a"], [], None, "no measure"),
            (["a", "b"], MEASURES, "c", "no run 'c' to compare with; the runs are 'a', 'b'"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(
        self, names: list[str], measures: list[str], baseline: str | None, said: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=re.escape(said)):
            compare([run(name, 1) for name in names], judged(), measures, baseline)

    @pytest.mark.parametrize("queries", [[], [JudgedQuery("q1", {"d1": 0.0})], [JudgedQuery("q1", {"d1": 1.0}, "", 0)]])
    def test_nothing_to_measure_by_is_refused(self, queries: list[JudgedQuery]) -> None:
        with pytest.raises(InvalidRequest, match="there is nothing to measure"):
            compare([run("a", 1)], queries)


def close(one: Interval, other: Interval) -> bool:
    return (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high))


class TestShown:
    def test_the_table_has_a_line_per_part_and_run(self, comparison: Comparison) -> None:
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in comparison.markdown().splitlines()]
        assert lines[0] == ["queries", "run", *MEASURES, "ndcg@10 - one"]
        assert set("".join(lines[1])) == {"-"}
        assert [line[:2] for line in lines[2:]] == [
            [part, name] for part in ("all (50)", "title (20)", "topic (30)") for name in ("one", "two")
        ]
        row = part_of(comparison, "topic").rows[1]
        value, difference = row.values["map@100"], row.differences["ndcg@10"]
        assert lines[7][4] == f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
        assert lines[7][7] == f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
        assert [line[7] for line in lines[2::2]] == ["", "", ""]
        assert len({len(line) for line in comparison.markdown().splitlines()}) == 1

    def test_without_a_baseline_there_are_no_differences(self) -> None:
        found = compare([run("one", 1)], judged(), ["mrr@5"])
        assert found.markdown().splitlines()[0].split() == ["|", "queries", "|", "run", "|", "mrr@5", "|"]
        assert part_of(found).rows[0].differences == {}

    def test_values_are_for_json(self, comparison: Comparison) -> None:
        values = json.loads(json.dumps(comparison.values(), allow_nan=False))
        assert values["baseline"] == "one"
        found = values["parts"][0]["rows"][1]["values"]["ndcg@10"]
        assert found["low"] < found["mean"] < found["high"]


class TestTraffic:
    def test_shares_are_split_by_weight_within_a_slice(self) -> None:
        weights = traffic_weights(["a", "a", "b", "b"], [1.0, 3.0, 5.0, 5.0], {"a": 0.8, "b": 0.2})
        assert weights == pytest.approx([0.8, 2.4, 0.4, 0.4])
        assert traffic_weights(["a", "a", "b", "b"], [1.0, 3.0, 5.0, 5.0], {"a": 80, "b": 20}) == pytest.approx(weights)

    def test_by_default_slices_count_by_their_queries(self) -> None:
        assert traffic_weights(["a", "a", "b"], [1.0, 3.0, 9.0]) == pytest.approx([0.5, 1.5, 1.0])
        assert traffic_weights(["", "", ""]) == pytest.approx([1.0, 1.0, 1.0])

    def test_a_slice_can_be_left_out(self) -> None:
        assert traffic_weights(["a", "b"], [1.0, 0.0], {"a": 1, "b": 0}) == [2.0, 0.0]

    @pytest.mark.parametrize(
        ("mix", "said"),
        [
            ({"a": 1.0}, "the mix names 'a', but the slices are 'a', 'b'"),
            ({"a": 0.5, "b": 0.3, "c": 0.2}, "each slice needs"),
            ({"a": 1.5, "b": -0.5}, "numbers from 0"),
            ({"a": math.nan, "b": 1.0}, "numbers from 0"),
            ({"a": 0.0, "b": 0.0}, "not all 0"),
            ({"a": 0.5, "b": 0.5}, "no query of the slice 'b' has a weight"),
        ],
    )
    def test_a_mix_that_cannot_be_is_refused(self, mix: dict[str, float], said: str) -> None:
        with pytest.raises(InvalidRequest, match=said):
            traffic_weights(["a", "b"], [1.0, 0.0], mix)


ROWS = {"lexical": Interval(0.4, 0.35, 0.45), "static": Interval(0.5, 0.48, 0.52)}


class TestPlots:
    def test_every_row_and_part_is_drawn(self, tmp_path: Path) -> None:
        panels = dict.fromkeys(("all (9)", "title (5)", "topic (3)", "typo (1)"), ROWS)
        points(tmp_path / "a.svg", "films, test", "ndcg@10", panels, "static")
        drawn = labels(tmp_path / "a.svg")
        for text in ("films, test", "ndcg@10", *panels, *ROWS):
            assert text in drawn, text

    def test_a_curve_is_drawn_with_its_name_and_band(self, tmp_path: Path) -> None:
        series = {
            "LTRR": Curve([0, 10_000, 20_000], [0.5, 0.6, 0.65], [0.4, 0.5, 0.6], [0.6, 0.7, 0.7]),
            "static": Curve([0, 20_000], [0.7, 0.7]),
        }
        curves(tmp_path / "a.svg", "Learning", "impressions", "ndcg@10", series)
        drawn = labels(tmp_path / "a.svg")
        for text in ("Learning", "impressions", "ndcg@10", "LTRR", "static", "20,000"):
            assert text in drawn, text
        assert drawn.index("static") < drawn.index("LTRR"), "named in the order in which they end"
        assert (tmp_path / "a.svg").read_text().count("FillBetween") == 1

    def test_the_same_values_give_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a.svg", "b.svg"):
            points(tmp_path / name, "films", "ndcg@10", {"all": ROWS}, "static")
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
        assert "<dc:date>" not in (tmp_path / "a.svg").read_text()

    def test_what_cannot_be_drawn_is_refused(self, tmp_path: Path) -> None:
        for panels in ({}, {"all": {}}):
            with pytest.raises(ValueError, match="no row"):
                points(tmp_path / "a.svg", "", "", panels)
        for series in ({}, {"x": Curve([], [])}, {"x": Curve([1, 2], [1])}, {"x": Curve([1], [1], [0, 0], [2])}):
            with pytest.raises(ValueError, match="curve"):
                curves(tmp_path / "a.svg", "", "", "", series)

    def test_commands_that_draw_nothing_do_not_wait_for_the_library(self) -> None:
        code = "import sys, app.__main__, services.evaluation.compare; sys.exit('matplotlib' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def labels(path: Path) -> list[str]:
    """Texts of a plot, which the library writes as comments beside their outlines."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", path.read_text())]
