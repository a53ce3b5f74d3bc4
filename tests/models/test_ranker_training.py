from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.backends.base import Record, Tick
from services.backends.sqlite.log import SqliteLog
from services.errors import InvalidRequest, ModelInvalid
from services.evaluation.measures import dcg, linear, ndcg
from services.models.ranker.convert import convert, parity, round_thresholds
from services.models.ranker.ensemble import LISTWISE, MAX_LEVELS, MONOTONE_FEATURES, OBJECTIVES, fit
from services.models.ranker.judge import judge
from services.models.ranker.rows import Group, Labelled, debiased, from_labels, from_log, read_labels
from services.models.ranker.train import FILE, train, train_on_clicks
from services.models.trained import Trained
from services.rankers.features import NAMES
from services.rankers.onnx import OnnxRanker
from services.rewards.rewards import examination
from services.types import (
    Context,
    Decision,
    Impression,
    Interaction,
    Interpretation,
    Pooled,
    Query,
    Schema,
    Understanding,
)
from tests.builders.records import make_impression, make_interaction

WEIGHTS = {"click": 1.0, "purchase": 5.0, "dislike": -1.0}
GOOD = NAMES.index("title_query_share")
FILLED = 55
"""Columns with something in them, however many there are: the rest is the same chance whatever is added to NAMES."""
FUSED = NAMES.index("fused")


def group(key: str, *, noise: float = 0.1, seed: int | None = None, **more: Any) -> Group:
    """20 items of which those with a high GOOD feature are relevant, under a baseline that knows little of it."""
    generator = np.random.default_rng(int(key) if seed is None else seed)
    rows = np.zeros((20, len(NAMES)), dtype=np.float32)
    rows[:, :FILLED] = generator.random((20, FILLED), dtype=np.float32)
    hidden = rows[:, GOOD] + generator.normal(0, noise, 20)
    gains = (hidden > 0.8).astype(float) + 2.0 * (hidden > 0.95)
    return Group(
        key=key,
        ids=tuple(f"{i:02d}" for i in range(20)),
        rows=rows,
        gains=gains,
        baseline=rows[:, FUSED].astype(float),
        **more,
    )


@pytest.fixture(scope="module")
def groups() -> tuple[list[Group], list[Group]]:
    return [group(str(i)) for i in range(200)], [group(str(i)) for i in range(1000, 1060)]


@pytest.fixture(scope="module")
def trained(groups: tuple[list[Group], list[Group]]) -> Trained:
    return train(*groups, source="labels", trees=30)


