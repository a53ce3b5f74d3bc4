from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from app.settings import ACTION_WEIGHTS
from services.datasets.folder import Dataset, DatasetQuery, Judgment, write_folder
from services.errors import InvalidRequest
from services.rewards.rewards import reward
from services.simulation.click_models import Cascade, ClickModel, DynamicBayesian, PositionBased
from services.simulation.drift import Arrival, Drift, IntentSwap
from services.simulation.judge import Judge
from services.simulation.traffic import Search, Traffic, uniforms
from services.types import Interaction
from tests.builders.records import make_interaction
from tests.modules import MODULES, imports

JUDGMENTS = {"q1": {"a": 2.0, "b": 1.0, "c": 0.0}, "q2": {"x": 1.0, "y": 0.0}, "q3": {"n": 0.0}}
SLATE = ("c", "a", "unjudged", "b")
GRADES = [0.0, 2.0, 0.0, 1.0]
MODELS: tuple[ClickModel, ...] = (PositionBased(), Cascade(), DynamicBayesian())


def clicked(place: int, shown: Sequence[str]) -> Interaction:
    return make_interaction(f"e{place}", query_id="q", object_id=shown[place], position=place + 1)


class TestClicks:
    @pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
    def test_they_are_those_of_the_model_on_the_grades(self, model: ClickModel) -> None:
        judge = Judge(JUDGMENTS, model, seed=5)
        found = [judge.clicks(SLATE, "q1", index) for index in range(500)]
        assert found == [model.clicks(GRADES, uniforms(5, index, SLATE)) for index in range(500)]
        assert len(set(found)) > 3
        assert judge.clicks([], "q1", 0) == ()

    def test_an_item_has_the_same_luck_under_two_policies(self) -> None:
        """The same draw at the same place, whatever the other items are."""
        judge = Judge(JUDGMENTS, PositionBased(), seed=5)
        for index in range(300):
            one, other = judge.clicks(["a", "b", "c"], "q1", index), judge.clicks(["x", "b", "y", "a"], "q1", index)
            assert (1 in one) == (1 in other)

    def test_a_query_that_nobody_judged(self) -> None:
        judge = Judge(JUDGMENTS, PositionBased(noise=0.0), seed=5)
        assert [judge.clicks(["a", "x"], "unknown", index) for index in range(50)] == [()] * 50


class TestExpectedReward:
    @pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
    def test_it_is_what_clicks_earn_on_average(self, model: ClickModel) -> None:
        """Rewards by services.rewards.rewards with the service's own weights; within 4.5 standard errors."""
        judge = Judge(JUDGMENTS, model, seed=5, weights=ACTION_WEIGHTS)
        earned = np.array(
            [
                reward([clicked(place, SLATE) for place in judge.clicks(SLATE, "q1", index)], ACTION_WEIGHTS)
                for index in range(20_000)
            ]
        )
        error = float(earned.std() / math.sqrt(len(earned)))
        assert 0.0 < error < 0.001
        assert abs(judge.expected_reward(SLATE, "q1", 0) - earned.mean()) < 4.5 * error

    def test_by_hand(self) -> None:
        model = PositionBased(noise=0.1, attractiveness=(0.5, 1.0))
        third = 1 / math.log2(3)
        expected = 0.1 * 1 + 1.0 * third * third
        assert Judge(JUDGMENTS, model, 1).expected_reward(["c", "a"], "q1", 0) == pytest.approx(expected)
        weighted = Judge(JUDGMENTS, model, 1, weights={"click": 1.0, "purchase": -4.0})
        assert weighted.expected_reward(["c", "a"], "q1", 0) == pytest.approx(expected / 4)

    def test_the_best_slate_is_by_grade(self) -> None:
        drift = Drift((Arrival(10, frozenset("a")),))
        judge = Judge(JUDGMENTS, PositionBased(), 1, drift)
        assert judge.best_reward("q1", 10) == judge.expected_reward(["a", "b", "c"], "q1", 10)
        assert judge.best_reward("q1", 10, 1) == judge.expected_reward(["a"], "q1", 10)
        assert judge.best_reward("q1", 9) == judge.expected_reward(["b", "c"], "q1", 9)
        assert judge.best_reward("unknown", 9) == 0.0

    def test_the_best_slate_is_the_best_there_is(self) -> None:
        judge = Judge(JUDGMENTS, PositionBased(noise=0.0), 1)
        orders = [["a", "b", "c"], ["b", "a", "c"], ["a", "c", "b"], ["x", "a", "b"]]
        values = [judge.expected_reward(order, "q1", 0) for order in orders]
        assert max(values) == values[0] == judge.best_reward("q1", 0)
        assert values[0] > max(values[1:])

    def test_slates_are_not_endless(self) -> None:
        ids = [str(n) for n in range(1001)]
        judge = Judge(JUDGMENTS, PositionBased(), 1)
        assert judge.expected_reward(ids[:1000], "q1", 0) > 0
        with pytest.raises(IndexError, match="1001"):
            judge.expected_reward(ids, "q1", 0)


