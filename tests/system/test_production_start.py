"""A gateway starts with whatever engines are there, and takes up the others when they come."""

from __future__ import annotations

import time
from pathlib import Path

from tests.builders.catalogue import TRACKS
from tests.commands import Process, called
from tests.servers.opensearch import OpenSearchNode
from tests.servers.qdrant import QdrantStub
from tests.servers.redis import RedisServer

KEYS = "k1:" + "0123456789abcdef" * 4
SOON = 30.0


def degraded(process: Process) -> set[str]:
    return {part["arm"] for part in process.search("winter song", learn=False)["degraded"]}


def arms(process: Process) -> set[str]:
    """Arms that found something of what is shown."""
    return {arm for hit in process.search("winter song", learn=False)["hits"] for arm in hit["arms"]}


def test_it_starts_while_opensearch_and_qdrant_are_away_and_builds_their_indexes_when_they_come(tmp_path: Path) -> None:
    with RedisServer() as redis, QdrantStub() as qdrant, OpenSearchNode() as opensearch:
        settings = {
            "redis_url": redis.url,
            "qdrant_url": qdrant.url,
            "opensearch_url": opensearch.url,
            "signing_keys": KEYS,
            "exploration": 0,
        }
        opensearch.kill()
        qdrant.kill()
        process = Process(tmp_path / "data", "serve", **settings)
        try:
            refused = process.client.put("/v1/items", json=TRACKS)
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert process.call("GET", "/v1/items/t000")["id"] == "t000", "it is kept, if not yet found"
            assert {"lexical", "catalogue"} & degraded(process)
            opensearch.start()
            qdrant.start()
            until = time.monotonic() + SOON
            while degraded(process) or not {"lexical", "vector"} <= arms(process):
                assert time.monotonic() < until, process.search("winter song", learn=False)
                time.sleep(0.2)
            assert process.stop() == 0
        finally:
            process.kill()
        assert not (tmp_path / "data").exists()


def test_without_redis_it_says_so_in_one_line(tmp_path: Path) -> None:
    ended = called(tmp_path / "data", "serve", redis_url="redis://127.0.0.1:9", signing_keys=KEYS)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("ltrr: ")]
    assert "LTRR_REDIS_URL" in line
    assert "ltrr doctor" in line


def test_each_engine_alone_beside_embedded_parts(tmp_path: Path) -> None:
    with RedisServer() as redis, QdrantStub() as qdrant, OpenSearchNode() as opensearch:
        alone: list[dict[str, object]] = [
            {"redis_url": redis.url, "signing_keys": KEYS},
            {"qdrant_url": qdrant.url},
            {"opensearch_url": opensearch.url},
        ]
        for number, settings in enumerate(alone):
            process = Process(tmp_path / f"data-{number}", "serve", namespace=f"alone-{number}", **settings)
            try:
                process.call("PUT", "/v1/items", json=TRACKS)
                answer = process.search("winter song")
                assert answer["degraded"] == []
                assert answer["hits"]
                assert process.act(answer) == "accepted"
                assert process.stop() == 0
            finally:
                process.kill()
            process = Process(tmp_path / f"data-{number}", "serve", namespace=f"alone-{number}", **settings)
            try:
                again = process.search("winter song")
                assert [hit["object_id"] for hit in again["hits"]][:1]
                assert again["total"] == answer["total"]
                assert process.act(answer) == "duplicate"
            finally:
                process.kill()