class TestTrain:
    def test_it_finds_what_matters_and_goes_live(self, trained: Trained) -> None:
        metrics = trained.meta["metrics"]
        assert trained.promote
        assert metrics["ranker"]["mean"] > metrics["baseline"]["mean"] + 0.3
        assert metrics["difference"]["low"] > 0
        assert next(iter(trained.meta["importance"])) == NAMES[GOOD]

    def test_what_is_stored_is_what_serves(self, trained: Trained, groups: tuple[list[Group], list[Group]]) -> None:
        meta = json.loads(json.dumps(trained.meta, allow_nan=False))
        ranker = OnnxRanker(trained.files[FILE], meta, "1")
        measured = [ndcg(g.gains.tolist(), ranker.score(g.rows).tolist(), g.ids, 10, gain=linear) for g in groups[1]]
        assert np.mean(measured) == pytest.approx(meta["metrics"]["ranker"]["mean"])
        assert next(iter(ranker.contributions(groups[1][0].rows)))
        assert meta["parity"]["largest_difference"] < 1e-5

    def test_the_same_groups_give_the_same_bytes(
        self, trained: Trained, groups: tuple[list[Group], list[Group]]
    ) -> None:
        assert train(*groups, source="labels", trees=30) == trained

    def test_a_ranker_that_may_be_worse_stays_out(self) -> None:
        """Relevance that features say nothing of, and a baseline that knows it."""

        def known(key: str) -> Group:
            g = group(key)
            gains = np.random.default_rng(int(key) + 7).permutation(g.gains)
            return Group(key, g.ids, g.rows, gains, baseline=gains)

        result = train(
            [known(str(i)) for i in range(100)], [known(str(i)) for i in range(1000, 1040)], source="log", trees=10
        )
        assert not result.promote
        assert "may be worse" in result.reason
        assert result.meta["gate"] == {"promote": False, "reason": result.reason}

    def test_weights_decide_what_is_learned(self) -> None:
        """Two kinds of query that want opposite things: the one that weighs more wins, though there are fewer."""

        def against(g: Group, weight: float) -> Group:
            rows = g.rows.copy()
            rows[:, GOOD] = 1.0 - rows[:, GOOD]
            return replace(g, rows=rows, weight=weight)

        asked = [replace(group(str(i)), weight=10.0) for i in range(70)]
        judges = [group(str(i)) for i in range(1000, 1030)]
        others = [against(group(str(i)), 0.1) for i in range(100, 300)]
        result = train(asked + others, judges, source="labels", trees=20)
        assert result.meta["metrics"]["ranker"]["mean"] > 0.7
        result = train(asked + [replace(g, weight=0.0) for g in others], judges, source="labels", trees=20)
        assert result.meta["queries"]["training"] == 70

    def test_too_little_is_refused_with_how_much_there_is(self) -> None:
        with pytest.raises(InvalidRequest, match="49 training queries"):
            train([group(str(i)) for i in range(49)], [group("1000")], source="log")
        with pytest.raises(InvalidRequest, match="0 validation queries"):
            train([group(str(i)) for i in range(60)], [], source="log")

    def test_a_query_on_both_sides_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="1 queries are in training and in validation"):
            train([group(str(i)) for i in range(60)], [group("59")], source="log")

    def test_many_different_gains_are_told_apart_coarsely(self) -> None:
        def dwelt(key: str) -> Group:
            g = group(key)
            return Group(key, g.ids, g.rows, np.where(g.gains > 0, g.rows[:, GOOD].astype(float), 0.0), g.baseline)

        result = train(
            [dwelt(str(i)) for i in range(80)], [dwelt(str(i)) for i in range(1000, 1020)], source="log", trees=20
        )
        assert result.promote
        booster = fit([dwelt(str(i)) for i in range(80)], [], 2, 2, 0, LISTWISE)
        assert len(booster.trees.params["label_gain"]) == MAX_LEVELS

    def test_what_was_not_retrieved_counts_against_the_measure(
        self, trained: Trained, groups: tuple[list[Group], list[Group]]
    ) -> None:
        lost = [replace(g, ideal=(*g.gains.tolist(), 3.0, 3.0, 3.0)) for g in groups[1]]
        metrics = train(groups[0], lost, source="labels", trees=30).meta["metrics"]
        assert metrics["ranker"]["mean"] < trained.meta["metrics"]["ranker"]["mean"] - 0.2


