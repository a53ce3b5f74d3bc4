"""`ltrr simulate` on a tiny data set folder: tracks of which people want others than those that are found first."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from app.__main__ import main
from app.cli.simulate import _rows
from app.cli.train import train_encoders, train_model
from app.offline.rank_fusion import reciprocal_rank_fusion
from app.offline.sandbox import PolicySearch
from app.operations.client import Client
from app.settings import Settings
from app.simulation import in_process as simulation
from app.simulation import recall_frontier as simulated_frontier
from app.simulation import runs as simulated_runs
from app.simulation.changes import Changes, LateArrivals
from app.simulation.in_process import InProcessService, World, open_copy, prepare
from app.simulation.ranker_training import with_ranker
from app.simulation.recall_frontier import frontier, policy_point, probe_queries
from app.simulation.runs import BASELINES, DEFAULT_ROWS, LEARNED, STATIC, RunSpec, is_finished, run, run_path
from app.system.model_kinds import RANKER
from app.system.policies import fixed_policy
from app.system.stores import model_store
from app.telemetry.progress import Progress
from services.backends.files import copy_sparse
from services.datasets.folder import Dataset, DatasetQuery, HistoryEvent, Judgment, write_folder
from services.errors import InvalidRequest
from services.policies.base import Outcome
from services.policies.fixed import FixedPolicy
from services.rankers.onnx import OnnxRanker
from services.search.slate import slate
from services.simulation.click_models import click_model
from services.simulation.drift import IntentSwap, Outage
from services.simulation.judge import Judge
from services.simulation.loop import RunMetrics, SearchOutcome, simulate
from services.simulation.recall_frontier import Point
from services.simulation.traffic import Search, Traffic
from services.types import ArmChoice, ArmOption, Query
from tests.builders.catalogue import ARTISTS, TRACKS, WORDS
from tests.commands import called, failed
from tests.simulation.test_judge import assert_blind_to_grades

SETTINGS = Settings.load({}, attribution_seconds=60.0, exploration=0.2)


def tracks_folder(folder: Path) -> Path:
    """Queries of two words; wanted are the tracks named after one of them alone, which no engine shows first. Test asks
    the same words in another order; persons ask for artists."""
    queries: list[DatasetQuery] = []
    judgments: list[Judgment] = []
    for i, word in enumerate(WORDS):
        wanted = [t["id"] for t in TRACKS if t["title"] == f"{word} Song"]
        for j, other in enumerate(WORDS[i + 1 : i + 4]):
            for split, text in (
                ("train", f"{word} {other}"),
                ("test", f"{other} {word}"),
                ("validation", f"{word} {other} song"),
            ):
                query_id = f"{split}-{i}-{j}"
                kind = ("title", "topic")[(i + j) % 2]
                queries.append(DatasetQuery(query_id, split, text.lower(), kind, weight=1.0 + j))
                judgments += [Judgment(query_id, object_id, 2.0) for object_id in wanted]
    for number, artist in enumerate(ARTISTS):
        for split in ("train", "validation", "test"):
            query_id = f"{split}-p{number}"
            queries.append(DatasetQuery(query_id, split, artist.lower(), "personal", f"u{number}"))
            judgments += [Judgment(query_id, t["id"], 1.0) for t in TRACKS[number::25]]
    queries.append(DatasetQuery("test-nothing", "test", "nothing", "title"))
    history = [HistoryEvent(f"u{i % 5}", TRACKS[i]["id"], "play", 1.7e9 + i) for i in range(60)]
    write_folder(folder, TRACKS, queries, judgments, history)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tracks_folder(tmp_path_factory.mktemp("data") / "tracks")


@pytest.fixture(scope="module")
async def prepared(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "prepared"
    with Progress() as progress:
        await prepare(SETTINGS, data, folder, train_encoders, progress)
    return folder


@pytest.fixture
def spec(data: Path, prepared: Path, tmp_path: Path) -> RunSpec:
    return RunSpec(data, prepared, tmp_path / "work", tmp_path / "out", impressions=60, every=5)


def arrays(spec: RunSpec, row: str, seed: int = 1) -> dict[str, Any]:
    with np.load(run_path(spec, row, seed).with_suffix(".npz")) as found:
        return dict(found)


class Watching:
    """A service that takes down what was asked and shown."""

    def __init__(self, service: InProcessService) -> None:
        self._service = service
        self.searches: list[Search] = []
        self.shown: list[SearchOutcome] = []

    async def search(self, search: Search) -> SearchOutcome:
        found = await self._service.search(search)
        self.searches.append(search)
        self.shown.append(found)
        return found

    async def send_feedback(self, events: list[dict[str, Any]]) -> None:
        await self._service.send_feedback(events)

    async def learn(self, publish: bool = True) -> None:
        await self._service.learn(publish)


async def run_simulation(
    data: Path,
    prepared: Path,
    work: Path,
    judge: Judge,
    impressions: int,
    world: World | None = None,
    after: Callable[[World, int], None] = lambda world, done: None,
) -> tuple[Watching, RunMetrics, bytes]:
    """(what happened, what it came to, the policy at the end)."""
    world = world or World(1)
    queries = list(Dataset.open(data).queries("train"))
    async with open_copy(SETTINGS, prepared, work, world) as (system, service):
        watching = Watching(service)

        metrics = await simulate(watching, Traffic(queries, 1), judge, impressions, progress=partial(after, world))
        await service.learn()
        return watching, metrics, system.learner.policy.policy.dump()  # type: ignore[union-attr]


def command(data: Path, folder: Path, *more: str) -> tuple[str | Path, ...]:
    spec = ("--impressions", "60", "--every", "5", "--out", folder / "out")
    return ("simulate", "--data", data, *spec, "--work", folder / "work", *more)


def simulated_with(data: Path, prepared: Path, folder: Path, *more: str) -> dict[str, Any]:
    """Results of a short simulation."""
    shutil.copytree(prepared, folder / "work" / "prepared", copy_function=copy_sparse)
    done = called(folder / "var", *command(data, folder, *more, "--json"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def ended(data: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """(folder of the results, results, what was printed beside them)."""
    folder = tmp_path_factory.mktemp("command")
    shutil.copytree(prepared, folder / "work" / "prepared", copy_function=copy_sparse)
    done = called(folder / "var", *command(data, folder, "--rows", "static,LTRR", "--jobs", "2", "--json"))
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


class TestCommand:
    def test_results_are_printed_and_written(self, ended: tuple[Path, dict[str, Any], str]) -> None:
        folder, results, _ = ended
        assert json.loads((folder / "out" / "results.json").read_text()) == results
        assert (results["impressions"], results["seeds"]) == (60, [1])
        assert (results["clicks"], results["noise"]) == ("position", 0.1)
        lines = [line for line in results["lines"] if line["part"] == "all"]
        assert [(line["row"], line["policy"]) for line in lines] == [
            ("static", "serving"),
            ("LTRR", "serving"),
            ("LTRR", "greedy"),
        ]
        assert {line["part"] for line in results["lines"]} == {"all", "personal", "title", "topic"}
        assert [line["difference"] is None for line in lines] == [True, False, False]
        assert 0.0 < lines[0]["ndcg"]["mean"] < 1.0
        assert set(results["spread"]) == {"static, seed 1", "LTRR, seed 1"}
        assert results["spread"]["static, seed 1"]["lexical"] == {"50": 1.0}
        assert [(window["first"], window["last"]) for window in results["windows"]] == [(0, 60)]

    def test_recall_for_candidates_is_told(self, ended: tuple[Path, dict[str, Any], str]) -> None:
        folder, results, _ = ended
        assert "### recall for candidates" in (folder / "out" / "table.md").read_text()
        points = {(line["budget"], line["by"]): line for line in results["frontier"]}
        for budget in (10, 25, 50, 100):
            best = (
                points[budget, "best static"],
                points[budget, "best told the slice"],
                points[budget, "oracle a query"],
            )
            assert best[2]["recall"] >= best[0]["recall"]
            assert best[2]["recall"] >= best[1]["recall"] - 0.05
            assert best[2]["candidates"] <= budget + 1e-6
        assert points[100, "best static"]["recall"] >= points[10, "best static"]["recall"]
        (greedy,) = (x for x in results["lines"] if (x["policy"], x["part"]) == ("greedy", "all"))
        learned = points[None, "learned"]
        assert learned["recall"] == pytest.approx(greedy["recall"]["mean"], abs=1e-6)
        assert learned["candidates"] == pytest.approx(greedy["candidates"])

    def test_a_table_and_plots_are_written(self, ended: tuple[Path, dict[str, Any], str]) -> None:
        folder, _, _ = ended
        text = (folder / "out" / "table.md").read_text()
        assert text.startswith("60 impressions per run, seeds 1.\n\n| row ")
        assert "NDCG@10 - static" in text
        assert "### personal" in text
        assert "Windows of impressions" in text
        for name in ("reward", "regret", "candidates"):
            drawn = (folder / "out" / f"{name}.svg").read_text()
            assert "static" in drawn
            assert "LTRR" in drawn

    def test_finished_runs_are_not_run_again(self, data: Path, ended: tuple[Path, dict[str, Any], str]) -> None:
        folder, _, _ = ended
        before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "runs").iterdir()}
        names = {"static-1.json", "static-1.npz", "LTRR-1.json", "LTRR-1.npz"}
        assert {path.name for path in before} == names
        again = called(folder / "var", *command(data, folder, "--rows", "static,LTRR,no memory"))
        assert again.returncode == 0, again.stderr
        after = {path: path.stat().st_mtime_ns for path in (folder / "out" / "runs").iterdir()}
        assert {path.name for path in after} == names | {"no-memory-1.json", "no-memory-1.npz"}
        assert {path: after[path] for path in before} == before
        assert again.stdout == (folder / "out" / "table.md").read_text()
        assert "no memory" in again.stdout

    def test_nothing_that_serves_is_touched(self, ended: tuple[Path, dict[str, Any], str]) -> None:
        folder, _, _ = ended
        assert not (folder / "var").exists() or not list((folder / "var").iterdir())
        assert [path.name for path in (folder / "work").iterdir()] == ["prepared"], "runs leave no folder behind"

    def test_wrong_use_is_refused_at_once(self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        spec = ("simulate", "--out", tmp_path / "out", "--data")
        assert "no such folder" in failed(2, tmp_path, *spec, tmp_path / "nowhere")
        assert "at least 1" in failed(2, tmp_path, *spec, data, "--impressions", "0")
        assert "at least 1" in failed(2, tmp_path, *spec, data, "--jobs", "0")
        for option, value, said in (
            ("--rows", "static,best", "no row 'best'; the rows are static, LTRR, random"),
            ("--seeds", "1,two", "whole numbers"),
            ("--clicks", "random", "invalid choice"),
        ):
            err = io.StringIO()
            with pytest.raises(SystemExit) as ended, contextlib.redirect_stderr(err):
                main([*map(str, spec), str(data), option, value])
            assert ended.value.code == 2
            assert said in err.getvalue()
        assert not (tmp_path / "out").exists()

    def test_data_that_nothing_can_be_learned_from_is_refused_before_the_long_work(
        self, data: Path, tmp_path: Path
    ) -> None:
        def said(queries: Sequence[DatasetQuery], judgments: Sequence[Judgment]) -> str:
            folder = tmp_path / f"tracks-{judgments[0].grade:.0f}"
            write_folder(folder, TRACKS[:20], queries, judgments, [])
            return failed(1, tmp_path / "var", "simulate", "--data", folder, "--out", tmp_path / "out")

        train = DatasetQuery("q", "train", "river")
        assert "no query of the split 'train'" in said([train], [Judgment("q", TRACKS[0]["id"], 0.0)])
        assert "no query of the split 'test'" in said([train], [Judgment("q", TRACKS[0]["id"], 1.0)])
        (tmp_path / "tracks").mkdir()
        shutil.copy(next(data.glob("catalogue*")), tmp_path / "tracks")
        alone = failed(1, tmp_path / "var", "simulate", "--data", tmp_path / "tracks", "--out", tmp_path / "out")
        assert "has no qrels.tsv" in alone
        assert not (tmp_path / "out").exists()

    def test_every_row_is_told(self, tmp_path: Path) -> None:
        out = io.StringIO()
        with pytest.raises(SystemExit), contextlib.redirect_stdout(out):
            main(["simulate", "--help"])
        assert all(row.name in out.getvalue() for row in (*DEFAULT_ROWS, *BASELINES))
        assert _rows("all") == (*DEFAULT_ROWS, *BASELINES)


async def test_what_runs_share_is_there_before_they_begin(prepared: Path, data: Path) -> None:
    """Two that make it at the same time lock each other out."""
    for path in prepared.glob(f"{simulation.LISTS}*"):
        path.unlink()
    with Progress() as progress:
        await prepare(SETTINGS, data, prepared, train_encoders, progress)
    assert (prepared / simulation.LISTS).exists()


class TestRuns:
    def test_a_seed_gives_the_same_bytes(self, spec: RunSpec, tmp_path: Path) -> None:
        other = replace(spec, out=tmp_path / "other", work=tmp_path / "elsewhere")
        assert not is_finished(spec, LEARNED, 1)
        for where in (spec, other):
            run(SETTINGS, where, LEARNED, 1)
        assert is_finished(spec, LEARNED, 1)
        one, two = arrays(spec, LEARNED), arrays(other, LEARNED)
        assert one.keys() == two.keys()
        assert {name: array.tobytes() for name, array in one.items()} == {n: a.tobytes() for n, a in two.items()}
        facts = orjson.loads(run_path(spec, LEARNED, 1).with_suffix(".json").read_bytes())
        assert facts == orjson.loads(run_path(other, LEARNED, 1).with_suffix(".json").read_bytes())
        run(SETTINGS, spec, LEARNED, 2)
        assert arrays(spec, LEARNED, 2)["reward"].tobytes() != one["reward"].tobytes()

    def test_rows_live_through_the_same_searches(self, spec: RunSpec) -> None:
        for row in (STATIC, LEARNED, "random", "no context"):
            run(SETTINGS, spec, row, 1)
        static = arrays(spec, STATIC)
        for row in (LEARNED, "random", "no context"):
            other = arrays(spec, row)
            for same in ("slices", "best", "test_slices_60", "test_weights_60"):
                assert other[same].tobytes() == static[same].tobytes(), (row, same)
            assert other["candidates"].tobytes() != static["candidates"].tobytes()
        assert len(static["reward"]) == 60
        assert np.all(static["reward"] <= static["best"] + 1e-12)
        assert set(static["slices"]) == {"title", "topic", "personal"}

    def test_what_is_asked_at_the_end_is_what_nobody_asked_before(
        self, spec: RunSpec, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judged: list[DatasetQuery] = []
        real = simulated_runs._measure_queries

        async def noted(*arguments: Any) -> Any:
            judged.extend(arguments[3])
            return await real(*arguments)

        monkeypatch.setattr(simulated_runs, "_measure_queries", noted)
        run(SETTINGS, spec, STATIC, 1)
        of_test = [query for query in Dataset.open(data).queries("test") if query.query_id != "test-nothing"]
        assert judged == of_test[::5]
        found = arrays(spec, STATIC)
        assert found["test_slices_60"].tolist() == [query.slice for query in judged]
        assert found["test_serving_60"].shape == (len(judged), 3)
        assert "test_greedy_60" not in found, "it never explores"
        assert found["test_weights_60"].mean() == pytest.approx(1.0)
        assert set(found["test_serving_60"][:, 2]) <= {85.0, 95.0, 110.0, 120.0}, "the static mix"

    def test_exploration_is_in_what_serves_and_not_in_the_greedy_figures(self, spec: RunSpec) -> None:
        def candidates(row: str) -> tuple[Any, Any]:
            run(SETTINGS, spec, row, 1)
            found = arrays(spec, row)
            return found["test_serving_60"][:, 2].tolist(), found["test_greedy_60"][:, 2].tolist()

        serving, greedy = candidates(LEARNED)
        assert serving != greedy
        serving, greedy = candidates("no exploration")
        assert serving == greedy

    def test_the_row_without_context_is_told_nothing(self, spec: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        worlds: list[World] = []
        real = simulated_runs.open_copy

        def noted(*arguments: Any) -> Any:
            worlds.append(arguments[3])
            return real(*arguments)

        monkeypatch.setattr(simulated_runs, "open_copy", noted)
        short = replace(spec, impressions=5, every=30)
        run(SETTINGS, short, "no context", 1)
        run(SETTINGS, short, LEARNED, 1)
        assert [world.hide_context for world in worlds] == [True, False]

    def test_an_arm_alone_is_asked_for_much_and_the_others_for_no_more_than_an_answer_needs(
        self, spec: RunSpec
    ) -> None:
        run(SETTINGS, spec, "vector alone", 1)
        spread = orjson.loads(run_path(spec, "vector alone", 1).with_suffix(".json").read_bytes())["spread"]
        assert spread["vector"] == {"100": 1.0}
        assert all(set(spread[arm]) == {"0"} for arm in spread if arm != "vector")
        run(SETTINGS, spec, "structured alone", 1)
        spread = orjson.loads(run_path(spec, "structured alone", 1).with_suffix(".json").read_bytes())["spread"]
        assert set(spread["structured"]) == {"0", "100"}
        assert spread["lexical"] == {"0": spread["structured"]["100"], "5": spread["structured"]["0"]}

    async def test_lists_can_be_put_together_by_ranks_alone(self, prepared: Path, tmp_path: Path) -> None:
        async def orders(world: World) -> tuple[list[str], list[str]]:
            async with open_copy(SETTINGS, prepared, tmp_path / "work", world, fixed_policy(SETTINGS)) as (system, _):
                found = await PolicySearch(system, fixed_policy(SETTINGS)).collect(
                    DatasetQuery("q", "test", "river garden")
                )
                by_ranks = reciprocal_rank_fusion(found.lists)
                return [p.object_id for p in found.pool], [p.object_id for p in by_ranks]

        pool, by_ranks = await orders(World(1, fuse_by_rank=True))
        assert pool[: len(by_ranks)] == by_ranks
        usual, _ = await orders(World(1))
        assert usual != pool
        assert sorted(usual) == sorted(pool)

    def test_a_row_without_an_arm_asks_it_nothing(self, spec: RunSpec) -> None:
        run(SETTINGS, spec, "no memory", 1)
        facts = orjson.loads(run_path(spec, "no memory", 1).with_suffix(".json").read_bytes())
        assert facts["spread"]["memory"] == {"0": 1.0}
        assert facts["degraded"] == 0

    def test_a_run_that_breaks_off_leaves_nothing_that_looks_finished(
        self, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(*arguments: Any) -> None:
            raise RuntimeError("out of luck")

        monkeypatch.setattr(simulated_runs, "_measure_queries", broken)
        with pytest.raises(RuntimeError, match="out of luck"):
            run(SETTINGS, spec, STATIC, 1)
        assert not is_finished(spec, STATIC, 1)
        assert not list(spec.work.iterdir())

    def test_an_arm_that_is_dead_degrades_answers_while_it_is(self, spec: RunSpec) -> None:
        outage = replace(spec, changes=Changes((Outage("lexical", 20, 40),)))
        run(SETTINGS, outage, STATIC, 1)
        facts = orjson.loads(run_path(outage, STATIC, 1).with_suffix(".json").read_bytes())
        assert facts["degraded"] == 20


class TestSpared:
    """Steps that a simulation leaves out do not change what is served."""

    async def test_whole_rows_and_highlights_would_give_the_same(
        self, data: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def taken_down() -> list[tuple[Any, ...]]:
            judge = Judge.from_dataset(Dataset.open(data), click_model("position"), 1)
            watching, metrics, _ = await run_simulation(data, prepared, tmp_path / "work", judge, 60)
            return [(shown.slate, shown.counts) for shown in watching.shown] + [tuple(metrics.reward)]

        spared = await taken_down()
        spec: set[str] = set()
        real = simulation.rows

        def whole(*arguments: Any) -> Any:
            spec.add("rows")
            return real(*arguments)

        def presented(*arguments: Any) -> Any:
            spec.add("slate")
            return slate(*arguments)

        monkeypatch.setattr(simulation, "PassthroughRanker", type(None))
        monkeypatch.setattr(simulation, "rows", whole)
        monkeypatch.setattr(simulation, "_without_highlights", presented)
        monkeypatch.setattr(simulation, "LISTS", "other.sqlite3")
        assert await taken_down() == spared
        assert spec == {"rows", "slate"}
        assert (prepared / "lists.sqlite3").exists()
        assert (prepared / "other.sqlite3").exists()


class TestChanges:
    def test_an_arm_that_dies_is_measured_by_policies_to_which_that_did_not_happen(
        self, data: Path, prepared: Path, tmp_path: Path
    ) -> None:
        found = simulated_with(data, prepared, tmp_path, "--rows", "LTRR", "--kill", "lexical:10:40")
        rows = {line["row"] for line in found["lines"]}
        assert rows == {"LTRR", "LTRR unharmed", "LTRR without lexical"}
        assert found["spread"]["LTRR without lexical, seed 1"]["lexical"] == {"0": 1.0}
        died, returned = found["recoveries"]
        assert (died["arm"], died["dies"], died["reference"]) == ("lexical", True, "LTRR without lexical")
        assert (returned["arm"], returned["dies"], returned["reference"]) == ("lexical", False, "LTRR unharmed")
        assert [(window["first"], window["last"]) for window in died["windows"]] == [(10, 40)]
        assert [(window["first"], window["last"]) for window in returned["windows"]] == [(40, 60)]
        assert set(found["changes"]) == {"10", "40"}
        shares = found["changes"]["10"]
        assert shares["LTRR"]["500 before"] == shares["LTRR unharmed"]["500 before"]
        assert shares["LTRR"]["first 500 after"] != shares["LTRR unharmed"]["first 500 after"]
        assert "### outages" in (tmp_path / "out" / "table.md").read_text()
        degraded = {
            row: orjson.loads((tmp_path / "out" / "runs" / f"{row}-1.json").read_bytes())["degraded"]
            for row in ("LTRR", "LTRR-unharmed", "LTRR-without-lexical")
        }
        assert degraded["LTRR"] > 10
        assert degraded["LTRR-unharmed"] == degraded["LTRR-without-lexical"] == 0

    async def test_items_arrive_in_waves(self, data: Path, prepared: Path, tmp_path: Path) -> None:
        changes = Changes(new_items=0.5)
        dataset = Dataset.open(data)
        drift = changes.drift(dataset, 100)
        assert changes.moments(100) == [20, 40, 60, 80]
        assert [len(drift.missing_items(index)) == 0 for index in (0, 79, 80)] == [False, False, True]
        assert 0.3 < len(drift.missing_items(0)) / len(TRACKS) < 0.7

        async def there() -> list[tuple[int, set[str], int]]:
            """(items in the catalogue, what a search finds, all that match it) before any and after every wave."""
            found = []
            async with open_copy(SETTINGS, prepared, tmp_path / "work", World(1)) as (system, service):
                late_arrivals = LateArrivals(dataset.documents(), drift)
                await late_arrivals.remove_all(service)
                for index in (0, 20, 79, 80):
                    await late_arrivals.add_arrived(service, index)
                    answer = await system.search.search(Query("river winter", limit=100, timeout=10.0))
                    hits = {hit.object_id for hit in answer.hits}
                    found.append((await system.items.count(), hits, answer.total))
            return found

        found = await there()
        for (count, hits, _), index in zip(found, (0, 20, 79, 80), strict=True):
            absent = drift.missing_items(index)
            assert count == len(TRACKS) - len(absent)
            assert not hits & absent
        assert found[-1][1] & drift.missing_items(0), "what arrived is found"
        totals = [total for _, _, total in found]
        assert totals == sorted(totals)
        assert totals[0] < totals[-1]

    def test_people_want_what_others_wanted(self, data: Path) -> None:
        dataset = Dataset.open(data)
        drift = Changes(taste=30).drift(dataset, 60)
        judge = Judge.from_dataset(dataset, click_model("position"), 1, drift)
        wanted = dataset.judgments()
        for split in ("train", "test"):
            of_split = {query.query_id for query in dataset.queries(split)}
            changed = {q for q in of_split if drift.grades(wanted, q, 30) != wanted.get(q, {})}
            assert len(changed) > len(of_split) / 2
        for change in drift.swaps:
            assert isinstance(change, IntentSwap)
            assert all(one.split("-")[0] == other.split("-")[0] for one, other in change.partners.items())
        query_id = min(changed & wanted.keys())
        assert judge.best_reward(query_id, 29) > 0
        assert drift.grades(wanted, query_id, 29) == wanted[query_id]

    def test_everything_may_change_at_once(self, data: Path, prepared: Path, tmp_path: Path) -> None:
        spec = ("--kill", "lexical:10:40", "--new-items", "0.5", "--taste-change", "30")
        changed = simulated_with(data, prepared, tmp_path, "--rows", "LTRR", *spec)
        assert set(changed["changes"]) == {"10", "12", "24", "30", "36", "40", "48"}
        assert len(changed["recoveries"]) == 2

    def test_runs_of_another_command_are_run_again(self, spec: RunSpec) -> None:
        run(SETTINGS, spec, STATIC, 1)
        assert is_finished(spec, STATIC, 1)
        for other in (
            replace(spec, changes=Changes(taste=10)),
            replace(spec, impressions=61),
            replace(spec, noise=0.2),
            replace(spec, every=7),
        ):
            assert not is_finished(other, STATIC, 1)

    async def test_runs_on_data_that_has_changed_are_run_again_and_so_is_its_preparation(
        self, data: Path, spec: RunSpec, tmp_path: Path
    ) -> None:
        await asyncio.to_thread(run, SETTINGS, spec, STATIC, 1)
        changed = shutil.copytree(data, tmp_path / "changed")
        with gzip.open(changed / "catalogue.jsonl.gz", "ab") as file:
            file.write(b'{"id": "new", "title": "One more"}\n')
        assert not is_finished(replace(spec, data=changed), STATIC, 1)
        folder = shutil.copytree(spec.prepared, tmp_path / "prepared", copy_function=copy_sparse)
        before = (folder / "prepared").read_text()
        with Progress() as progress:
            await prepare(SETTINGS, changed, folder, train_encoders, progress)
        assert (folder / "prepared").read_text() != before

    def test_wrong_use_is_refused(self, data: Path, tmp_path: Path) -> None:
        spec = ["simulate", "--data", str(data), "--out", str(tmp_path / "out")]
        for value, said in (
            ("best:1:2", "no arm 'best'; the arms are lexical"),
            ("lexical:1", "an arm and two whole numbers"),
            ("lexical:a:2", "an arm and two whole numbers"),
            ("lexical:2:2", "ends at 2, but starts at 2"),
        ):
            err = io.StringIO()
            with pytest.raises(SystemExit) as ended, contextlib.redirect_stderr(err):
                main([*spec, "--kill", value])
            assert ended.value.code == 2
            assert said in err.getvalue()
        assert "--new-items must be a share" in failed(2, tmp_path, *spec, "--new-items", "1.5")


class TestRepeats:
    def test_what_is_asked_over_and_over_is_remembered(self, data: Path, prepared: Path, tmp_path: Path) -> None:
        found = simulated_with(data, prepared, tmp_path, "--repeats", "2")
        assert found["impressions"] == 4 * 51
        assert set(found["spread"]) == {"LTRR, seed 1", "no memory, seed 1"}
        lines = {(line["part"], line["after"]): line for line in found["repeats"]}
        assert {part for part, _ in lines} == {"all", "title", "topic"}
        assert {after for _, after in lines} == {0, 1, 5, 20, 50}
        assert lines["all", 0]["queries"] == 4
        assert lines["all", 50]["closed"]["mean"] > lines["all", 0]["closed"]["mean"]
        assert (tmp_path / "out" / "repeats.svg").exists()
        assert "of the gap is closed" in (tmp_path / "out" / "table.md").read_text()

    def test_nothing_changes_meanwhile(self, data: Path, tmp_path: Path) -> None:
        spec = ("simulate", "--data", data, "--out", tmp_path / "out", "--repeats")
        assert "without --kill" in failed(2, tmp_path, *spec, "2", "--taste-change", "3")
        assert "from 1" in failed(2, tmp_path, *spec, "-2")


class Priced:
    """A policy that takes candidates from one arm as long as they are cheap."""

    name, version = "priced", None

    def __init__(self, price: float = 0.0) -> None:
        self._price = price

    def at_price(self, price: float) -> Priced:
        return Priced(price)

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        wanted = int(1.2 / (100 * self._price + 0.01))
        counts = {o.name: max(c for c in o.counts if c <= wanted) if o.name == "lexical" else 0 for o in options}
        return {name: ArmChoice(count, 1.0, ((count, 1.0),)) for name, count in counts.items()}


class TestFrontier:
    async def test_what_plans_find_and_cost_is_what_the_live_path_finds_and_asks_for(
        self, data: Path, prepared: Path, tmp_path: Path
    ) -> None:
        dataset = Dataset.open(data)
        judge = Judge.from_dataset(dataset, click_model("position"), 1)
        policies = [FixedPolicy({"lexical": 5, "personal": 5}), FixedPolicy({"structured": 10, "lexical": 10})]
        async with open_copy(SETTINGS, prepared, tmp_path / "work", World(1)) as (system, _):
            queries = [q for q in dataset.queries("test") if judge.has_relevant(q.query_id)]
            known = await probe_queries(system, queries)
            for policy in policies:
                searched = PolicySearch(system, policy)
                for one in known:
                    live = await searched.collect(one.query)
                    held = {c.object_id for listed in live.lists.values() for c in listed}
                    spec = sum(choice.count for choice in live.decision.arms.values())
                    found = policy_point(judge, 0, [one], policy)
                    recall = judge.measures(list(held), one.query.query_id, 0, ("capped_recall@10",))
                    assert found == Point(pytest.approx(recall["capped_recall@10"]), pytest.approx(spec))
                    choices = policy.decide(one.features, one.options, 0)
                    plan = np.array([[max(5, choices[o.name].count) for o in one.options]], dtype=np.int32)
                    _, costs, _ = simulated_frontier._table(judge, 0, [one], plan)
                    able = [len(o.counts) > 1 for o in one.options]
                    assert costs[0, 0] == plan[0][able].sum()
            assert {len(o.counts) > 1 for one in known for o in one.options} == {True, False}

    async def test_a_policy_that_can_be_priced_has_a_point_for_every_budget(
        self, data: Path, prepared: Path, tmp_path: Path
    ) -> None:
        judge = Judge.from_dataset(Dataset.open(data), click_model("position"), 1)
        dataset = Dataset.open(data)

        async def lines() -> list[dict[str, Any]]:
            async with open_copy(SETTINGS, prepared, tmp_path / "work", World(1)) as (system, _):
                test = [query for query in dataset.queries("test") if judge.has_relevant(query.query_id)][::3]
                validation, known = [
                    await probe_queries(system, q) for q in (list(dataset.queries("validation"))[::3], test)
                ]
                assert frontier(judge, 0, validation[:1], known, Priced()) == [], "validation lacks a slice"
                return frontier(judge, 0, validation, known, Priced())

        found = {(line["budget"], line["by"]): line for line in await lines()}
        for budget in (10, 25, 50, 100):
            assert found[budget, "learned, priced"]["candidates"] == pytest.approx(budget)
            assert found[budget, "learned, priced"]["recall"] <= found[budget, "oracle a query"]["recall"] + 1e-9
        assert found[None, "learned"]["candidates"] == pytest.approx(100.0)
        assert found[100, "learned, priced"]["recall"] >= found[10, "learned, priced"]["recall"]


class TestHttp:
    def test_searches_and_clicks_go_through_the_front_door(
        self, data: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[str, str]] = []
        real = Client.send

        def noted(client: Client, method: str, path: str, *rest: Any) -> Any:
            calls.append((method, path.rsplit("/", 1)[0] if "explain" in path else path))
            return real(client, method, path, *rest)

        monkeypatch.setattr(Client, "send", noted)
        found = simulated_with(data, prepared, tmp_path, "--http")
        lines = {line["row"]: line for line in found["lines"] if line["part"] == "all"}
        assert list(lines) == ["static", "LTRR"]
        assert all(line["policy"] == "serving" and 0.0 < line["ndcg"]["mean"] < 1.0 for line in lines.values())
        assert found["spread"]["static, seed 1"]["lexical"] == {"50": 1.0}
        assert len(found["windows"]) == 1
        times = Counter(calls)
        assert times["PUT", "/v1/policy"] == 2
        assert times["POST", "/v1/search"] == 2 * (60 + times["GET", "/v1/explain"] // 2)
        assert times["GET", "/v1/explain"] > 0
        assert times["POST", "/v1/feedback"] > 20
        assert [path.name for path in (tmp_path / "work").iterdir()] == ["prepared"]

    def test_nothing_changes_meanwhile(self, data: Path, tmp_path: Path) -> None:
        spec = ("simulate", "--data", data, "--out", tmp_path / "out", "--http")
        assert "cannot be combined" in failed(2, tmp_path, *spec, "--new-items", "0.1")
        assert "cannot be combined" in failed(2, tmp_path, *spec, "--repeats", "3")


class TestService:
    def test_the_service_is_blind_to_grades(self, data: Path, prepared: Path, tmp_path: Path) -> None:
        def whole(judge: Judge) -> bytes:
            watching, metrics, policy = asyncio.run(run_simulation(data, prepared, tmp_path / "work", judge, 60))
            spread = metrics.count_shares()
            assert len({len(counts) for counts in spread.values()}) > 1, "it explores"
            return orjson.dumps([[(s.slate, s.counts) for s in watching.shown], policy.hex()])

        assert_blind_to_grades(whole, Dataset.open(data).judgments())

    async def test_clicks_are_remembered_and_learned(self, data: Path, prepared: Path, tmp_path: Path) -> None:
        judge = Judge.from_dataset(Dataset.open(data), click_model("position", noise=0.0), 1)
        world = World(1)
        watching, metrics, policy = await run_simulation(data, prepared, tmp_path / "work", judge, 240, world)
        assert sum(metrics.clicks) > 60
        times = [search.at for search in watching.searches]
        assert times == sorted(times)
        assert world.now == times[-1]
        first, last = np.mean(metrics.reward[:80]), np.mean(metrics.reward[-80:])
        assert last > first + 0.1, "memory finds what people took, although others answer better to the words"
        assert metrics.degraded == 0
        _, _, before = await run_simulation(data, prepared, tmp_path / "work", judge, 40)
        assert policy != before

    async def test_policies_are_told_of_the_request_unless_blind(self, prepared: Path, tmp_path: Path) -> None:
        async def told(world: World) -> Mapping[str, float]:
            async with open_copy(SETTINGS, prepared, tmp_path / "work", world) as (system, _):
                return (await system.search.collect(Query("river winter", timeout=10.0), system.switch)).features

        assert await told(World(1))
        assert await told(World(1, hide_context=True)) == {}

    async def test_a_dead_arm_is_censored(self, data: Path, prepared: Path, tmp_path: Path) -> None:
        """Answers that lack an arm are not surveyed, and those that are tell of the arm what it really has."""
        judge = Judge.from_dataset(Dataset.open(data), click_model("position"), 1)
        world = World(1)
        outcomes: list[Outcome] = []
        settings = SETTINGS.model_copy(update={"survey_share": 1.0})
        async with open_copy(settings, prepared, tmp_path / "work", world) as (system, service):
            policy = system.learner.policy.policy  # type: ignore[union-attr]
            real = policy.learn
            policy.learn = lambda outcome: (outcomes.append(outcome), real(outcome))  # type: ignore[method-assign]

            async def before(search: Search) -> None:
                world.failed_arms = {"structured"} if search.index < 20 else ()

            traffic = Traffic(list(Dataset.open(data).queries("train")), 1)
            await simulate(service, traffic, judge, 60, before=before)
            await service.learn()
        could = [outcome.features.get("has_structured", 0.0) > 0.0 for outcome in outcomes]
        surveys = [outcome.survey for outcome in outcomes]
        assert any(could[20:])
        assert any(surveys[20:])
        assert not any(survey for survey, able in zip(surveys[:20], could, strict=False) if able)
        for survey, able in zip(surveys[20:], could[20:], strict=True):
            if survey is not None:
                assert ("structured" in survey.ranks) == able
                assert not able or any(survey.ranks["structured"])

    async def test_an_arm_that_dies_comes_back(self, data: Path, prepared: Path, tmp_path: Path) -> None:
        def outage(world: World, done: int) -> None:
            world.failed_arms = {"structured"} if 30 <= done < 60 else ()

        judge = Judge.from_dataset(Dataset.open(data), click_model("position"), 1)
        world = World(1)
        watching, _, _ = await run_simulation(data, prepared, tmp_path / "work", judge, 120, world, outage)
        degraded = [shown.degraded for shown in watching.shown]
        assert not any(degraded[:30])
        assert any(degraded[30:60])
        spec = [shown.counts["structured"] > 0 for shown in watching.shown]
        assert any(spec[:30])
        assert any(spec[100:]), "it is asked again"


# --- a ranker for every row ---

RANKER_IMPRESSIONS = 400


class Training:
    """`ltrr train ranker` on the log, with a gate that the test decides."""

    def __init__(self, refuse: str | None = None) -> None:
        self.refuse = refuse
        self.times = 0

    async def __call__(self, own: Settings) -> str | None:
        self.times += 1
        outcome = await train_model(RANKER, own, None, 0, promote=False)
        if self.refuse is None:
            model_store(own).promote(RANKER, outcome.version, "a test")
        return self.refuse


async def ranked(
    data: Path, prepared: Path, train: Training, impressions: int = RANKER_IMPRESSIONS
) -> tuple[Path, int]:
    """(the folder, searches that it took)."""
    done = [0]
    spec = RunSpec(data, prepared, prepared.parent, prepared.parent, 1, ranker=impressions)
    folder = await with_ranker(SETTINGS, spec, train, done.append)
    return folder, done[-1]


async def test_every_run_has_the_ranker_and_the_folder_before_stays_as_it_was(
    data: Path, prepared: Path, tmp_path: Path
) -> None:
    train = Training()
    folder, searches = await ranked(data, prepared, train)
    assert (searches, train.times) == (RANKER_IMPRESSIONS, 1)

    async def ranker_of(where: Path, world: World) -> bool:
        async with open_copy(SETTINGS, where, tmp_path / "work", world, FixedPolicy()) as (system, _):
            return isinstance(system.search.active.ranker, OnnxRanker)

    for where, expected in ((folder, True), (prepared, False)):
        world = World(1)
        assert await ranker_of(where, world) is expected
        assert world.has_ranker is expected, "its features are computed only where it looks at them"
    assert await ranked(data, prepared, train) == (folder, 0), "the same command finds it there"
    assert train.times == 1
    assert (await ranked(data, prepared, train, RANKER_IMPRESSIONS + 20))[1] == RANKER_IMPRESSIONS + 20, (
        "another one does not"
    )


async def test_a_ranker_that_is_refused_is_not_used(data: Path, prepared: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"not better than the fused order \(worse by 3\)"):
        await ranked(data, prepared, Training("worse by 3"), RANKER_IMPRESSIONS + 40)
    assert (await ranked(data, prepared, Training(), RANKER_IMPRESSIONS + 40))[1] == RANKER_IMPRESSIONS + 40, (
        "nothing of it is left"
    )
