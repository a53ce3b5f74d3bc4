"""`ltrr doctor` finds what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.commands import called
from tests.servers.redis import RedisServer
from tests.service import with_tracks

KEYS = "k1:" + "0123456789abcdef" * 4
NOBODY = "http://127.0.0.1:9"


def findings(folder: Path, code: int = 0, **settings: object) -> list[dict[str, Any]]:
    ended = called(folder, "doctor", "--json", **settings)
    assert ended.returncode == code, ended.stdout + ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def of(found: list[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    return [finding for finding in found if finding["part"] == part]


class TestEmbedded:
    def test_a_service_that_is_well(self, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        with with_tracks(folder) as service:
            service.search("winter song")
        before = sorted(path.name for path in folder.iterdir())
        found = findings(folder)
        assert {finding["verdict"] for finding in found if finding["part"] != "disk"} == {"ok"}
        assert "120 items" in of(found, "catalogue")[0]["detail"]
        assert "records" in of(found, "event log")[0]["detail"]
        assert sorted(path.name for path in folder.iterdir()) == before, "nothing was changed"

    def test_for_people(self, tmp_path: Path) -> None:
        with with_tracks(tmp_path / "data"):
            pass
        printed = called(tmp_path / "data", "doctor").stdout.splitlines()
        assert any(line.startswith("ok") and "catalogue" in line for line in printed)
        assert printed[-1] == "all is well" or "warnings" in printed[-1]

    def test_nothing_there_yet_is_no_failure_but_advice(self, tmp_path: Path) -> None:
        found = findings(tmp_path / "none")
        assert of(found, "catalogue")[0]["verdict"] == "warning"
        assert "ltrr index" in of(found, "catalogue")[0]["advice"]
        assert not (tmp_path / "none").exists()

    def test_a_damaged_model_is_named(self, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        with with_tracks(folder) as service:
            version = service.run(service.system.learner.publish())
        (folder / "models" / "policy" / "versions" / str(version) / "policy.bin").write_bytes(b"cut")
        found = findings(folder, code=1)
        (damaged,) = of(found, "models")
        assert damaged["verdict"] == "failed"
        assert str(version) in damaged["detail"]
        assert "rollback policy" in damaged["advice"]


class TestEngines:
    def test_each_engine_that_is_away_is_named_with_its_setting(self, tmp_path: Path) -> None:
        found = findings(
            tmp_path,
            code=1,
            redis_url="redis://:secret-of-redis@127.0.0.1:9/0",
            opensearch_url=NOBODY,
            qdrant_url=NOBODY,
            signing_keys=KEYS,
        )
        for part in ("redis", "opensearch", "qdrant"):
            (finding,) = of(found, part)
            assert finding["verdict"] == "failed"
            assert f"LTRR_{part.upper()}_URL" in finding["detail"] + finding["advice"]
        assert "secret-of-redis" not in json.dumps(found)

    def test_a_redis_that_forgets_and_a_learner_that_is_not_there(self, tmp_path: Path) -> None:
        with RedisServer(appendonly="no") as server:
            settings = {"redis_url": server.url, "signing_keys": "k1:only-twenty-letters"}
            found = findings(tmp_path, code=1, **settings)
        assert any("appendonly is off" in finding["detail"] for finding in of(found, "redis"))
        assert "shorter than 32" in of(found, "settings")[1]["detail"]
        assert "ltrr learn" in of(found, "learner")[0]["advice"]
        assert of(found, "clock")[0]["verdict"] == "ok"

    def test_too_many_workers_for_embedded_parts(self, tmp_path: Path) -> None:
        found = findings(tmp_path, code=1, workers=2)
        assert "LTRR_REDIS_URL" in of(found, "settings")[1]["advice"]