class TestParity:
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_values_at_the_thresholds_go_the_same_way(
        self, groups: tuple[list[Group], list[Group]], objective: str
    ) -> None:
        """Served thresholds are float32, trained ones float64: ask with each threshold's float32 neighbours."""
        booster = fit(groups[0], [], 20, 5, 0, objective)
        ranker = OnnxRanker(
            convert(booster),
            {"format": 1, "features": list(NAMES), "reference": [0.5] * len(NAMES)},
            "1",
        )
        text = booster.trees.model_to_string().splitlines()
        features = " ".join(line.removeprefix("split_feature=") for line in text if line.startswith("split_feature="))
        thresholds = " ".join(line.removeprefix("threshold=") for line in text if line.startswith("threshold="))
        rows = []
        for feature, threshold in zip(features.split(), thresholds.split(), strict=True):
            near = np.float32(threshold)
            for value in (np.nextafter(near, np.float32(-1)), near, np.nextafter(near, np.float32(2))):
                row = groups[0][0].rows[len(rows) % 20].copy()
                row[int(feature)] = value
                rows.append(row)
        table = np.array(rows, dtype=np.float32)
        assert len(table) > 500
        assert np.abs(booster.score(table) - ranker.score(table)).max() < 1e-5

    def test_thresholds_are_rounded_down(self) -> None:
        above = float(np.nextafter(np.float32(0.1), np.float32(0)))
        text = f"tree_sizes=1 2\nthreshold=0.1 0.5 -0.1 {1 / 3!r}\nleaf_value=0.1\n"
        kept = round_thresholds(text).splitlines()
        assert kept[1] == "leaf_value=0.1"
        values = [float(value) for value in kept[0].removeprefix("threshold=").split()]
        assert values[0] == above < 0.1 < float(np.float32(0.1))
        assert values[1] == 0.5
        assert values[2] == float(np.float32(-0.1)) < -0.1
        assert all(float(np.float32(value)) == value for value in values)

    def test_a_conversion_that_changes_scores_is_refused(self, groups: tuple[list[Group], list[Group]]) -> None:
        booster = fit(groups[0], [], 5, 5, 0)
        other = fit(groups[1], [], 5, 5, 0)
        meta = {"format": 1, "features": list(NAMES), "reference": [0.5] * len(NAMES)}
        ranker = OnnxRanker(convert(other), meta, "1")
        with pytest.raises(ModelInvalid, match="differs by"):
            parity(booster, ranker, groups[0][0].rows)


# --- from judged queries ------------------------------------------------------------------------------------------


def understood(text: str) -> Understanding:
    tokens = tuple(text.split())
    return Understanding(text, tokens, (), None, "en", (Interpretation(1.0, (), tokens),))


class TestLabels:
    def test_a_data_set_folder(self, tmp_path: Path) -> None:
        (tmp_path / "catalogue.jsonl").touch()
        (tmp_path / "queries.tsv").write_text(
            "query_id\tsplit\tslice\tuser_id\tweight\tquery\n"
            'q1\ttrain\ttitle\t\t1\tthe "matrix\n'
            "q2\tvalidation\tpersonal\tu1\t1\tdrama\n"
            "q3\ttest\ttitle\t\t1\talien\n"
            "q4\ttrain\ttitle\t\t1\tnothing good\n"
        )
        with gzip.open(tmp_path / "qrels.tsv.gz", "wt") as file:
            file.write("query_id\tdoc_id\tgrade\nq1\t603\t2\nq1\t604\t0\nq2\t1\t1\nq3\t9\t1\nq4\t9\t0\n")
        assert read_labels(tmp_path) == [
            Labelled("q1", "train", 'the "matrix', "title", None, {"603": 2.0, "604": 0.0}),
            Labelled("q2", "validation", "drama", "personal", "u1", {"1": 1.0}),
        ]

    def test_what_is_wrong_with_a_folder_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "catalogue.jsonl").touch()
        (tmp_path / "queries.tsv").write_text("query_id\tsplit\tquery\nq1\ttrain\talien\n")
        with pytest.raises(InvalidRequest, match=r"has no qrels\.tsv"):
            read_labels(tmp_path)
        (tmp_path / "qrels.tsv").write_text("query_id\tdoc\tgrade\nq1\t1\t1\n")
        with pytest.raises(InvalidRequest, match="doc_id"):
            read_labels(tmp_path)
        (tmp_path / "qrels.tsv").write_text("query_id\tdoc_id\tgrade\nq1\t1\tgood\n")
        with pytest.raises(InvalidRequest, match=r"qrels\.tsv, line 2: grade 'good' is not a number"):
            read_labels(tmp_path)

    async def test_groups_hold_gains_ideal_and_traffic_weight(self) -> None:
        async def search(query: Labelled) -> tuple[Context, Sequence[Pooled], Mapping[str, Any]]:
            pool = [Pooled("a", {}, 0.5), Pooled("b", {}, 0.25)]
            return Context(Query(query.text), understood(query.text), 0.0), pool, {}

        queries = [
            Labelled("q1", "train", "x", "title", None, {"b": 2.0, "lost": 1.0}),
            Labelled("q2", "train", "y", "title", None, {"a": 1.0}),
            Labelled("q3", "train", "z", "topic", None, {"a": 1.0}),
        ]
        first, second, third = await from_labels(queries, search, Schema(), {"title": 0.5, "topic": 0.5})
        assert first.ids == ("a", "b")
        assert first.gains.tolist() == [0.0, 3.0]
        assert sorted(first.ideal) == [1.0, 3.0]
        assert first.baseline.tolist() == [0.5, 0.25]
        assert (first.key, first.slice) == ("q1", "title")
        assert first.weight == second.weight == 0.75
        assert third.weight == 1.5
        assert [g.weight for g in await from_labels(queries, search, Schema())] == [1.0, 1.0, 1.0]


