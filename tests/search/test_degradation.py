"""Parts that fail: the answer goes on without them and says so; what cannot be kept is not acknowledged."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.arms.retrieval import retrieve
from services.errors import ArmFailed, Unavailable
from services.policies.fixed import FIXED_COUNTS, FixedPolicy
from services.resilience.circuit import FAILURES_IN_A_ROW, Circuit
from services.rewards.rewards import arm_rewards
from services.search.arm_pool import ArmPool
from services.types import (
    ArmChoice,
    ArmOption,
    Candidate,
    Context,
    Deadline,
    Degraded,
    Impression,
    Query,
    Understanding,
)
from tests.contracts.arm import context_of
from tests.service import Service, problem, replaced, with_tracks

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("lexical", "structured", "vector", "memory", "personal", "explore")
SLACK = 3.0
"""Seconds a busy machine may add: what is told apart is an answer from none."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("degradation") / "data", policy="fixed") as service:
        # Every arm is to be asked, also the one that the static mix leaves to exploration.
        service.system.switch.learned = FixedPolicy({**FIXED_COUNTS, "explore": 5})
        yield service


@pytest.fixture(autouse=True)
def closed_circuits(service: Service) -> None:
    """Failures in one test must not keep an arm from being called in the next."""
    pool = service.system.search.arms
    pool._circuits.update(ArmPool(pool.arms)._circuits)


async def hang(_: int) -> Any:
    await asyncio.Event().wait()


