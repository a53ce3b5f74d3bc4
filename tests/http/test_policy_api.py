"""GET and PUT /v1/policy: in force before the answer, and after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service import Service, problem, running, with_tracks


def put(service: Service, mode: str) -> None:
    response = service.request("PUT", "/v1/policy", json={"mode": mode})
    assert response.status_code == 200
    assert response.json() == {"mode": mode}


def test_mode_is_in_force_at_once_and_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with with_tracks(folder) as service:
        assert service.request("GET", "/v1/policy").json() == {"mode": "learned"}
        learned = service.search("winter song")["decision"]
        assert (learned["mode"], learned["policy"]) == ("learned", "vw")
        for mode in ("static", "learned", "shadow", "static"):
            put(service, mode)
            assert service.search("winter song")["decision"]["mode"] == mode
        put(service, "static")
    with running(folder) as service:
        assert service.request("GET", "/v1/policy").json() == {"mode": "static"}
        assert service.search("winter song")["decision"]["mode"] == "static"


def test_static_fixes_the_counts_and_nothing_else(tmp_path: Path) -> None:
    with with_tracks(tmp_path / "data") as service:
        put(service, "static")
        answers = [service.search("winter song", limit=10) for _ in range(5)]
        counts = [{name: c["count"] for name, c in a["decision"]["arms"].items()} for a in answers]
        assert all(chosen == counts[0] for chosen in counts)
        assert {c["propensity"] for c in answers[0]["decision"]["arms"].values()} == {1.0}
        last = answers[0]["hits"][-1]["object_id"]
        statuses = [
            service.feedback({"event_id": f"e{n}", "query_id": a["query_id"], "object_id": last, "action_name": "play"})
            for n, a in enumerate(answers)
            if last in [hit["object_id"] for hit in a["hits"]]
        ]
        assert statuses
        assert all(status == ["accepted"] for status in statuses)
        service.run(service.system.learner.catch_up(policy=False))
        hits = service.search("winter song", limit=100)["hits"]
        assert "memory" in next(hit for hit in hits if hit["object_id"] == last)["arms"], "memory goes on learning"


def test_shadow_logs_what_the_learned_policy_would_have_chosen(tmp_path: Path) -> None:
    with with_tracks(tmp_path / "data") as service:
        put(service, "shadow")
        answer = service.search("winter song")
        told = service.request("GET", f"/v1/explain/{answer['query_id']}").json()["decision"]
        assert set(told["shadow"]) == set(told["arms"])
        put(service, "static")
        answer = service.search("winter song")
        told = service.request("GET", f"/v1/explain/{answer['query_id']}").json()["decision"]
        assert "shadow" not in told


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'"static"', b'{"mode": "off"}', b'{"mode": null}', b'{"mode": "Static"}',
             b'{"mode": "static", "why": 1}', b'{"mode": ["static"]}']
)  # fmt: skip
def test_other_modes_are_refused_and_change_nothing(tmp_path: Path, body: bytes) -> None:
    with running(tmp_path / "data") as service:
        problem(service.request("PUT", "/v1/policy", content=body), 422, "invalid-request")
        assert service.request("GET", "/v1/policy").json() == {"mode": "learned"}


def test_a_mode_that_was_not_kept_is_not_in_force(tmp_path: Path) -> None:
    with running(tmp_path / "data") as service:
        service.run(service.system.state.close())
        problem(service.request("PUT", "/v1/policy", json={"mode": "static"}), 503, "unavailable")
        assert service.request("GET", "/v1/policy").json() == {"mode": "learned"}