# --- from the event log -------------------------------------------------------------------------------------------


def impression(query_id: str, key: str, **more: Any) -> Impression:
    """Nobody's answer of "a", "b" and "c", each with a feature of its own."""
    shown = ("a", "b", "c")
    fields: dict[str, Any] = {
        **dict.fromkeys(("text", "normalized", "memory_key"), key),
        **dict.fromkeys(("user_id", "session_id", "client_id")),
        "options": (),
        "decision": Decision("static", "static", None, 0, {}),
        "lists": {},
        "degraded": (),
        "ranking": shown,
        "scores": (3.0, 2.0, 1.0),
        "shown": shown,
        "total": 3,
        "ranker": "passthrough",
        "rows": tuple(tuple(float(i == j) for j in range(len(NAMES))) for i in range(3)),
    }
    return make_impression(query_id, **(fields | more))


def action(
    query_id: str, object_id: str, name: str = "click", at: float = 1010.0, status: str = "accepted"
) -> Interaction:
    nobody = dict.fromkeys(("user_id", "session_id", "client_id"))
    event = {"query_id": query_id, "object_id": object_id, "action_name": name, "at": at, "status": status}
    return make_interaction(f"{query_id}-{object_id}-{name}", **(nobody | event))


async def read(
    folder: Path, records: Iterable[Record], cap: int = 1000, damaged: int = 0
) -> tuple[list[Group], list[Group]]:
    """Groups from a real log that holds `records`, the `damaged`-th of which cannot be read."""
    log = SqliteLog(folder / "log.sqlite")
    try:
        await asyncio.gather(*(log.append(record) for record in records))
        if damaged:
            with contextlib.closing(sqlite3.connect(folder / "log.sqlite")) as connection, connection:
                connection.execute("UPDATE log SET body = 'x' WHERE offset = ?", (damaged,))
        return await from_log(log, WEIGHTS, 1800.0, cap)
    finally:
        await log.close()


def many(n: int = 120) -> list[Record]:
    return [
        record for i in range(n) for record in (impression(f"i{i}", f"query {i}"), Tick(1001.0), action(f"i{i}", "b"))
    ]


ORDERS = ("abc", "bac", "cba")


