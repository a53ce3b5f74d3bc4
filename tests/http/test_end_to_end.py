"""The whole service over HTTP: what people do changes what is retrieved, and nothing is lost or counted twice."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.settings import Settings
from app.system.policies import load_policy
from services.backends.sqlite.log import SqliteLog
from services.backends.sqlite.memory import SqliteMemory
from services.learning.learner import Learner
from services.learning.snapshots import KIND, POLICY_FILE, STATE_FILE
from services.models.store import ModelStore
from services.policies.fixed import FIXED_COUNTS
from tests.builders.catalogue import TRACKS
from tests.commands import Process, done, eventually, serving
from tests.service import replaced, with_tracks

QUICK = {"attribution_seconds": 2.0, "snapshot_seconds": 0.2, "exploration": 0.3, "survey_share": 1.0}
ARMS = set(FIXED_COUNTS)
NEW = {
    "id": "new",
    "title": "Quarry of Violets",
    "artist": "Zephyrine Oakes",
    "genres": ["Folk"],
    "year": 2003,
    "popularity": 10,
    "description": "A slow song about a quarry.",
}


class Shop(Process):
    """A service whose folder outlives it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, **QUICK)
        self.folder = folder

    def mode(self, mode: str) -> None:
        self.call("PUT", "/v1/policy", json={"mode": mode})

    def put(self, *documents: Mapping[str, Any]) -> None:
        body = b"\n".join(map(orjson.dumps, documents))
        assert self.call("PUT", "/v1/items", content=body)["accepted"] == len(documents)

    def found_by(self, object_id: str, *queries: str) -> set[str]:
        """The arms that find the item by any of these queries."""
        answers = [self.search(query, learn=False, limit=50) for query in queries]
        return {arm for a in answers for hit in a["hits"] if hit["object_id"] == object_id for arm in hit["arms"]}

    def version(self) -> str:
        return str(self.search("song", learn=False)["decision"]["model_version"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A service with tracks, and users who each played the tracks of one artist."""
    process = Shop(tmp_path_factory.mktemp("shop") / "var")
    try:
        process.put(*TRACKS)
        chance = random.Random(7)
        plays = [
            {"event_id": f"{p}-{i}", "user_id": f"p{p}", "object_id": f"t{i:03}", "action_name": "play"}
            for p in range(60)
            for i in chance.sample(range(p % 5, 120, 5), 16)
        ]
        assert process.call("POST", "/v1/feedback", json=plays)["accepted"] == len(plays)
        version = json.loads(done(process.folder, "train", "taste", "--json"))["version"]
        eventually(lambda: f"kind=taste version={version}" in process.output)
        yield process
    finally:
        process.kill()


def counts(answer: dict[str, Any]) -> dict[str, int]:
    return {arm: choice["count"] for arm, choice in answer["decision"]["arms"].items()}


def test_clicks_change_the_policy_in_force_and_the_log_reproduces_every_decision(shop: Shop) -> None:
    shop.mode("learned")
    before = shop.version()
    answers = [shop.search(query, session_id=query) for query in ("river song", "winter", "garden signal", "mira holt")]
    assert [shop.act(answer, place) for place, answer in enumerate(answers)] == ["accepted"] * 4
    assert shop.act(answers[0]) == "duplicate"
    store = ModelStore(shop.folder / "models")
    eventually(lambda: (known := store.current(KIND)) and known.meta["learned"] >= 4)
    eventually(lambda: shop.version() == store.current_version(KIND) != before)
    assert shop.act(answers[0], 1) == "late"

    for answer in answers:
        told = shop.explain(answer)
        assert told["decision"]["model_version"] == answer["decision"]["model_version"]
        assert set(told["decision"]["arms"]) == ARMS
        for arm, choice in told["decision"]["arms"].items():
            shares = {share["count"]: share["probability"] for share in choice["distribution"]}
            assert sum(shares.values()) == pytest.approx(1.0)
            assert choice["count"] == counts(answer)[arm]
            assert shares[choice["count"]] == pytest.approx(choice["propensity"])

    report = json.loads(done(shop.folder, "replay", "--json", **QUICK))
    assert report["checked"] == report["drawn"] == report["recomputed"] == report["computed"] >= 6
    assert report["mismatches"] == []


def test_static_mode_fixes_the_counts_while_memory_goes_on(shop: Shop) -> None:
    shop.mode("static")
    answers = [shop.search("lantern", session_id=f"s{i}") for i in range(8)]
    assert len({orjson.dumps(counts(answer)) for answer in answers}) == 1
    assert {choice["propensity"] for a in answers for choice in a["decision"]["arms"].values()} == {1.0}
    assert {(a["decision"]["policy"], a["decision"]["mode"]) for a in answers} == {("fixed", "static")}
    place = next(place for place, hit in enumerate(answers[0]["hits"]) if place and "memory" not in hit["arms"])
    clicked = answers[0]["hits"][place]["object_id"]
    shop.act(answers[0], place)
    eventually(lambda: "memory" in shop.found_by(clicked, "lantern"), 1)
    learned = ModelStore(shop.folder / "models").current_version(KIND)
    eventually(lambda: ModelStore(shop.folder / "models").current_version(KIND) != learned)


def test_shadow_mode_serves_the_static_counts_and_logs_the_learned_ones(shop: Shop) -> None:
    shop.mode("static")
    fixed = counts(shop.search("lantern"))
    shop.mode("shadow")
    answers = [shop.search("lantern") for _ in range(12)]
    assert all(counts(answer) == fixed for answer in answers)
    shadows = [shop.explain(answer)["decision"]["shadow"] for answer in answers]
    assert all(set(shadow) == ARMS for shadow in shadows)
    assert any({arm: choice["count"] for arm, choice in shadow.items()} != fixed for shadow in shadows)


def test_a_written_item_is_in_every_arm_within_a_second_and_a_deleted_one_in_none(shop: Shop) -> None:
    shop.mode("static")
    queries = ("quarry of violets", "zephyrine oakes", "folk 2003")
    assert shop.found_by("new", *queries) == set()
    shop.put(NEW)
    eventually(lambda: shop.found_by("new", *queries) >= {"lexical", "structured", "vector", "memory"}, 1)
    shop.put(NEW | {"title": "Ledger of Thorns"})
    assert shop.search("ledger of thorns", learn=False)["hits"][0]["object_id"] == "new"
    shop.call("DELETE", "/v1/items/new")
    assert shop.found_by("new", *queries, "ledger of thorns") == set()
    assert all(hit["object_id"] != "new" for hit in shop.search("", limit=100)["hits"])


def test_a_person_with_a_history_is_served_by_the_personal_arm_until_forgotten(shop: Shop) -> None:
    shop.mode("static")
    assert "personal" not in {arm for hit in shop.search("song", user_id="nobody")["hits"] for arm in hit["arms"]}
    answer = shop.search("song", user_id="p1", limit=50)
    assert any("personal" in hit["arms"] for hit in answer["hits"])
    artists = {track["id"]: track["artist"] for track in TRACKS}
    best = [artists[found["object_id"]] for found in shop.explain(answer)["arms"]["personal"][:3]]
    assert best == [artists["t001"]] * 3
    shop.act(answer, 0)
    blanked = shop.call("DELETE", "/v1/users/p1")["log_records"]
    assert blanked >= 16
    again = shop.search("song", user_id="p1", limit=50)
    assert "personal" not in {arm for hit in again["hits"] for arm in hit["arms"]}
    assert {"arm": "personal", "reason": "nothing to go on"} in shop.explain(again)["not_called"]
    assert shop.explain(answer)["query"] == ""


async def test_after_a_kill_learning_ends_in_the_very_bytes_of_learning_from_scratch(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    with serving(folder, **QUICK) as process:
        process.call("PUT", "/v1/items", content=b"\n".join(map(orjson.dumps, TRACKS)))
        process.act(process.search("garden", session_id="early"))
        time.sleep(QUICK["attribution_seconds"] / 2)
        for number, query in enumerate(("river song", "comet", "winter", "orchard", "nils aster")):
            process.act(process.search(query, session_id=query), number)
        # The snapshot holds what was learned of the first, and has the windows of the others open.
        eventually(lambda: (stored := ModelStore(folder / "models").current(KIND)) and stored.meta["learned"] >= 1)
        process.kill()
    with serving(folder, **QUICK) as process:
        for number, query in enumerate(("comet", "ada and the owls", "jazz")):
            process.act(process.search(query, session_id=f"{query} again"), number)
        wanted = {"ltrr_learner_open_impressions 0.0", 'ltrr_learner_lag_records{consumer="policy"} 0.0'}
        eventually(lambda: wanted <= set(process.client.get("/metrics").text.splitlines()))
        assert process.stop(signal.SIGTERM) == 0
    alive, scratch = ModelStore(folder / "models").current(KIND), await learned_from_scratch(folder, tmp_path)
    assert alive is not None
    assert alive.meta["learned"] == scratch.meta["learned"] >= 8
    assert taught(Settings.load({}, data_dir=folder, **QUICK), alive) >= 5
    assert alive.files[STATE_FILE] == scratch.files[STATE_FILE]
    assert alive.files[POLICY_FILE] == scratch.files[POLICY_FILE]


def taught(settings: Settings, stored: Any) -> int:
    """How many answers have taught the policy of this snapshot something."""
    return load_policy(settings, stored.files[POLICY_FILE]).relevance.answers  # type: ignore[union-attr]


async def learned_from_scratch(folder: Path, scratch: Path) -> Any:
    """The snapshot of a learner that reads the log of `folder` for the first time, all at once."""
    settings = Settings.load({}, data_dir=scratch, **QUICK)
    log, memory = SqliteLog(folder / "log.sqlite3"), SqliteMemory(scratch / "memory.sqlite3", half_life=1e6)
    store = ModelStore(scratch / "models")
    learner = Learner(
        log,
        memory,
        store,
        load_policy(settings),
        lambda model: load_policy(settings, model),
        attribution=settings.attribution_seconds,
        weights=settings.action_weights,
        principal_cap=settings.principal_cap,
        snapshot_seconds=1e6,
    )
    try:
        await learner.restore()
        await learner.catch_up()
        await learner.publish()
    finally:
        await log.close()
        await memory.close()
    return store.current(KIND)


def test_the_policy_learns_nothing_from_answers_that_lack_an_arm(tmp_path: Path) -> None:
    """An outage would be learned as a bad arm."""

    async def fail(count: int) -> Any:
        raise RuntimeError("out of order")

    def learned() -> tuple[int, int]:
        """Decisions whose time is up, and those of them that the policy was taught by."""
        stored = service.system.store.current(KIND)
        return (0, 0) if stored is None else (stored.meta["learned"], taught(service.settings, stored))

    with with_tracks(tmp_path / "var", attribution_seconds=2.0, snapshot_seconds=0.1, survey_share=1.0) as service:
        service.request("PUT", "/v1/policy", json={"mode": "static"})
        with replaced(service, {"vector"}, fail):
            answers = [service.search("river song", session_id=f"s{i}") for i in range(3)]
        assert [answer["degraded"][0]["arm"] for answer in answers] == ["vector"] * 3
        clicked = answers[0]["hits"][0]["object_id"]
        event = {"query_id": answers[0]["query_id"], "object_id": clicked, "action_name": "click"}
        assert service.feedback(event | {"event_id": "e1"}) == ["accepted"]
        eventually(lambda: learned()[0] == 3)
        assert learned() == (3, 0)
        service.search("river song")
        eventually(lambda: learned() == (4, 1))