async def cling(_: int) -> Any:
    """Does not let itself be cancelled at first."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0.2)
        raise RuntimeError("at last") from None


async def crash(_: int) -> Any:
    raise RuntimeError("boom: winter song")


async def refuse(_: int) -> Any:
    raise ArmFailed("unavailable")


def gives(value: Any) -> Any:
    async def behave(count: int) -> Any:
        return value(count) if callable(value) else value

    return behave


def found(object_id: Any, score: Any = 1.0) -> Any:
    return Candidate(object_id, score)


SICK = {
    "hangs": (hang, "timeout"),
    "clings": (cling, "timeout"),
    "crashes": (crash, "error"),
    "refuses": (refuse, "unavailable"),
    "nothing": (gives(None), "garbage"),
    "text": (gives("t001"), "garbage"),
    "dicts": (gives([{"object_id": "t001", "score": 1}]), "garbage"),
    "nan": (gives([found("t001", float("nan"))]), "garbage"),
    "infinite": (gives([found("t001", float("inf"))]), "garbage"),
    "huge": (gives([found("t001", 1e305)]), "garbage"),
    "score of text": (gives([found("t001", "1.0")]), "garbage"),
    "score of truth": (gives([found("t001", True)]), "garbage"),
    "number for id": (gives([found(7)]), "garbage"),
    "empty id": (gives([found("")]), "garbage"),
    "twice": (gives([found("t001"), found("t001")]), "garbage"),
    "too many": (gives(lambda count: [found(f"t{n:03}") for n in range(count + 1)]), "garbage"),
}


@pytest.mark.parametrize("arm", ["lexical", "vector", "structured", "explore"])
@pytest.mark.parametrize("sickness", SICK)
def test_one_sick_arm_is_named_and_the_others_answer(service: Service, arm: str, sickness: str) -> None:
    behave, reason = SICK[sickness]
    body = {"query": "winter song", "limit": 100, "timeout_ms": 400}
    began = time.monotonic()
    with replaced(service, {arm}, behave):
        response = service.request("POST", "/v1/search", json=body)
    assert response.status_code == 200
    assert time.monotonic() - began < 0.4 + SLACK
    answer = response.json()
    assert {"arm": arm, "reason": reason} in answer["degraded"]
    assert set(answer["decision"]["arms"]) == set(ARMS)
    assert answer["hits"]
    assert not any(arm in hit["arms"] for hit in answer["hits"])
    assert "NaN" not in response.text


def test_arms_in_time_lose_nothing_to_one_that_hangs(service: Service) -> None:
    service.run(service.system.learner.catch_up(policy=False))  # what was shown before fades predicted scores
    whole = service.search("winter song", limit=100, learn=False)
    with replaced(service, {"vector"}, hang):
        rest = service.search("winter song", limit=100, timeout_ms=1500, learn=False)
    late = {d["arm"] for d in rest["degraded"]}
    assert "vector" in late
    for arm in {"lexical", "structured", "memory"} - late:
        before = {h["object_id"]: h["arms"][arm] for h in whole["hits"] if arm in h["arms"]}
        assert before == {h["object_id"]: h["arms"][arm] for h in rest["hits"] if arm in h["arms"]}
        assert before


@pytest.mark.parametrize("sickness", ["hangs", "crashes", "twice"])
def test_all_arms_sick_still_gives_what_matches(service: Service, sickness: str) -> None:
    behave, reason = SICK[sickness]
    with replaced(service, ARMS, behave):
        response = service.request("POST", "/v1/search", json={"query": "winter song", "timeout_ms": 1000})
    assert response.status_code == 200
    answer = response.json()
    asked = {name for name, choice in answer["decision"]["arms"].items() if choice["count"]}
    assert {d["arm"] for d in answer["degraded"] if d["reason"] == reason} == asked
    assert answer["hits"]


def test_hung_backends_do_not_hang_the_answer(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    body = {"query": "winter song", "timeout_ms": 500, "user_id": "u"}
    for part, method, named in (
        (service.system.memory, "remembered", "memory"),
        (service.system.memory, "person", "personal"),
        (service.system.search.stores.index, "search", "catalogue"),
        (service.system.items, "get", "catalogue"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, method, never)
            began = time.monotonic()
            response = service.request("POST", "/v1/search", json=body)
            assert time.monotonic() - began < 0.5 + SLACK
        assert response.status_code == 200
        answer = response.json()
        assert {"arm": named, "reason": "timeout"} in answer["degraded"]
        if method in ("remembered", "person"):
            assert answer["hits"], "without memory there is still an answer"
    with monkeypatch.context() as patch:
        patch.setattr(service.system.search.stores.index, "search", never)
        for listing in ({"query": ""}, {"query": "song", "sort": "-year"}):
            response = service.request("POST", "/v1/search", json=listing | {"timeout_ms": 50})
            problem(response, 503, "unavailable")
            assert response.headers["Retry-After"] == "1"


def test_an_outage_is_not_learned_as_a_bad_arm(service: Service) -> None:
    with replaced(service, {"vector", "lexical"}, crash):
        query_id = service.search("winter song")["query_id"]
    (impression,) = [r for r in logged(service) if r.query_id == query_id]
    earned = arm_rewards(impression, [], {"click": 1.0}, price=0.001)
    assert {"vector", "lexical"} & set(earned) == set()
    assert "structured" in earned


def test_an_answer_that_could_not_be_shown_is_not_learned(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(*_: Any, **__: Any) -> Any:
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(service.system.items, "get", late)
        answer = service.search("winter song")
    assert answer["hits"] == []
    assert {"arm": "catalogue", "reason": "timeout"} in answer["degraded"]
    (impression,) = [r for r in logged(service) if r.query_id == answer["query_id"]]
    assert impression.learn is False


def logged(service: Service) -> list[Impression]:
    return [r for _, r in service.run(service.system.log.read(0, 10_000)) if isinstance(r, Impression)]


class Failing:
    """A learned policy that cannot decide."""

    name = "vw"
    version = "broken"

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        raise RuntimeError("the model is broken")


def test_the_static_policy_takes_over_from_a_learned_one_that_fails(service: Service) -> None:
    switch = service.system.switch
    learned, switch.learned = switch.learned, Failing()  # type: ignore[assignment]
    try:
        answer = service.search("winter song")
    finally:
        switch.learned = learned
    assert answer["decision"]["policy"] == FixedPolicy(budget=200).name
    assert answer["decision"]["mode"] == "learned"
    assert answer["decision"]["model_version"] is None
    assert answer["hits"]


def test_nothing_is_acknowledged_that_the_log_did_not_take(tmp_path: Path) -> None:
    with with_tracks(tmp_path / "data") as service:
        answer = service.search("winter song")
        service.run(service.system.log.close())
        event = {
            "event_id": "e1",
            "query_id": answer["query_id"],
            "object_id": answer["hits"][0]["object_id"],
            "action_name": "click",
        }
        response = service.request("POST", "/v1/feedback", json=event)
        problem(response, 503, "unavailable")
        assert int(response.headers["Retry-After"]) >= 1
        for body in ({"query": "winter song"}, {"query": ""}):
            found = service.request("POST", "/v1/search", json=body)
            assert found.status_code == 200
            assert found.json()["hits"], "what the log cannot take is found all the same"
            assert {"arm": "log", "reason": "unavailable"} in found.json()["degraded"]
        assert service.request("GET", "/livez").status_code == 200
        ready = service.request("GET", "/readyz")
        assert ready.status_code == 200, "searches are answered"
        assert ready.json()["checks"]["log"] != "ok"


FULL = """
import json, resource, sys
from pathlib import Path
from tests.service import with_tracks