class TestLog:
    async def test_clicks_become_gains_at_the_places_shown(self, tmp_path: Path) -> None:
        records = many()
        records += [
            impression("p", "special", offset=10),
            action("p", "c", "purchase"),
            action("p", "a"),
            action("p", "a", "dislike"),
        ]
        first, second = await read(tmp_path, records)
        (found,) = [g for g in (*first, *second) if g.key == "special"]
        assert found.ids == ("a", "b", "c")
        assert found.gains.tolist() == [0.0, 0.0, 1.0]
        assert found.examinations is not None
        assert found.examinations.tolist() == [examination(11), examination(12), examination(13)]
        assert np.argsort(-found.baseline).tolist() == [0, 1, 2]
        assert (found.rows == np.eye(3, len(NAMES), dtype=np.float32)).all()
        assert debiased(found)[2] == pytest.approx(1.0 / examination(13))
        assert {g.gains[1] for g in first if g.key != "special"} == {0.2}

    async def test_a_query_is_on_one_side_only(self, tmp_path: Path) -> None:
        records = many(300) + [
            record for i in range(300) for record in (impression(f"again{i}", f"query {i}"), action(f"again{i}", "a"))
        ]
        first, second = await read(tmp_path, records)
        assert len(first) + len(second) == 600
        assert 0.15 < len(second) / 600 < 0.25
        assert not {g.key for g in first} & {g.key for g in second}

    @pytest.mark.parametrize(
        "extra",
        [
            [impression("x", "special")],
            [impression("x", "special"), action("x", "a", at=1010.0 + 1801.0)],
            [impression("x", "special"), action("x", "a", status="late")],
            [impression("x", "special"), action("x", "a", "dislike")],
            [impression("x", "special"), action("x", "a", "unheard_of")],
            [impression("x", "special", learn=False), action("x", "a")],
            [impression("x", "special", rows=()), action("x", "a")],
            [impression("x", "special", rows=((0.0,) * (len(NAMES) + 1),) * 3), action("x", "a")],
            [impression("x", "", text="special"), action("x", "a")],
            [action("x", "a"), impression("x", "special")],
        ],
    )
    async def test_what_teaches_nothing_is_left_out(self, extra: list[Record], tmp_path: Path) -> None:
        first, second = await read(tmp_path, many() + extra)
        assert len(first) + len(second) == 120

    async def test_rows_from_before_the_last_features_are_filled_up(self, tmp_path: Path) -> None:
        old = impression("x", "special", rows=((7.0, 8.0),) * 3)
        first, second = await read(tmp_path, [*many(), old, action("x", "a")])
        (found,) = [g for g in (*first, *second) if g.key == "special"]
        assert found.rows.shape == (3, len(NAMES))
        assert found.rows[0, :3].tolist() == [7.0, 8.0, 0.0]

    async def test_one_loud_principal_counts_less(self, tmp_path: Path) -> None:
        records: list[Record] = [
            record
            for i in range(120)
            for record in (impression(f"i{i}", f"query {i}", client_id="bot"), action(f"i{i}", "b", at=1000.0 + i))
        ]
        first, second = await read(tmp_path, records, cap=10)
        gains = sorted(g.gains[1] for g in (*first, *second))
        assert gains[-10:] == [0.2] * 10
        assert gains[0] == pytest.approx(0.2 * (10 / 120) ** 2)

    async def test_a_damaged_record_costs_itself_alone(self, tmp_path: Path) -> None:
        first, second = await read(tmp_path, many(), damaged=1)
        assert len(first) + len(second) == 119

    async def test_too_few_are_counted_out_loud(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="30 queries and repeats with a wanted item"):
            await read(tmp_path, many(30))

    async def test_answers_to_one_query_are_put_together(self, tmp_path: Path) -> None:
        """The second and the third are one group, in which the one without a click counts as looks."""
        records = [*many(), *(impression(f"x{i}", "special", shown=tuple(ids)) for i, ids in enumerate(ORDERS))]
        first, second = await read(tmp_path, [*records, action("x0", "a"), action("x2", "a", "purchase")])
        one, two = [g for g in (*first, *second) if g.key == "special"]
        assert (one.ids, one.gains.tolist()) == (("a", "b", "c"), [0.2, 0.0, 0.0])
        assert (two.ids, two.gains.tolist()) == (("b", "a", "c"), [0.0, 1.0, 0.0])
        assert two.examinations is not None
        assert two.examinations[1] == pytest.approx(examination(2) + examination(3))
        assert two.baseline.tolist() == [-1.5, -2.5, -2.0]

    async def test_those_of_persons_are_kept_apart_and_all_together(self, tmp_path: Path) -> None:
        """Begun anew, the second group of a person would have as new, and not wanted, what they passed over."""

        def known(query_id: str, user_id: str, value: float) -> Impression:
            row = [0.0] * len(NAMES)
            row[NAMES.index("person_known")] = value
            return impression(query_id, "special", rows=(tuple(row),) * 3, user_id=user_id)

        for value, answers in ((1.0, [1, 3]), (0.0, [1, 2, 1])):
            folder = tmp_path / str(value)
            folder.mkdir()
            asked = [known(f"x{i}", user, value) for i, user in enumerate(("ann", "bob", "bob", "bob"))]
            first, second = await read(folder, [*many(), *asked, *(action(f"x{i}", "a") for i in range(4))])
            found = [g for g in (*first, *second) if g.key == "special"]
            assert [g.gains.tolist() for g in found] == [pytest.approx([0.2 * n, 0.0, 0.0]) for n in answers]

    async def test_dislikes_take_away_but_never_below_nothing(self, tmp_path: Path) -> None:
        records = [impression("x", "special"), action("x", "b"), action("x", "a", "dislike")]
        first, second = await read(tmp_path, many() + records)
        (found,) = [g for g in (*first, *second) if g.key == "special"]
        assert found.gains.tolist() == [0.0, 0.2, 0.0]