class TestMeasures:
    def test_they_are_of_the_grades(self) -> None:
        found = Judge(JUDGMENTS, PositionBased(), 1).measures(SLATE, "q1", 0)
        third, fifth = 1 / math.log2(3), 1 / math.log2(5)
        assert found == pytest.approx(
            {"ndcg@10": (3 * third + fifth) / (3 + third), "recall@100": 1.0, "judged@10": 0.75}
        )

    def test_what_is_absent_is_wanted_by_nobody(self) -> None:
        judge = Judge(JUDGMENTS, PositionBased(), 1, Drift((Arrival(10, frozenset("a")),)))
        assert judge.measures(["b"], "q1", 9, ("ndcg@10",)) == {"ndcg@10": 1.0}
        assert judge.measures(["b"], "q1", 10, ("ndcg@10",))["ndcg@10"] < 0.5

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="no measure 'luck@10'"):
            Judge(JUDGMENTS, PositionBased(), 1).measures(SLATE, "q1", 0, ("luck@10",))

    def test_what_can_be_answered(self) -> None:
        judge = Judge(JUDGMENTS, PositionBased(), 1, Drift(swaps=(IntentSwap(10, {"q1": "q3"}),)))
        assert [judge.has_relevant(name) for name in ("q1", "q2", "q3", "unknown")] == [True, True, False, False]
        assert [judge.has_relevant("q1", index) for index in (9, 10)] == [True, False]


def test_drift_changes_what_is_clicked() -> None:
    model = PositionBased(noise=0.0, attractiveness=(1.0, 1.0), eta=0.0)
    judge = Judge(JUDGMENTS, model, 1, Drift(swaps=(IntentSwap(10, {"q1": "q2"}), IntentSwap(20, {"q1": "q3"}))))
    slate = ["a", "x"]
    for _ in range(2):  # in any order of time
        assert judge.clicks(slate, "q1", 9) == (0,)
        assert judge.clicks(slate, "q1", 10) == (1,)
        assert judge.clicks(slate, "q1", 20) == ()
        assert judge.clicks(slate, "q2", 20) == (1,)
    assert judge.expected_reward(slate, "q1", 10) == pytest.approx(1 / math.log2(3))


class TestCovered:
    DEPTHS: Mapping[str, NDArray[np.int32]] = {
        "a": np.array([3, 999], np.int32),
        "b": np.array([20, 5], np.int32),
        "c": np.array([1, 1], np.int32),
    }
    PLANS = np.array([[0, 0], [5, 0], [0, 5], [5, 5], [25, 0]], np.int32)

    def test_an_item_counts_once_whichever_arm_reaches_it(self) -> None:
        found = Judge(JUDGMENTS, PositionBased(), 1).plan_recall(self.DEPTHS, self.PLANS, "q1")
        assert found.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]

    def test_no_more_than_k_are_wanted(self) -> None:
        found = Judge(JUDGMENTS, PositionBased(), 1).plan_recall(self.DEPTHS, self.PLANS, "q1", k=1)
        assert found.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]

    def test_nothing_is_wanted_of_a_query_that_nobody_judged(self) -> None:
        assert Judge(JUDGMENTS, PositionBased(), 1).plan_recall(self.DEPTHS, self.PLANS, "q3").tolist() == [0.0] * 5