with with_tracks(Path(sys.argv[1])) as service:
    answer = service.search("winter song")
    event = {"query_id": answer["query_id"], "action_name": "click"}
    events = [event | {"event_id": f"e{n}", "object_id": hit["object_id"]} for n, hit in enumerate(answer["hits"])]
    said = service.feedback(events[0])
    service.run(service.system.learner.catch_up(policy=False))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # every file is larger by now: no write goes through
    refused = service.request("POST", "/v1/feedback", json=events[1:3])
    search = service.request("POST", "/v1/search", json={"query": "winter song"})
    live = service.request("GET", "/livez").status_code
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = service.feedback(*events[:3])
    print(json.dumps([said, refused.status_code, refused.headers.get("retry-after"), search.status_code, live, again]))
"""


def test_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """Run in a process of its own, because the limit applies to the process: no file may grow."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    finished = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "data")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    said, refused, retry, search, live, again = json.loads(finished.stdout.splitlines()[-1])
    assert said == ["accepted"]
    assert (refused, retry, search, live) == (503, "1", 200, 200)
    assert again == ["duplicate", "accepted", "accepted"], "what was refused had not been taken in"


class Sick:
    """An arm by itself, that counts how often it is asked."""

    name = "vector"
    counts = (0, 5)

    def __init__(self, behave: Any) -> None:
        self.behave = behave
        self.asked = 0

    def available(self, context: Context) -> bool:
        return True

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> Any:
        self.asked += 1
        return await self.behave(count)


async def engine_down(_: int) -> Any:
    raise Unavailable("qdrant")


@pytest.mark.parametrize(
    ("behave", "seconds", "reason", "opens"),
    [
        (hang, 0.15, "timeout", True),
        (crash, 5.0, "error", True),
        (gives(None), 5.0, "garbage", True),
        (hang, 0.01, "timeout", False),  # too little time says nothing about the arm
        (engine_down, 5.0, "unavailable", False),  # the engine's own circuit watches over it
        (gives([]), 5.0, None, False),
    ],
)
async def test_an_arm_that_keeps_failing_is_not_asked_for_a_while(
    behave: Any, seconds: float, reason: str | None, opens: bool
) -> None:
    context = context_of(Query("winter song"), Understanding("winter song", (), (), None, "en", ()))
    arm, circuits = Sick(behave), {"vector": Circuit()}

    async def ask() -> list[Degraded]:
        return (await retrieve([arm], {"vector": 5}, context, Deadline.after(seconds), circuits))[1]

    for _ in range(FAILURES_IN_A_ROW):
        assert await ask() == ([Degraded("vector", reason)] if reason else [])
    assert await ask() == ([Degraded("vector", "circuit_open" if opens else reason)] if opens or reason else [])
    assert arm.asked == (FAILURES_IN_A_ROW if opens else FAILURES_IN_A_ROW + 1)


def test_clients_that_leave_leave_nothing_behind(service: Service) -> None:
    async def leave() -> tuple[int, int]:
        before = len(asyncio.all_tasks())
        body = {"query": "winter song", "timeout_ms": 300}
        for pause in (0.0, 0.001, 0.005, 0.02, 0.05) * 10:
            request = asyncio.create_task(service.client.post("/v1/search", json=body))
            await asyncio.sleep(pause)
            request.cancel()
            await asyncio.wait([request])
        for _ in range(100):
            if len(asyncio.all_tasks()) <= before:
                break
            await asyncio.sleep(0.05)
        return before, len(asyncio.all_tasks())

    with replaced(service, {"vector"}, hang):
        before, after = service.run(leave())
    assert after <= before
    assert service.system.admission._in_flight == 0
    assert service.search("winter song")["hits"]