LOOKS = np.array([examination(position) for position in range(1, 21)])


def clicked(key: str) -> Group:
    """A list in an order for which FUSED, which says nothing of relevance, counts twice what GOOD does; clicked where
    looked at and relevant."""
    g = group(key, noise=0.15)
    shown = np.argsort(-(g.rows[:, FUSED] + 0.5 * g.rows[:, GOOD]))
    seen = np.random.default_rng(int(key) + 50_000).random(20) < LOOKS
    return Group(key, g.ids, g.rows[shown], g.gains[shown] * seen, -np.arange(1.0, 21.0), examinations=LOOKS)


@pytest.fixture(scope="module")
def clicks() -> tuple[list[Group], list[Group]]:
    training = [g for i in range(400) if (g := clicked(str(i))).gains.any()]
    return training, [g for i in range(1000, 1100) if (g := clicked(str(i))).gains.any()]


class TestDepth:
    """Depth of a model from clicks: items far below the first pages were never in its training data."""

    def test_twice_as_deep_as_pages_reach(self, clicks: tuple[list[Group], list[Group]]) -> None:
        assert train(*clicks, source="log", trees=2).meta["depth"] == 2 * 20
        shorter = [replace(g, baseline=np.maximum(g.baseline, -4.0)) for g in clicks[0]]
        assert train(shorter, clicks[1], source="log", trees=2).meta["depth"] == 2 * 4

    def test_judged_pools_are_seen_whole(self, trained: Trained) -> None:
        assert trained.meta["depth"] is None


class TestNeverLess:
    @pytest.mark.parametrize("name", sorted(MONOTONE_FEATURES))
    def test_more_is_never_worth_less(self, name: str, clicks: tuple[list[Group], list[Group]]) -> None:
        """Also where clicks say the contrary, which is noise or bias: here good items have little of it."""
        column = NAMES.index(name)
        turned = []
        for g in clicks[0]:
            rows = g.rows.copy()
            rows[:, column] = 1.0 - g.rows[:, GOOD]
            turned.append(replace(g, rows=rows))
        ensemble = fit(turned, [], 40, 10, 0)
        table = np.repeat(turned[0].rows[:1], 50, axis=0)
        table[:, column] = np.linspace(0.0, 1.0, 50)
        assert (np.diff(ensemble.score(table)) >= 0.0).all()


