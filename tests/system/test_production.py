"""The service on OpenSearch, Redis and Qdrant (a stand-in for the last), with two gateway workers and a learner of its
own: what one worker is told, all of them go by."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders.catalogue import TRACKS
from tests.commands import PATIENCE, TLS, Process, done, eventually, free_port, ltrr
from tests.servers.stack import Learner, Stack, stack

WORKERS = 2
ENOUGH = 24
"""Connections that between them reach every worker: the chance that they do not is one in eight million."""
SEARCHES = 'route="/v1/search"'


@pytest.fixture(scope="module")
def engines() -> Iterator[Stack]:
    # Nothing is left to chance: every arm is asked as the policy means it.
    with stack(workers=WORKERS, attribution_seconds=2, snapshot_seconds=1, exploration=0) as running:
        yield running


@pytest.fixture(scope="module")
def service(engines: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("production") / "nothing"
    process = Process(folder, "serve", **lowered(engines))
    try:
        process.call("PUT", "/v1/items", json=TRACKS)
        eventually(lambda: all(found["total"] for found in everywhere(process, "winter song")))
        yield process
        assert process.stop() == 0
    finally:
        process.kill()
    assert not folder.exists(), "a gateway without embedded parts keeps nothing"


def lowered(engines: Stack) -> dict[str, str]:
    return {name.removeprefix("LTRR_").lower(): value for name, value in engines.settings.items()}


def everywhere(process: Process, query: str, **fields: Any) -> list[dict[str, Any]]:
    """Answers of connections of their own, opened at once, so that every worker gives some."""
    body = {"query": query, "timeout_ms": 10_000} | fields
    answers = []
    for _ in range(ENOUGH):
        with httpx.Client(base_url=process.url, timeout=PATIENCE, verify=TLS) as client:
            response = client.post("/v1/search", json=body)
            assert response.status_code == 200, response.text
            answers.append(response.json())
    return answers


def within(seconds: float, holds: Callable[[], bool]) -> float:
    """How long it took to hold; the test fails when it does not in time."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s"
        time.sleep(0.05)
    return time.monotonic() - began


def test_answers_are_whole_and_every_arm_takes_part(service: Process) -> None:
    for answer in everywhere(service, "winter song", facets=["genres"]):
        assert answer["degraded"] == []
        assert answer["hits"]
        assert answer["facets"]["genres"]
        assert {"lexical", "structured", "vector", "memory", "personal", "explore"} == set(answer["decision"]["arms"])


def test_an_item_written_through_one_worker_is_understood_by_all_within_a_second(service: Process) -> None:
    item = {"id": "new", "title": "Zygomorphic Xylophone Etude", "artist": "Quillon Vasquez", "popularity": 9}
    service.call("PUT", "/v1/items/new", json=item)
    time.sleep(1.0)
    for answer in everywhere(service, "zygomorfic xylophone"):
        assert answer["hits"][0]["object_id"] == "new"
        assert answer["understanding"]["corrected"] == "zygomorphic xylophone", "its words are known to this worker"
    service.call("DELETE", "/v1/items/new")
    time.sleep(1.0)
    for answer in everywhere(service, "zygomorphic xylophone etude"):
        assert "new" not in [hit["object_id"] for hit in answer["hits"]]


def test_a_field_that_one_worker_learns_of_is_a_filter_at_all(service: Process) -> None:
    service.call("PUT", "/v1/items/coloured", json=TRACKS[0] | {"id": "coloured", "colour": ["teal"]})
    time.sleep(1.0)
    for answer in everywhere(service, "", filters={"colour": ["teal"]}, facets=["colour"]):
        assert [hit["object_id"] for hit in answer["hits"]] == ["coloured"]
    service.call("DELETE", "/v1/items/coloured")


