"""The model store in Redis: its contract, several writers, and a server that is killed, frozen or away."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from services.errors import ModelInvalid, StorageFailed, Unavailable
from services.models import redis_files
from services.models.files import Files
from services.models.redis_files import RedisFiles
from services.models.store import ModelStore
from tests.contracts.model_store import FILES, ModelStoreContract, current, running, two_versions
from tests.servers.redis import RedisServer

SLACK = 3.0
"""Seconds a busy machine may add."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def space(folder: Path) -> str:
    """A namespace for each test, as it has a folder of its own."""
    return "t-" + hashlib.sha256(str(folder).encode()).hexdigest()[:12]


class TestRedisFiles(ModelStoreContract):
    @pytest.fixture(autouse=True)
    def _connect(self, server: RedisServer) -> Iterator[None]:
        self.server = server
        self.client: Any = redis.Redis.from_url(server.url)
        yield
        self.client.close()

    def open(self, folder: Path) -> Files:
        return RedisFiles(self.server.url, space(folder))

    def spoil(self, folder: Path, version: str, name: str, data: bytes | None) -> None:
        key = f"{{{space(folder)}}}:models:version:ranker:{version}"
        if data is None:
            assert self.client.hdel(key, name) == 1
        else:
            self.client.hset(key, name, data)

    def spoil_promotion(self, folder: Path, number: int, data: bytes) -> None:
        self.client.hset(f"{{{space(folder)}}}:models:promotions:ranker", str(number), data)

    def test_namespaces_share_nothing(self, tmp_path: Path) -> None:
        two_versions(self.open(tmp_path / "a"))
        assert ModelStore(self.open(tmp_path / "b")).kinds() == []
        keys = {key.decode() for key in self.client.scan_iter(f"{{{space(tmp_path / 'a')}}}:*")}
        assert {key.split(":")[2] for key in keys} == {"kinds", "versions", "version", "promotions"}

    def test_writers_of_several_processes_lose_no_promotion(self, tmp_path: Path) -> None:
        """Each has connections and a lock of its own; every promotion is in the history in the end."""

        def write(writer: int) -> list[str]:
            store = ModelStore(self.open(tmp_path))
            mine = [f"w{writer}-{number}" for number in range(10)]
            for version in mine:
                store.publish("ranker", {"a": version.encode()}, {}, version)
                store.promote("ranker", version, "race")
            return mine

        with ThreadPoolExecutor(4) as pool:
            promoted = [version for mine in pool.map(write, range(4)) for version in mine]
        store = ModelStore(self.open(tmp_path))
        assert sorted(v.version for v in store.versions("ranker") if len(v.promotions) == 1) == sorted(promoted)
        assert self.open(tmp_path).promotions("ranker") == list(range(40, 0, -1))

    def test_the_same_version_by_two_writers_is_one_of_them_whole(self, tmp_path: Path) -> None:
        def publish(writer: int) -> bool:
            try:
                ModelStore(self.open(tmp_path)).publish("ranker", {"a": bytes([writer]) * 100_000}, {}, "v1")
            except ModelInvalid:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            took = list(pool.map(publish, range(8)))
        assert sum(took) == 1
        found = ModelStore(self.open(tmp_path)).load("ranker", "v1").files["a"]
        assert found == bytes([took.index(True)]) * 100_000

    def test_pruning_beside_promotions_never_takes_what_is_in_force(self, tmp_path: Path) -> None:
        stop = threading.Event()

        def prune() -> None:
            store = ModelStore(self.open(tmp_path))
            while not stop.is_set():
                store.prune("ranker", keep=1)

        store = two_versions(self.open(tmp_path))
        with running(prune, stop):
            for number in range(50):
                version = f"v{number + 3}"
                store.publish("ranker", FILES, {}, version)
                store.promote("ranker", version, "next")
                assert current(store) == version

    def test_whose_epoch_is_over_changes_nothing(self, tmp_path: Path) -> None:
        """Also when the epoch ends between the check and the change."""
        key = f"{{{space(tmp_path)}}}:lease:learner:epoch"
        self.client.set(key, 3)
        store = ModelStore(RedisFiles(self.server.url, space(tmp_path), fence=lambda: (key, 3)))
        store.publish("policy", {"vw": b"1"}, {}, "v1")
        store.promote("policy", "v1", "snapshot")

        def end() -> None:
            self.client.set(key, 4)

        for epoch, guard in ((4, None), (3, end)):
            self.client.set(key, epoch)
            with pytest.raises(StorageFailed, match="another process"):
                store.publish("policy", {"vw": b"2"}, {}, "v2", guard)
            self.client.set(key, epoch)
            with pytest.raises(StorageFailed, match="another process"):
                store.promote("policy", "v1", "snapshot", guard)
        others = ModelStore(self.open(tmp_path))
        assert [v.version for v in others.versions("policy")] == ["v1"]
        assert len(others.versions("policy")[0].promotions) == 1