def test_it_is_made_of_a_folder(tmp_path: Path) -> None:
    queries = [DatasetQuery("q1", "train", "one")]
    write_folder(tmp_path, [{"id": "a"}], queries, [Judgment("q1", "a", 2.0)])
    dataset = Dataset.open(tmp_path)
    judge = Judge.from_dataset(dataset, PositionBased(), 3, Drift((Arrival(5, frozenset("a")),)), ACTION_WEIGHTS)
    assert judge.expected_reward(["a"], "q1", 0) == pytest.approx(0.9 * 0.2)
    assert judge.best_reward("q1", 4) == 0.0


# --- nobody else knows --------------------------------------------------------------------------------------------

WAYS_TO_GRADES = {
    *("judgments", "qrels", "read_qrels", "read_labels", "Judgment", "QRELS", "grades"),
    *("_Judge__judgments", "_Judge__eras", "_Judge__of", "_Judge__at"),
}
"""Names by which grades can be had; as attributes, imported names, and strings (getattr)."""
READERS = {
    "services.simulation.judge": "the simulated user",
    "services.evaluation.compare": "tables of runs over judged queries",
    "services.models.ranker.rows": "training of the ranker by labels",
    "app.cli.trainers": "hands labels to that training",
    "app.cli.evaluate": "hands labels to those tables",
}
"""Who may use such a name, and what for; besides, data sets are made and read in `services.datasets` and
`services.datasets.sample`. Nothing that simulates, serves or learns from clicks may ever stand here."""
OUTSIDE = ("services.datasets.", "services.datasets.sample.")
USERS = ("services.simulation.traffic", "services.simulation.click_models")
COMMAND_LINE = "app.__main__"
SIMULATION = ("services.simulation.", "app.cli.simul", "app.simulation.", "evaluation.studies.")
"""Beginnings of the names of modules that simulate."""


QRELS_FILE = "qrels.tsv"


def ways_to_grades(source: str) -> set[str]:
    """Names in `source` by which it could have grades; parameters and variables of a function are none."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] + [QRELS_FILE] * node.value.startswith(QRELS_FILE)
        found.update(name for name in names if name in WAYS_TO_GRADES or name == QRELS_FILE)
    return found


def closure(module: str) -> set[str]:
    """All that `module` imports, in turn. Not by way of the command line, which has every command, and which workers
    begin with."""
    reached, ahead = {module, COMMAND_LINE}, [module]
    while ahead:
        for imported in imports(ahead.pop()) & MODULES.keys():
            if imported not in reached:
                reached.add(imported)
                ahead.append(imported)
    return reached


class TestNobodyElseKnows:
    @pytest.mark.parametrize("module", sorted(MODULES))
    def test_no_other_module_reads_grades(self, module: str) -> None:
        if module in READERS or module.startswith(OUTSIDE):
            return
        assert not ways_to_grades(MODULES[module].read_text("utf-8")), f"{module} reads grades; see READERS"

    def test_readers_do_read(self) -> None:
        """The list must match the code."""
        idle = [m for m in READERS if m in MODULES and not ways_to_grades(MODULES[m].read_text("utf-8"))]
        assert not idle

    @pytest.mark.parametrize(
        "source",
        [
            "dataset.judgments()",
            "list(dataset.qrels())",
            "getattr(dataset, 'judgments')",
            "from services.models.ranker.rows import read_labels",
            "rows.read_labels(folder)",
            "from services.datasets.folder import Judgment as Verdict",
            "labelled.grades",
            "judge._Judge__judgments",
            "table(folder / 'qrels.tsv.gz')",
        ],
    )
    def test_the_check_sees_them(self, source: str) -> None:
        assert ways_to_grades(source)
        assert not ways_to_grades("def clicks(grades): return [grade for grade in grades]")

    def test_nobody_who_serves_or_learns_has_the_judge(self) -> None:
        for module in (
            "app.http.application",
            "app.system.wiring",
            "services.learning.learner",
            "services.policies.vw",
            "services.memory.scores",
        ):
            secrets = {m for m in closure(module) if m in ("services.simulation.judge", "services.simulation.drift")}
            assert not secrets, f"{module} reaches {secrets}"

    def test_only_simulations_have_the_judge(self) -> None:
        for module in MODULES:
            if "services.simulation.judge" in imports(module):
                assert module.startswith(SIMULATION), f"{module} imports the judge"

    def test_users_and_their_clicks_know_no_reader(self) -> None:
        for module in USERS:
            assert not closure(module) & READERS.keys(), module
        assert "services.models.ranker.rows" in closure("app.cli.trainers")

    def test_no_grade_is_attached_to_what_goes_round(self) -> None:
        for what in (DatasetQuery, Search):
            assert not {name for name in (f.name for f in fields(what)) if "grade" in name or "relevan" in name}

    def test_the_judge_gives_out_clicks_and_figures_only(self) -> None:
        judge = Judge(JUDGMENTS, PositionBased(), 1)
        public = {name for name in dir(judge) if not name.startswith("_")}
        assert public == {
            "from_dataset",
            "clicks",
            "expected_reward",
            "best_reward",
            "measures",
            "plan_recall",
            "has_relevant",
        }
        given = {name: inspect.signature(getattr(judge, name)).return_annotation for name in public - {"from_dataset"}}
        assert given == {
            "clicks": "tuple[int, ...]",
            "expected_reward": "float",
            "best_reward": "float",
            "measures": "dict[str, float]",
            "plan_recall": "NDArray[np.float64]",
            "has_relevant": "bool",
        }


# --- and it makes no difference -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ForcedClicks:
    """Clicks every fifth item or so, by luck alone."""

    chance: float = 0.2

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        return tuple(place for place, uniform in enumerate(uniforms) if uniform < self.chance)

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        return np.ones(len(grades))

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        return np.full(len(grades), self.chance)


def inverted(judgments: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Another table over the same pairs: what was irrelevant is best, what was best is irrelevant."""
    top = max((grade for grades in judgments.values() for grade in grades.values()), default=0.0)
    return {name: {item: top - grade for item, grade in grades.items()} for name, grades in judgments.items()}