def test_an_answer_of_one_worker_is_known_to_the_other(service: Process) -> None:
    first = service.search("winter song", limit=5)
    for answer in everywhere(service, "winter song", limit=5, offset=5, query_id=first["query_id"]):
        assert answer["decision"]["arms"] == first["decision"]["arms"]
        assert not {hit["object_id"] for hit in answer["hits"]} & {hit["object_id"] for hit in first["hits"]}
    statuses = []
    for _ in range(ENOUGH):
        with httpx.Client(base_url=service.url, timeout=PATIENCE, verify=TLS) as client:
            event = {"query_id": first["query_id"], "object_id": first["hits"][0]["object_id"], "action_name": "click"}
            sent = client.post("/v1/feedback", json=event | {"event_id": f"same-{first['query_id'][-8:]}"})
            statuses.append(sent.json()["results"][0]["status"])
    assert sorted(statuses) == ["accepted", *["duplicate"] * (ENOUGH - 1)]


def test_a_click_is_remembered_by_every_worker_within_a_second(service: Process) -> None:
    answer = service.search("harbour comet")
    place = len(answer["hits"]) - 1
    clicked = answer["hits"][place]["object_id"]
    assert service.act(answer, place) == "accepted"
    time.sleep(1.0)
    for again in everywhere(service, "harbour comet", learn=False):
        found = next(hit for hit in again["hits"] if hit["object_id"] == clicked)
        assert "memory" in found["arms"]


def test_the_kill_switch_is_in_force_everywhere_when_it_answers(service: Process) -> None:
    for mode in ("static", "shadow", "learned"):
        assert service.call("PUT", "/v1/policy", json={"mode": mode}) == {"mode": mode}
        assert {answer["decision"]["mode"] for answer in everywhere(service, "", learn=False)} == {mode}
        assert {answer["decision"]["mode"] for answer in everywhere(service, "garden signal", learn=False)} == {mode}
        told = [httpx.get(f"{service.url}/v1/policy", verify=TLS).json()["mode"] for _ in range(ENOUGH)]
        assert set(told) == {mode}


def test_what_was_learned_decides_in_every_worker_within_five_seconds(service: Process) -> None:
    before = in_force(service)
    for _ in range(5):
        service.act(service.search("marble river"))
    eventually(lambda: in_force(service) != before)
    learned = in_force(service)
    taken_up = within(5.0, lambda: decided_by(service) == {in_force(service)})
    assert learned is not None
    print(f"a snapshot decides in every worker after {taken_up:.1f} s")


def test_a_policy_that_is_rolled_back_goes_on_from_the_one_before_everywhere(service: Process) -> None:
    eventually(lambda: len(policies(service)) > 1)
    version = service.call("POST", "/v1/models/policy/rollback")["version"]
    (adopted,) = [known for known in policies(service) if known["version"] == version]
    assert "adopted" in adopted["meta"], "the learner went on from an earlier one"
    within(5.0, lambda: decided_by(service) == {in_force(service)})
    refused = service.client.post("/v1/models/policy/nothing-like-it/promote")
    assert refused.status_code == 404


def test_a_person_who_is_forgotten_is_forgotten_by_all(service: Process) -> None:
    answer = service.search("winter harbour", user_id="leaving")
    assert service.act(answer) == "accepted"
    within(1.0, lambda: "personal" not in answer["degraded"])
    assert service.call("DELETE", "/v1/users/leaving")["log_records"] == 2
    explained = service.explain(answer)
    assert "leaving" not in json.dumps(explained)
    assert service.call("DELETE", "/v1/users/leaving")["log_records"] == 0


def test_a_worker_that_is_killed_is_replaced_and_no_count_is_lost(service: Process) -> None:
    def asked() -> float:
        lines = service.client.get("/metrics").text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith("ltrr_requests_total") and SEARCHES in line
        )

    before = asked()
    everywhere(service, "comet meadow", learn=False)
    eventually(lambda: asked() - before == ENOUGH)  # a request is counted just after its answer has left
    victim = service.workers()[0]
    os.kill(victim, signal.SIGKILL)
    within(30.0, lambda: len(service.workers()) == WORKERS and victim not in service.workers())
    eventually(lambda: "ltrr_workers 2.0" in service.client.get("/metrics").text)
    everywhere(service, "comet meadow", learn=False)
    assert asked() - before == 2 * ENOUGH


