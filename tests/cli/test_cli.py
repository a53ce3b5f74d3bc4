"""Every command, run as people run it, on a part of the sample catalogue."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import COMMANDS, main
from services.backends.base import Record
from services.backends.files import copy_sparse
from services.backends.log_codec import decode, encode
from services.backends.sqlite.items import SqliteItems
from services.backends.sqlite.log import SqliteLog
from services.datasets.folder import Dataset, write_folder
from services.datasets.sample.generate import generate
from services.models.store import ModelStore
from services.policies.fixed import FixedPolicy
from services.policies.vw import VWPolicy
from services.types import Impression, Interaction
from tests.commands import PATIENCE, ROOT, Process, done, environment, eventually, failed, free_port, ltrr, serving

ITEMS = 1000
EVENTS = 600


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first items of the sample, with what was asked and done about them."""
    whole = tmp_path_factory.mktemp("sample")
    generate(whole)
    dataset = Dataset.open(whole)
    documents = list(dataset.documents())[:ITEMS]
    ids = {document["id"] for document in documents}
    judgments = [judgment for judgment in dataset.qrels() if judgment.object_id in ids]
    asked = {judgment.query_id for judgment in judgments}
    queries = [query for query in dataset.queries() if query.query_id in asked]
    history = [event for event in dataset.history() if event.object_id in ids][:EVENTS]
    folder = tmp_path_factory.mktemp("data") / "music"
    write_folder(folder, documents, queries, judgments, history)
    shutil.copy(whole / "schema.toml", folder)
    return folder