class TestPositionBias:
    def test_what_only_decides_the_place_is_believed_less(self, clicks: tuple[list[Group], list[Group]]) -> None:
        known = train(*clicks, source="log", trees=40)
        unknown = train([replace(g, examinations=np.ones(20)) for g in clicks[0]], clicks[1], source="log", trees=40)
        assert known.meta["fused_slope"] < 0.75 * unknown.meta["fused_slope"]
        assert known.promote

    def test_the_gate_counts_clicks_over_the_chance_to_be_seen(self, clicks: tuple[list[Group], list[Group]]) -> None:
        judged = train(*clicks, source="log", trees=2).meta["metrics"]
        worth = [(g.gains / LOOKS).tolist() for g in clicks[1]]
        shown, best = (sum(dcg(order) for order in orders) for orders in (worth, [sorted(w)[::-1] for w in worth]))
        assert judged["measure"] == "DCG"
        assert judged["baseline"]["mean"] == pytest.approx(shown / best)

    def test_the_gate_is_not_fooled_by_people_who_click_what_stands_first(self) -> None:
        """One answer a query, most of it noise: the rank of what was clicked speaks for the order that was shown."""
        generator = np.random.default_rng(5)
        places = np.arange(10)
        groups, truth = [], []
        for number in range(6000):
            wanted = generator.random(10) < 0.15
            shown = np.argsort(generator.normal(0, 1, 10) - 0.8 * wanted)
            better = generator.normal(0, 1, 10) - 1.6 * wanted
            chance = np.where(wanted, 0.6, 0.1)
            looks = LOOKS[:10]
            taken = generator.random(10) < looks * chance[shown]
            rows = np.zeros((10, len(NAMES)), np.float32)
            rows[:, GOOD] = -better[shown]
            order = np.argsort(better)
            truth.append(dcg(chance[order]) - dcg(chance[shown]))
            ids = tuple(str(i) for i in places)
            groups.append(Group(str(number), ids, rows, taken.astype(float), -places.astype(float), examinations=looks))
        groups = [g for g in groups if g.gains.any()]

        metrics, difference = judge(lambda group: group.rows[:, GOOD], groups)
        assert difference.low > 0.0
        assert difference.mean == pytest.approx(metrics["ranker"]["mean"] - metrics["baseline"]["mean"])
        naive = [
            ndcg(g.gains.tolist(), scores.tolist(), g.ids, gain=linear)
            for scores_of in (lambda g: g.rows[:, GOOD], lambda g: g.baseline)
            for g in groups
            for scores in (scores_of(g),)
        ]
        assert np.mean(naive[: len(groups)]) < np.mean(naive[len(groups) :]), "NDCG would have refused it"
        best = np.mean([dcg(sorted((g.gains / LOOKS[:10]).tolist(), reverse=True)) for g in groups])
        assert difference.low < np.sum(truth) / len(groups) / best < difference.high, (
            "and the difference is the true one"
        )

    def test_a_log_is_judged_as_a_whole_by_rankers_that_have_not_seen_the_query(
        self, clicks: tuple[list[Group], list[Group]]
    ) -> None:
        groups = [*clicks[0], *clicks[1]]
        whole = train_on_clicks(groups, trees=40)
        assert whole.promote
        assert whole.meta["queries"] == {"training": len(groups), "validation": len(groups)}
        assert train_on_clicks(groups, trees=40).files == whole.files
        width, narrower = (
            found.meta["metrics"]["difference"]["high"] - found.meta["metrics"]["difference"]["low"]
            for found in (train(*clicks, source="log", trees=40), whole)
        )
        assert narrower < 0.7 * width
        # What can only be known by heart is not believed: anything is clicked that is looked at.
        luck = np.random.default_rng(11)
        random = [replace(g, gains=(luck.random(20) < 0.3 * LOOKS).astype(float)) for g in groups]
        assert not train_on_clicks([g for g in random if g.gains.any()], trees=40).promote

    def test_too_little_is_said_before_anything_is_trained(self, clicks: tuple[list[Group], list[Group]]) -> None:
        with pytest.raises(InvalidRequest, match="too little"):
            train_on_clicks(clicks[0][:30])