def assert_blind_to_grades(
    run: Callable[[Judge], bytes],
    judgments: Mapping[str, Mapping[str, float]],
    *,
    seed: int = 0,
    drift: Drift | None = None,
) -> None:
    """`run` (a whole simulation: what it decided, showed and learned, as bytes; no figures about it) comes to the same
    bytes whatever the grades are as long as the clicks are the same, and to others when clicks follow the grades.

    The second half guards the first: a run that never asks its judge, or is not repeatable, would prove nothing.
    """
    tables = (judgments, inverted(judgments))
    one, other = (run(Judge(table, ForcedClicks(), seed, drift)) for table in tables)
    assert one == other, "grades reached the run by another way than clicks"
    following = [run(Judge(table, PositionBased(), seed, drift)) for table in tables]
    assert following[0] != following[1], "the run does not depend on its clicks"


def learning(judge: Judge, peeks: Callable[[str, int], float] = lambda item, index: 0.0) -> bytes:
    """A run in small: items are ordered by their clicks so far (and by what `peeks` at)."""
    traffic = Traffic([DatasetQuery("q1", "train", "one"), DatasetQuery("q2", "train", "two")], seed=4)
    counts: dict[str, dict[str, float]] = {"q1": dict.fromkeys("abc", 0.0), "q2": dict.fromkeys("xy", 0.0)}
    shown = []
    for search in islice(traffic.since(), 300):
        known = counts[search.query.query_id]
        slate = sorted(known, key=lambda item: (-known[item] - peeks(item, search.index), item))
        for place in judge.clicks(slate, search.query.query_id, search.index):
            known[slate[place]] += 1.0
        shown.append(slate)
    return orjson.dumps([shown, counts])


class TestBlindness:
    def test_a_run_that_learns_from_clicks_alone_is_blind(self) -> None:
        assert_blind_to_grades(learning, JUDGMENTS)
        assert_blind_to_grades(learning, JUDGMENTS, seed=3, drift=Drift(swaps=(IntentSwap(50, {"q1": "q2"}),)))

    def test_a_run_that_looks_at_figures_is_found_out(self) -> None:
        def cheating(judge: Judge) -> bytes:
            return learning(judge, lambda item, index: judge.measures([item], "q1", index)["ndcg@10"])

        with pytest.raises(AssertionError, match="by another way"):
            assert_blind_to_grades(cheating, JUDGMENTS)

    def test_a_run_that_asks_nobody_proves_nothing(self) -> None:
        with pytest.raises(AssertionError, match="does not depend"):
            assert_blind_to_grades(lambda judge: b"the same", JUDGMENTS)
