"""`ltrr evaluate` on a tiny data set folder: tracks whose titles say what they are."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from app.cli import evaluate
from app.cli.train import train_encoders
from app.offline import live_runs
from app.offline.sandbox import open_sandbox
from app.settings import Settings
from app.system.model_kinds import TASTE, TEXT, current_model
from app.system.policies import fixed_policy, load_policy
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset, DatasetQuery, HistoryEvent, Judgment, write_folder
from services.evaluation.compare import MEASURES
from services.evaluation.measures import ranked_ndcg
from services.evaluation.runs import Run
from services.models.store import ModelStore
from services.models.taste.model import TasteEncoder
from tests.builders.catalogue import ARTISTS, TRACKS, WORDS
from tests.commands import called, done, failed

ARMS = ["memory", "structured", "personal", "vector", "explore", "lexical"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test queries of two slices: words, wanted are titles with them; people, wanted is what they made. One query has
    nothing relevant."""
    folder = tmp_path_factory.mktemp("data") / "tracks"
    queries, judgments = [], []

    def ask(text: str, slice_: str, wanted: list[str], weight: float = 1.0, user_id: str | None = None) -> None:
        query_id = f"q{len(queries):02}"
        queries.append(DatasetQuery(query_id, "test", text, slice_, user_id, weight))
        judgments.extend(Judgment(query_id, object_id, 2.0) for object_id in wanted)
        judgments.append(Judgment(query_id, TRACKS[0]["id"], 0.0))

    for i, word in enumerate(WORDS):
        for other in WORDS[i + 1 : i + 4]:
            wanted = [t["id"] for t in TRACKS if {word, other} <= set(t["title"].split()) and t["id"] != "t000"]
            if wanted:
                ask(f"{word} {other}".lower(), "words", wanted, weight=1.0 + i)
    for artist in ARTISTS:
        wanted = [t["id"] for t in TRACKS if t["artist"] == artist and t["id"] != "t000"]
        ask(artist.lower(), "people", wanted, user_id="u1")
    ask("river", "words", ["t009"], weight=20.0)  # one of many with that word: hardly found
    ask("nothing good", "words", [])
    queries.append(DatasetQuery("train", "train", "river", "words"))
    judgments.append(Judgment("train", "t001", 1.0))
    history = [HistoryEvent(f"u{i % 5}", TRACKS[i]["id"], "play", 1.7e9 + i) for i in range(60)]
    write_folder(folder, TRACKS, queries, judgments, history)
    return folder


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """(folder of the results, results, what was printed beside them)."""
    folder = tmp_path_factory.mktemp("evaluated")
    mix = "words=.25,people=.75"
    arguments = ("--data", data, "--mix", mix, "--out", folder / "out", "--write-run", folder / "runs" / "static.run")
    ended = called(folder / "var", "evaluate", *arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return folder, json.loads(ended.stdout), ended.stderr


def part(results: dict[str, Any], name: str = "all") -> dict[str, dict[str, Any]]:
    (found,) = [part for part in results["parts"] if part["name"] == name]
    return {row["run"]: row for row in found["rows"]}


class TestLive:
    def test_every_arm_and_every_way_together_has_a_row(self, measured: tuple[Path, dict[str, Any], str]) -> None:
        _, results, _ = measured
        assert list(part(results)) == [*ARMS, "all arms, RRF", "static"]
        assert [p["name"] for p in results["parts"]] == ["all", "people", "words"]
        assert results["measures"] == list(MEASURES)
        assert (results["data"], results["split"], results["baseline"]) == ("tracks", "test", "static")
        assert results["models"] == {}
        assert results["degraded"] == {}
        assert results["parts"][1]["queries"] == len(ARTISTS)

    def test_figures_are_those_of_the_live_path(self, measured: tuple[Path, dict[str, Any], str]) -> None:
        _, results, _ = measured
        words, people = part(results, "words"), part(results, "people")
        assert mean(people["structured"]) > 0.9, "an artist's name is a slot"
        assert mean(people["personal"]) > 0.9, "among what the artist made, by who asks"
        assert mean(words["personal"]) == 0.0, "nobody asks"
        for row in ("lexical", "all arms, RRF", "static"):
            assert mean(words[row]) > 0.8
            assert mean(people[row]) > 0.9
        assert mean(words["explore"]) < 0.5, "it does not look at the words"
        difference = words["explore"]["differences"]["ndcg@10"]
        assert difference["mean"] == pytest.approx(mean(words["explore"]) - mean(words["static"]))
        assert difference["high"] < 0
        assert part(results)["static"]["differences"] == {}

    def test_slices_weigh_as_the_mix_says_and_queries_by_their_weight(
        self, measured: tuple[Path, dict[str, Any], str], data: Path
    ) -> None:
        folder, results, _ = measured
        assert [p["share"] for p in results["parts"]] == pytest.approx([1.0, 0.75, 0.25])
        for arm in ARMS:
            whole = mean(part(results)[arm])
            assert whole == pytest.approx(
                0.25 * mean(part(results, "words")[arm]) + 0.75 * mean(part(results, "people")[arm])
            )
        run = Run.read(folder / "runs" / "static.run")
        queries = evaluate.read_labels(data, ("test",))
        values = {q.query_id: ranked_ndcg(run.ids(q.query_id), q.grades) for q in queries}
        weights = {q.query_id: q.weight for q in Dataset.open(data).queries("test") if q.slice == "words"}
        weights = {query_id: weight for query_id, weight in weights.items() if query_id in values}
        by_hand = sum(weights[query_id] * values[query_id] for query_id in weights) / sum(weights.values())
        assert mean(part(results, "words")["static"]) == pytest.approx(by_hand)
        assert len({values[query_id] for query_id in weights}) > 1
        assert (folder / "runs" / "static.run").read_text().splitlines()[0].endswith(" static")

    def test_results_and_plot_are_written(self, measured: tuple[Path, dict[str, Any], str]) -> None:
        folder, results, _ = measured
        assert json.loads((folder / "out" / "results.json").read_text()) == results
        drawn = (folder / "out" / "results.svg").read_text()
        for text in ("tracks, test", "all arms, RRF", "static", f"people ({len(ARTISTS)})"):
            assert text in drawn

    def test_the_spread_of_chosen_counts_is_told(self, measured: tuple[Path, dict[str, Any], str]) -> None:
        _, results, _ = measured
        assert results["counts"]["static"]["lexical"] == {"50": 1.0}
        assert results["counts"]["static"]["explore"] == {"0": 1.0}

    def test_nothing_that_serves_is_touched(self, measured: tuple[Path, dict[str, Any], str]) -> None:
        folder, _, said = measured
        assert not (folder / "var").exists() or not list((folder / "var").iterdir())
        assert "train encoder: 120" in said

    async def test_the_system_apart_has_the_encoders_that_are_trained_on_its_items(
        self, data: Path, tmp_path: Path
    ) -> None:
        async def versions() -> tuple[str, ...]:
            settings = Settings.load({}, data_dir=tmp_path / "var")
            with Progress() as progress:
                async with open_sandbox(settings, data, train_encoders, progress, "test") as system:
                    arms = {arm.name: arm for arm in system.search.arms.arms}
                    stored = [current_model(kind, settings, system.store) for kind in (TEXT, TASTE)]
                    served = [arms[name].encoder for name in ("vector", "personal")]  # type: ignore[attr-defined]
                    return tuple(encoder.version for encoder in (*stored, *served))

        text, taste, *served = await versions()
        assert text.startswith("lsa-")
        assert taste != TasteEncoder.untrained().version
        assert served == [text, taste]

    def test_models_in_force_have_rows_of_their_own(self, data: Path, tmp_path: Path) -> None:
        var = tmp_path / "var"
        settings = Settings.load({}, data_dir=var)
        store = ModelStore(var / "models")
        policy = store.publish("policy", {"policy.bin": load_policy(settings).dump()}, {})
        store.promote("policy", policy, "test")
        store.promote("ranker", store.publish("ranker", {"model.onnx": b"none"}, {"format": 1}), "test")
        arguments = ("--data", data, "--queries", "6", "--measures", "mrr@3", "--out", tmp_path / "out")
        ended = called(var, "evaluate", *arguments, exploration=0.5)
        assert ended.returncode == 0, ended.stderr
        assert "ranker" in ended.stderr, "one that cannot be used is told"
        assert "is left out" in ended.stderr
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert list(part(results))[-2:] == ["static", "learned"]
        assert results["models"] == {"policy": policy}
        assert results["measures"] == ["mrr@3"]
        assert results["parts"][0]["queries"] == 6
        title, _, head, _, *rows = ended.stdout.splitlines()
        assert title == "tracks, test: 6 queries"
        assert head.split("|")[1].split() == ["queries"]
        assert "mrr@3 - static" in head
        assert any(row.startswith("| all (6)") and "| learned " in row for row in rows)
        assert "counts chosen by the learned policy:" in rows
        assert rows[-1] == f"written: {tmp_path}/out/results.json, {tmp_path}/out/results.svg"

    def test_a_ranker_orders_what_the_policies_found(self, data: Path, tmp_path: Path) -> None:
        class Upside:
            name, version, depth = "upside", "7", None

            def score(self, table: Any) -> Any:
                return -live_runs.PassthroughRanker().score(table)

        served = live_runs.LoadedModels(fixed_policy(Settings.load({})), Upside())  # type: ignore[arg-type]
        with mock.patch.object(evaluate, "load_models", return_value=served):
            arguments = ("--data", data, "--queries", "6", "--out", tmp_path / "out", "--json")
            # An engine that the service has is not asked: there is none at this address.
            results = json.loads(done(tmp_path / "var", "evaluate", *arguments, opensearch_url="http://127.0.0.1:9"))
        rows = part(results)
        assert list(rows)[-4:] == ["static", "static, ranker", "learned", "learned, ranker"]
        assert results["models"] == {"policy": None, "ranker": "7"}
        assert rows["learned"]["values"] == rows["static"]["values"]
        assert rows["learned, ranker"]["values"] == rows["static, ranker"]["values"]
        assert mean(rows["static, ranker"]) < mean(rows["static"])
        assert rows["static, ranker"]["values"]["recall@100"] == rows["static"]["values"]["recall@100"]


def mean(row: dict[str, Any]) -> float:
    return float(row["values"]["ndcg@10"]["mean"])


class TestRuns:
    @pytest.fixture
    def runs(self, data: Path, tmp_path: Path) -> list[Path]:
        """A perfect run, and one that answers half the queries."""
        queries = evaluate.read_labels(data, ("test",))
        best = {q.query_id: [(i, grade) for i, grade in q.grades.items()] for q in queries}
        half = dict(list(best.items())[::2])
        Run.of("best", best).write(tmp_path / "best.run")
        Run.of("half", half).write(tmp_path / "half.run.gz")
        return [tmp_path / "best.run", tmp_path / "half.run.gz"]

    def test_files_are_measured(self, data: Path, runs: list[Path], tmp_path: Path) -> None:
        arguments = ("--data", data, "--run", runs[0], "--run", runs[1], "--out", tmp_path / "out", "--json")
        ended = called(tmp_path / "var", "evaluate", *arguments)
        assert ended.returncode == 0, ended.stderr
        results = json.loads(ended.stdout)
        assert list(part(results)) == ["best", "half"]
        assert results["baseline"] == "best"
        assert mean(part(results)["best"]) == pytest.approx(1.0)
        queries = results["parts"][0]["queries"]
        assert mean(part(results)["half"]) < 0.8
        missing = part(results)["half"]["missing"]
        assert missing == queries // 2
        assert f"half.run.gz lacks {missing} of {queries} queries" in ended.stderr
        assert not (tmp_path / "var").exists()

    def test_files_of_one_name_are_told_apart(self, data: Path, runs: list[Path], tmp_path: Path) -> None:
        other = tmp_path / "other" / "best.run"
        other.parent.mkdir()
        shutil.copy(runs[0], other)
        arguments = ("--data", data, "--run", runs[0], "--run", other, "--out", tmp_path / "out", "--json")
        assert list(part(json.loads(done(tmp_path / "var", "evaluate", *arguments)))) == [str(runs[0]), str(other)]

    def test_a_sample_is_spread_evenly(self, data: Path, runs: list[Path], tmp_path: Path) -> None:
        whole = evaluate._queries(data, "test", None)
        assert evaluate._queries(data, "test", 5) == [whole[i * len(whole) // 5] for i in range(5)]
        assert evaluate._queries(data, "test", 10_000) == whole
        assert {query.slice for query in evaluate._queries(data, "test", 8)} == {"words", "people"}

    def test_without_the_library_there_is_a_table_and_no_plot(
        self, data: Path, runs: list[Path], tmp_path: Path
    ) -> None:
        absent = {"matplotlib": None, "services.evaluation.plots": None}
        with mock.patch.dict(sys.modules, absent):  # type: ignore[arg-type]
            ended = called(tmp_path / "var", "evaluate", "--data", data, "--run", runs[0], "--out", tmp_path / "out")
        assert ended.returncode == 0
        assert "extra `evaluate`" in ended.stderr
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.json"]
        assert ended.stdout.splitlines()[-1] == f"written: {tmp_path}/out/results.json"


class TestUse:
    def test_wrong_use_is_refused_at_once(self, data: Path, tmp_path: Path) -> None:
        run = tmp_path / "a.run"
        run.write_text("q00 Q0 t001 1 1.0 x\n")
        asked = ("evaluate", "--out", tmp_path / "out", "--data")
        assert "no such folder" in failed(2, tmp_path, *asked, tmp_path / "nowhere")
        assert "no such run file" in failed(2, tmp_path, *asked, data, "--run", tmp_path / "nowhere.run")
        assert "--write-run" in failed(2, tmp_path, *asked, data, "--run", run, "--write-run", tmp_path / "b.run")
        said = failed(2, tmp_path, *asked, data, "--mix", "title=1")
        assert "--mix: the mix names 'title', but the slices are 'words', 'people'" in said

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--queries", "0", "a number from 1"),
            ("--queries", "some", "a number from 1"),
            ("--measures", "ndcg@10,dcg", "no measure 'dcg'; the measures are ndcg@k"),
            ("--mix", "title", "title=.7,typo=.3"),
            ("--mix", "title=much", "title=.7,typo=.3"),
        ],
    )
    def test_values_that_mean_nothing_are_refused(
        self, option: str, value: str, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from app.__main__ import main

        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "--data", str(data), "--out", str(tmp_path / "out"), option, value])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err

    def test_what_cannot_be_measured_fails(self, data: Path, tmp_path: Path) -> None:
        asked = ("evaluate", "--out", tmp_path / "out", "--data")
        said = failed(1, tmp_path, *asked, data, "--split", "validation")
        assert "no query of the split 'validation'" in said
        assert "its splits are test, train" in said
        run = tmp_path / "a.run"
        run.write_text("q00 Q0 t001 1 high x\n")
        assert "a.run, line 1: 'high' is not a number" in failed(1, tmp_path, *asked, data, "--run", run)
        run.write_text("other Q0 t001 1 1.0 x\n")
        assert "none of the" in failed(1, tmp_path, *asked, data, "--run", run)
        (tmp_path / "file").touch()
        said = failed(1, tmp_path, "evaluate", "--data", data, "--run", run, "--out", tmp_path / "file")
        assert str(tmp_path / "file") in said
        alone = tmp_path / "alone"
        write_folder(alone, TRACKS[:3])
        assert "qrels.tsv" in failed(1, tmp_path, *asked, alone)