def test_a_server_that_is_away_is_no_damaged_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:
        store = two_versions(RedisFiles(server.url, "ltrr"))
        server.kill()
        for ask in (
            lambda: store.current("ranker"),
            lambda: store.current_version("ranker"),
            lambda: store.versions("ranker"),
            lambda: store.load("ranker", "v1"),
            lambda: store.publish("ranker", FILES, {}, "v3"),
            lambda: store.promote("ranker", "v1", "no"),
            lambda: store.prune("ranker", 1),
            store.kinds,
        ):
            with pytest.raises(Unavailable):
                ask()
        assert not caplog.records
        server.restart()
        assert current(store) == "v2"


def test_a_server_that_never_answers_does_not_hang_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_files, "REPLY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        files = RedisFiles(f"redis://127.0.0.1:{hole.getsockname()[1]}/0")
        began = time.monotonic()
        with pytest.raises(Unavailable):
            files.kinds()
        with pytest.raises(Unavailable):
            files.write("ranker", "v1", FILES, replace=False)
        assert time.monotonic() - began < 0.4 + SLACK


def publish_many(files: RedisFiles) -> None:
    for number in range(3):
        files.write("ranker", f"v{number}", {"a": bytes(4_000_000)}, replace=False)


def test_a_refusal_names_no_key(tmp_path: Path) -> None:
    with RedisServer(maxmemory="2mb") as server:
        files = RedisFiles(server.url, "secret-space")
        with pytest.raises(StorageFailed) as caught:
            publish_many(files)
        assert "secret" not in str(caught.value)


class Story:
    """One version after the other is published and promoted, until something fails."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.tried = self.promised = -1
        self.begun = threading.Event()

    def go_on(self) -> None:
        while True:
            self.tried += 1
            version = f"v{self.tried:06d}"
            self.store.publish("policy", {"model": version.encode() * 5000}, {}, version)
            self.store.promote("policy", version, "snapshot")
            self.promised = self.tried
            self.begun.set()
            self.store.prune("policy", keep=3)


def test_kill_9_of_the_server_leaves_the_state_before_or_after() -> None:
    """While one version after the other is published and promoted; whatever was promised is there afterwards."""
    rng = random.Random(4)
    with RedisServer() as server:
        store = ModelStore(RedisFiles(server.url, "ltrr"))
        story = Story(store)
        for _ in range(8):
            delay = rng.uniform(0.0, 0.05)

            def kill(delay: float = delay) -> None:
                story.begun.wait(10.0)
                time.sleep(delay)  # a moment by chance, not something to wait for
                server.kill()

            story.begun.clear()
            killer = threading.Thread(target=kill)
            killer.start()
            with pytest.raises(StorageFailed):
                story.go_on()
            killer.join()
            server.restart()
            model = store.current("policy")
            assert model is not None
            assert int(model.version[1:]) in (story.promised, story.tried)
            for found in store.versions("policy"):
                assert store.load("policy", found.version).files == {"model": found.version.encode() * 5000}
            names = [v.version for v in store.versions("policy")]
            assert RedisFiles(server.url, "ltrr").versions("policy") == sorted(names), "no version is there in part"