@pytest.fixture(scope="module")
def indexed(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the music in it, for copies."""
    folder = tmp_path_factory.mktemp("indexed") / "var"
    summary = json.loads(done(folder, "index", music, "--json"))
    assert summary == {"accepted": ITEMS, "invalid": 0, "events": EVENTS, "problems": []}
    return folder


@pytest.fixture
def copied(indexed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(indexed, tmp_path / "var", copy_function=copy_sparse)


@pytest.fixture(scope="module")
def service(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One that learns quickly, with the music in it."""
    folder = shutil.copytree(indexed, tmp_path_factory.mktemp("served") / "var", copy_function=copy_sparse)
    with serving(folder, attribution_seconds=0.5, snapshot_seconds=0.3, exploration=0.3) as process:
        process.folder = folder  # type: ignore[attr-defined]
        yield process


def folder_of(service: Process) -> Path:
    return Path(service.folder)  # type: ignore[attr-defined]


async def records(folder: Path) -> list[tuple[int, Record]]:
    log = SqliteLog(folder / "log.sqlite3")
    try:
        return await log.read(0, 100_000)
    finally:
        await log.close()


async def stored_ids(folder: Path) -> set[str]:
    items = SqliteItems(folder / "items.sqlite3")
    try:
        return {document["id"] async for document in items.scan()}
    finally:
        await items.close()


def current(folder: Path, kind: str) -> str | None:
    return ModelStore(folder / "models").current_version(kind)


class TestUse:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_explains_itself(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        text = capsys.readouterr().out
        assert ended.value.code == 0
        assert text.startswith(f"usage: ltrr {name}")
        assert len(text.splitlines()) > 5

    def test_the_help_of_all_names_every_command_and_what_it_does(self, tmp_path: Path) -> None:
        lines = ltrr(tmp_path, "--help").stdout.splitlines()
        for name in COMMANDS:
            assert any(line.split()[:1] == [name] and len(line.split()) > 2 for line in lines)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((), "COMMAND"),
            (("indx",), "invalid choice"),
            (("train", "everything"), "invalid choice"),
            (("serve", "--workers", "many"), "invalid int"),
            (("models",), "ACTION"),
        ],
    )
    def test_wrong_use_shows_the_usage(
        self, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        told = capsys.readouterr().err
        assert ended.value.code == 2
        assert told.startswith("usage: ltrr")
        assert said in told.splitlines()[-1]

    def test_settings_and_sources_that_cannot_be_meant_are_wrong_use(self, tmp_path: Path) -> None:
        absent = tmp_path / "absent"
        assert "LTRR_ADMIN_KEY" in failed(2, tmp_path, "serve", admin_ky="x")
        assert "LTRR_OPENSEARCH_URL" in failed(2, tmp_path, "serve", "--workers", "2")
        assert str(absent) in failed(2, tmp_path, "index", absent)
        assert str(absent) in failed(2, tmp_path, "train", "ranker", "--data", absent)
        file = tmp_path / "file"
        file.write_text('{"id": "a"}')
        assert "Not a directory" in failed(2, file / "var", "index", file)
        assert "ltrr serve" in failed(2, tmp_path, "learn")

    def test_nothing_to_work_on_is_a_failure_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        folder = tmp_path / "var"
        assert "event log" in failed(1, folder, "replay")
        assert "event log" in failed(1, folder, "train", "ranker")
        assert "items" in failed(1, folder, "train", "text-encoder")
        assert "no such version" in failed(1, folder, "models", "promote", "policy", "v1")
        assert "no earlier version" in failed(1, folder, "models", "rollback", "ranker")
        ended = ltrr(folder, "models", "show", "ranker", "v1")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == "ltrr: ranker v1: no such version; see `ltrr models list`\n"
        assert done(folder, "models", "list").startswith("no models yet")
        assert not folder.exists()

    def test_a_reader_that_leaves_early_is_no_traceback(self, indexed: Path) -> None:
        command = f"{sys.executable} -m app models list --json | true"
        ended = subprocess.run(
            ["sh", "-c", command], cwd=ROOT, env=environment(indexed), capture_output=True, text=True, timeout=PATIENCE
        )
        assert ended.stderr == ""


class TestIndex:
    async def test_a_folder_brings_items_history_and_models(self, indexed: Path, music: Path) -> None:
        assert await stored_ids(indexed) == {document["id"] for document in Dataset.open(music).documents()}
        assert current(indexed, "text-encoder")
        assert current(indexed, "taste")
        assert current(indexed, "policy")

    async def test_again_counts_nothing_twice_and_tells_every_bad_line(self, copied: Path, music: Path) -> None:
        folder = copied.parent / "music"
        shutil.copytree(music, folder)
        with gzip.open(folder / "catalogue.jsonl.gz", "at") as file:
            file.write(
                '{"id": "new", "title": "A new one"}\nnot json\n{"title": "no id"}\n{"id": "odd", "plays": "many"}\n'
            )
        with gzip.open(folder / "history.tsv.gz", "at") as file:
            file.write("u1\tnew\tplay\t1700000000\nu1\tnew\tstare\t1700000000\nu1\tnew\tplay\t1e300\nu1\tnew\n")
        before = await records(copied)
        ended = ltrr(copied, "index", folder)
        assert ended.returncode == 0, ended.stderr
        first, *problems = ended.stdout.splitlines()
        assert first == f"{ITEMS + 1} items indexed, 3 refused, {EVENTS + 1} events of history"
        assert [problem.strip().partition(": ")[0] for problem in problems] == [
            f"line {ITEMS + 2}",
            f"line {ITEMS + 3}",
            f"line {ITEMS + 4}",
            "history.tsv, timestamp 1e+300",
            "history.tsv, stare new",
            f"history.tsv.gz, line {EVENTS + 5}",
        ]
        assert "plays" in problems[2]
        assert "schema (given)" in ended.stderr
        added = [r.object_id for _, r in (await records(copied))[len(before) :] if isinstance(r, Interaction)]
        assert added == ["new"]

    async def test_a_rebuild_starts_from_an_empty_catalogue_with_the_schema_that_is_given(
        self, copied: Path, tmp_path: Path
    ) -> None:
        source, schema = tmp_path / "two.jsonl", tmp_path / "schema.toml"
        source.write_text('{"id": "a", "title": "one", "maker": "Ana"}\n{"id": "b", "title": "two", "maker": "Ben"}\n')
        schema.write_text('title = "title"\n[fields]\ntitle = "text"\nmaker = "keyword"\n')
        ended = ltrr(copied, "index", source, "--rebuild", "--schema", schema)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == "2 items indexed, 0 refused, 0 events of history\n"
        assert "left untrained" in ended.stderr  # two items share no words; they are found all the same
        assert await stored_ids(copied) == {"a", "b"}
        with serving(copied) as process:
            answer = process.search("ben", facets=["maker"])
            assert [hit["object_id"] for hit in answer["hits"]][:1] == ["b"]
            assert all(hit["object_id"] in ("a", "b") for hit in answer["hits"])
        assert str(source) in failed(2, copied, "index", source, "--schema", source)

    def test_what_cannot_be_indexed_fails(self, tmp_path: Path) -> None:
        bad, cut = tmp_path / "bad.jsonl", tmp_path / "cut.jsonl.gz"
        bad.write_text("not json\n")
        cut.write_bytes(gzip.compress(b'{"id": "a", "title": "one"}\n' * 100)[:-20])
        ended = ltrr(tmp_path / "var", "index", bad)
        assert (ended.returncode, ended.stdout.splitlines()[0][:28]) == (1, "0 items indexed, 1 refused, ")
        assert "cut.jsonl.gz cannot be read" in ltrr(tmp_path / "var", "index", cut).stderr.splitlines()[-1]
        assert "catalogue.jsonl" in failed(1, tmp_path / "var", "index", ROOT / "tests")


class TestBesideAService:
    """Commands on the data folder of a running service."""

    def test_another_owner_is_refused(self, service: Process, music: Path) -> None:
        folder = folder_of(service)
        assert service.url in failed(2, folder, "serve")
        assert "stopped" in failed(2, folder, "index", music, "--rebuild")
        assert "in use" in failed(1, folder.parent / "other", "serve", port=service.url.rpartition(":")[2])

    def test_index_goes_through_the_service(
        self, service: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = folder_of(service)
        before = current(folder, "text-encoder")
        source = tmp_path / "more.jsonl.gz"
        with gzip.open(source, "wt") as file:
            file.write(
                '{"id": "zeppelin", "title": "Zeppelin over Zanzibar", "type": "track"}\n[]\n{"title": "no id"}\n'
            )
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        ended = ltrr(folder, "index", source)
        assert ended.returncode == 0, ended.stderr
        first, *problems = ended.stdout.splitlines()
        assert first == "1 items indexed, 2 refused, 0 events of history"
        assert [problem.strip().partition(": ")[0] for problem in problems] == ["line 2", "line 3"]
        assert service.search("zeppelin zanzibar")["hits"][0]["object_id"] == "zeppelin"
        version = current(folder, "text-encoder")
        assert version != before
        eventually(lambda: f"model_in_force kind=text-encoder version={version}" in service.output, 5)

    def test_a_ranker_that_passes_its_gate_is_in_force_within_seconds(self, service: Process, music: Path) -> None:
        folder = folder_of(service)
        answer = service.search("piano")
        assert service.explain(answer)["ranker"] == "passthrough"
        trained = ltrr(folder, "train", "ranker", "--data", music)
        printed = trained.stdout
        assert trained.returncode == 0, trained.stderr
        assert "NDCG@10 not worse than the order it replaces: difference" in printed
        assert "active" in printed.splitlines()[-1]
        version = current(folder, "ranker")
        assert version is not None
        assert printed.startswith(f"ranker {version}: ")

        def named() -> bool:
            return bool(service.explain(service.search("piano"))["ranker"] == version)

        eventually(named, 5)
        kinds = service.call("GET", "/v1/models")["kinds"]
        assert kinds["ranker"]["current"] == version
        assert json.loads(done(folder, "models", "show", "ranker", version))["meta"]["gate"]["promote"] is True

        store = ModelStore(folder / "models")
        stored = store.load("ranker", version)
        gate = {"promote": False, "reason": "may be worse"}
        worse = store.publish("ranker", stored.files, {**stored.meta, "gate": gate}, "worse")
        assert "did not pass its gate" in failed(1, folder, "models", "promote", "ranker", worse)
        done(folder, "models", "promote", "ranker", worse, "--force")
        eventually(lambda: service.explain(service.search("piano"))["ranker"] == worse, 5)
        assert json.loads(done(folder, "models", "rollback", "ranker", "--json")) == {
            "kind": "ranker",
            "current": version,
        }
        eventually(named, 5)
        assert "no earlier version" in failed(1, folder, "models", "rollback", "ranker")
        listed = done(folder, "models", "list").splitlines()
        assert [line[0] for line in listed if " ranker " in line] == [" ", "*"]

    def test_a_log_with_too_little_to_learn_from_says_so(self, service: Process) -> None:
        assert "too little to learn from" in failed(1, folder_of(service), "train", "ranker")

    def test_models_of_the_catalogue_can_be_stored_without_being_in_force(self, service: Process) -> None:
        folder = folder_of(service)
        for kind in ("text-encoder", "taste"):
            before = current(folder, kind)
            outcome = json.loads(done(folder, "train", kind, "--no-promote", "--json", "--seed", "1"))
            assert outcome["promoted"] is False
            assert current(folder, kind) == before != outcome["version"]
            done(folder, "models", "promote", kind, outcome["version"])
            assert current(folder, kind) == outcome["version"]

    def test_the_policy_is_rolled_back_by_the_service_that_learns_it(self, service: Process) -> None:
        folder = folder_of(service)
        before = service.search("jazz")["decision"]["model_version"]
        service.act(service.search("jazz"))
        eventually(lambda: service.search("jazz", learn=False)["decision"]["model_version"] != before)
        to = json.loads(done(folder, "models", "rollback", "policy", "--json"))["current"]
        version = service.search("jazz", learn=False)["decision"]["model_version"]
        promotions = json.loads(done(folder, "models", "show", "policy", version))["promotions"]
        assert promotions[-1]["reason"] == f"adopted {to}"

    def test_replay_draws_and_computes_every_decision_again(self, service: Process) -> None:
        for mode in ("shadow", "static", "learned"):
            service.call("PUT", "/v1/policy", json={"mode": mode})
            for query in ("piano", "slow jazz", "songs for a rainy night"):
                service.act(service.search(query, user_id="u1"))
        report = json.loads(done(folder_of(service), "replay", "--json", exploration=0.3))
        assert report["checked"] == report["drawn"] >= 9
        assert report["recomputed"] == report["computed"] >= 9
        assert report["mismatches"] == []
        assert "reproduced from their seeds" in done(folder_of(service), "replay", exploration=0.3)


async def test_a_log_that_was_tampered_with_is_found_out(copied: Path) -> None:
    with serving(copied) as process:
        for query in ("piano", "jazz", "rock"):
            process.search(query)
        assert process.stop() == 0
    offset, told = next((offset, r) for offset, r in await records(copied) if isinstance(r, Impression))
    choice = told.decision.arms["lexical"]
    other = next(count for count, _ in choice.distribution if count != choice.count)
    arms = {**told.decision.arms, "lexical": replace(choice, count=other)}
    forged = encode(replace(told, decision=replace(told.decision, arms=arms)))
    connection = sqlite3.connect(copied / "log.sqlite3")
    with connection:
        connection.execute("UPDATE log SET body = ? WHERE offset = ?", (forged, offset))
    connection.close()
    ended = ltrr(copied, "replay")
    assert (ended.returncode, ended.stderr) == (1, "")
    first, _, *mismatches = ended.stdout.splitlines()
    assert first == "3 decisions: 2 reproduced from their seeds"
    assert all(f"offset {offset} {told.query_id} lexical: drawn" in line for line in mismatches)
    assert mismatches

    connection = sqlite3.connect(copied / "log.sqlite3")
    with connection:
        connection.execute("UPDATE log SET body = ? WHERE offset = ?", (forged[:-9] + b"\x00" * 9, offset))
    connection.close()
    ended = ltrr(copied, "replay")
    assert ended.returncode == 1
    assert "1 records of the log cannot be read" in ended.stdout
    with pytest.raises(Exception, match="checksum"):
        decode(forged[:-9] + b"\x00" * 9)


def test_a_policy_goes_live_by_force_alone_while_the_log_says_too_little(copied: Path) -> None:
    """Beside a service, by its own judgement, and without one."""
    settings = {"attribution_seconds": 1.0, "snapshot_seconds": 0.1, "survey_share": 1.0}
    store = ModelStore(copied / "models")

    def said() -> list[str]:
        stored = store.current("policy")
        versions = {version.version: version for version in store.versions("policy")}
        return [] if stored is None else [p.reason for p in versions[stored.version].promotions]

    with serving(copied, **settings) as process:
        process.act(process.search("piano"))
        first = eventually(lambda: (s := store.current("policy")) and s.meta["learned"] == 1 and s.version)
        process.act(process.search("jazz"))
        eventually(lambda: (s := store.current("policy")) and s.meta["learned"] == 2)
        told = failed(1, copied, "models", "promote", "policy", first)
        assert "409" in told
        assert "too little to judge by" in told
        done(copied, "models", "promote", "policy", first, "--force", "--reason", "of the first hour")
        assert said()[-1].startswith("forced past its gate (too little to judge by")
        assert said()[-1].endswith("): of the first hour")
        assert process.stop() == 0
    later = store.publish("policy", store.load("policy", first).files | {"policy.bin": untrained()}, {}, "later")
    assert "too little to judge by" in failed(1, copied, "models", "promote", "policy", later, **settings)
    assert said()[-1].endswith("): of the first hour")
    done(copied, "models", "promote", "policy", later, "--force", **settings)
    assert said()[0] == "adopted later"
    assert said()[-1].startswith("forced past its gate (too little to judge by")


def untrained() -> bytes:
    return VWPolicy(FixedPolicy()).dump()


def test_a_policy_rolled_back_twice_goes_back_two_versions(copied: Path) -> None:
    """Also without a service: the learner goes on from the model that was asked for."""
    settings = {"attribution_seconds": 1.0, "snapshot_seconds": 0.1, "survey_share": 1.0}
    store = ModelStore(copied / "models")
    models = []
    with serving(copied, **settings) as process:
        for number in range(1, 4):
            process.act(process.search("piano"))
            stored = eventually(lambda n=number: (s := store.current("policy")) and s.meta["learned"] == n and s)
            models.append(stored.files["policy.bin"])
        assert process.stop() == 0
    assert len(set(models)) == 3
    for earlier in (models[1], models[0]):
        done(copied, "models", "rollback", "policy", **settings)
        stored = store.current("policy")
        assert stored is not None
        assert stored.files["policy.bin"] == earlier
        assert stored.meta["learned"] == 3


def test_a_service_that_cannot_start_says_why_without_a_traceback(copied: Path) -> None:
    (copied / "log.sqlite3").unlink()
    ended = ltrr(copied, "serve", port=free_port())
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert re.fullmatch(r"ltrr: .*the log ends at 0", ended.stderr.splitlines()[-1])


class TestStopping:
    @pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
    def test_a_service_ends_cleanly_and_goes_on_where_it_stood(
        self, copied: Path, how: signal.Signals, code: int
    ) -> None:
        def policy() -> Any:
            stored = ModelStore(copied / "models").current("policy")
            assert stored is not None
            return stored

        start = policy()
        settings = {"attribution_seconds": 3, "snapshot_seconds": 600}
        with serving(copied, **settings) as process:
            for query in ("piano", "jazz"):
                assert process.act(process.search(query)) == "accepted"
            eventually(lambda: "ltrr_learned_decisions_total 2.0" in process.client.get("/metrics").text)
            assert process.stop(how) == code
            assert "Traceback" not in process.output
        stopped = policy()
        assert stopped.version != start.version
        assert stopped.meta["learned"] == 2
        with serving(copied, **settings) as process:
            assert process.search("rock", learn=False)["decision"]["model_version"] == stopped.version
            assert process.stop(how) == code
        again = policy()
        assert again.files["policy.bin"] == stopped.files["policy.bin"]

    def test_ctrl_c_ends_long_work_without_a_traceback(self, music: Path, tmp_path: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "train", "ranker", "--data", str(music)],
            cwd=ROOT,
            env=environment(tmp_path / "var", data_dir=tmp_path / "var") | {"TMPDIR": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        eventually(lambda: list(tmp_path.glob("ltrr-train-*/items.sqlite3")))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert "Traceback" not in said
        assert not list(tmp_path.glob("ltrr-train-*"))


def test_the_demo_indexes_a_folder_once_and_again_when_it_changed(music: Path, tmp_path: Path) -> None:
    source, folder = tmp_path / "songs", tmp_path / "var"
    documents = list(Dataset.open(music).documents())[:50]
    write_folder(source, documents, history=list(Dataset.open(music).history())[:50])
    with serving(folder, "demo", "--data", source) as process:
        assert f"search {process.url}/ " in process.output
        assert "50 items indexed, 0 refused, 50 events of history" in process.output
        assert process.search(documents[0]["title"])["hits"][0]["document"] == documents[0]
        assert "<html" in process.client.get("/").text
        assert process.stop(signal.SIGINT) == 130
    with serving(folder, "demo", "--data", source) as process:
        assert "indexed" not in process.output
        assert process.stop() == 0
    (source / "catalogue.jsonl.gz").unlink()
    (source / "history.tsv.gz").unlink()
    (source / "catalogue.jsonl").write_text('{"id": "a", "title": "The only song", "plays": 1}\n')
    with serving(folder, "demo", "--data", source) as process:
        assert "1 items indexed" in process.output
        assert [hit["object_id"] for hit in process.search("song")["hits"]] == ["a"]
        assert process.stop() == 0


def test_convert_writes_a_folder_that_can_be_indexed(tmp_path: Path) -> None:
    published, folder = tmp_path / "beir", tmp_path / "folder"
    (published / "qrels").mkdir(parents=True)
    (published / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "Owls", "text": "Owls hunt at night."}\n{"_id": "d2", "title": "Kites", "text": ""}\n'
    )
    (published / "queries.jsonl").write_text('{"_id": "q1", "text": "night birds"}\n')
    (published / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    summary = json.loads(done(tmp_path, "convert", "beir", published, folder, "--json"))
    assert (summary["items"], summary["splits"], summary["judgements"]) == (2, {"test": 1}, 1)
    assert done(tmp_path / "var", "index", folder).startswith("2 items indexed")
    assert "absent" in failed(1, tmp_path, "convert", "beir", tmp_path / "absent", tmp_path / "other")
