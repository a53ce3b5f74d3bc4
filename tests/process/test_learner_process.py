"""`ltrr learn` as people run it: probes, metrics, one of two at work, and an orderly end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.commands import PATIENCE, ROOT, TLS, environment, eventually, failed, free_port
from tests.servers.redis import RedisServer

KEY = "letmein"
KEYS = "k1:" + "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Learner:
    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        settings = {"redis_url": redis.url, "signing_keys": KEYS, "learner_port": port, "admin_key": KEY}
        self.output = folder / f"learner-{port}"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "learn"],
                cwd=ROOT,
                env=environment(folder / "data", **settings),
                stderr=output,
            )

    def get(self, path: str, key: str = KEY) -> httpx.Response:
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE, verify=TLS)

    def lease(self) -> str | None:
        assert self.process.poll() is None, self.output.read_text()
        try:
            return str(self.get("/readyz").json()["checks"]["lease"])
        except httpx.TransportError:
            return None


@contextmanager
def learner(folder: Path, redis: RedisServer) -> Iterator[Learner]:
    started = Learner(folder, redis)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait(PATIENCE)


def test_one_learns_and_the_other_takes_over_when_it_ends(tmp_path: Path, redis: RedisServer) -> None:
    with learner(tmp_path, redis) as first:
        eventually(lambda: (first.lease() or "").startswith("held, epoch"))
        assert first.get("/livez").json()["status"] == "ok"
        assert first.get("/metrics", key="wrong").status_code == 401
        assert "ltrr_learner_lag_records" in first.get("/metrics").text
        assert first.get("/v1/search").status_code == 404
        with learner(tmp_path, redis) as second:
            assert "waiting" in eventually(second.lease)
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(PATIENCE) == 0
            eventually(lambda: (second.lease() or "").startswith("held, epoch"))
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(PATIENCE) == 0
        for ended in (first, second):
            assert "Traceback" not in ended.output.read_text()


def test_without_a_log_that_processes_share_it_says_where_the_learner_is(tmp_path: Path) -> None:
    assert "inside it; use `ltrr serve`" in failed(2, tmp_path, "learn")


def test_redis_that_cannot_be_reached_is_said_in_one_line(tmp_path: Path) -> None:
    settings = {"redis_url": f"redis://127.0.0.1:{free_port()}/0", "signing_keys": KEYS}
    failed(1, tmp_path, "learn", learner_port=free_port(), **settings)