def test_the_catalogue_is_replaced_while_people_search(service: Process, engines: Stack, tmp_path: Path) -> None:
    replaced = [track | {"label": "second edition"} for track in TRACKS if track["id"] != "t000"]
    source = tmp_path / "catalogue.jsonl"
    source.write_text("".join(json.dumps(track) + "\n" for track in replaced))
    failures: list[str] = []
    stop = threading.Event()

    def search() -> None:
        with httpx.Client(base_url=service.url, timeout=PATIENCE, verify=TLS) as client:
            while not stop.is_set():
                response = client.post(
                    "/v1/search", json={"query": "winter song", "timeout_ms": 10_000, "learn": False}
                )
                answer = response.json()
                if response.status_code != 200 or not answer["hits"] or answer["degraded"]:
                    failures.append(
                        f"{response.status_code} {answer.get('degraded')} {len(answer.get('hits', []))} hits"
                    )

    searching = threading.Thread(target=search)
    searching.start()
    try:
        ended = ltrr(tmp_path / "data", "index", source, "--rebuild", **lowered(engines))
    finally:
        stop.set()
        searching.join()
    assert ended.returncode == 0, ended.stderr
    assert "119 items indexed, 0 refused" in ended.stdout
    assert failures == []
    within(5.0, lambda: {a["total"] for a in everywhere(service, "", filters={"label": ["second edition"]})} == {119})
    assert service.client.get("/v1/items/t000").status_code == 404
    assert all(answer["degraded"] == [] for answer in everywhere(service, "winter song"))


def test_a_text_encoder_that_is_trained_is_taken_up_by_every_worker(
    service: Process, engines: Stack, tmp_path: Path
) -> None:
    ended = ltrr(tmp_path / "data", "train", "text-encoder", "--json", **lowered(engines))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["promoted"]
    time.sleep(5.0)
    for answer in everywhere(service, "winter song", learn=False):
        assert answer["degraded"] == []
        assert any("vector" in hit["arms"] for hit in answer["hits"])


def test_the_doctor_finds_all_well(engines: Stack, tmp_path: Path) -> None:
    found = json.loads(done(tmp_path / "data", "doctor", "--json", **lowered(engines)))
    assert [finding for finding in found if finding["verdict"] == "failed"] == []
    parts = {finding["part"] for finding in found}
    assert {"redis", "opensearch", "qdrant", "catalogue", "event log", "learner", "models", "clock"} <= parts
    assert not (tmp_path / "data").exists()


def test_another_learner_takes_over_and_goes_on_where_the_first_was(service: Process, engines: Stack) -> None:
    other = Learner(engines.settings | {"LTRR_LEARNER_PORT": str(free_port())})
    other.start()
    try:
        assert "waiting" in other.ready()["lease"]
        engines.learner.kill()
        answer = service.search("lantern orchard")
        assert service.act(answer) == "accepted", "feedback needs no learner"
        eventually(lambda: "held" in other.ready()["lease"])
        explained = eventually(lambda: service.explain(answer)["events"])
        assert len(explained) == 1
        memory = eventually(lambda: [h for h in service.search("lantern orchard")["hits"] if "memory" in h["arms"]])
        assert answer["hits"][0]["object_id"] in [hit["object_id"] for hit in memory]
    finally:
        assert other.stop() == 0
        engines.learner.start()


def in_force(service: Process) -> str | None:
    """The policy snapshot that the model store says is in force."""
    version: str | None = service.call("GET", "/v1/models")["kinds"].get("policy", {}).get("current")
    return version


def policies(service: Process) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.call("GET", "/v1/models")["kinds"].get("policy", {"versions": []})["versions"]
    return found


def decided_by(service: Process) -> set[str | None]:
    """Policy versions that the workers decide by."""
    return {answer["decision"]["model_version"] for answer in everywhere(service, "marble river", learn=False)}
