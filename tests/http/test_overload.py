"""More searches than the process takes on: shed at once, and everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.service import Service, problem, replaced, with_tracks

LIMIT = 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("overload") / "data", max_concurrency=LIMIT) as service:
        yield service


class Gate:
    """An arm that waits until it is let through, and says when as many wait as there is room for."""

    def __init__(self) -> None:
        self.waiting = 0
        self.full = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, _: int) -> Any:
        self.waiting += 1
        if self.waiting == LIMIT:
            self.full.set()
        await self.open.wait()
        return []


def shed() -> float:
    return REGISTRY.get_sample_value("ltrr_shed_requests_total", {"route": "/v1/search"}) or 0.0


def test_searches_are_shed_while_feedback_and_health_are_answered(service: Service) -> None:
    first = service.search("winter song")
    body = {"query": "winter song", "timeout_ms": 10_000}
    event = {
        "event_id": "during",
        "query_id": first["query_id"],
        "object_id": first["hits"][0]["object_id"],
        "action_name": "click",
    }
    gate = Gate()
    counted = shed()

    async def crowd() -> tuple[list[Any], list[Any], dict[str, Any]]:
        accepted = [asyncio.create_task(service.client.post("/v1/search", json=body)) for _ in range(LIMIT)]
        await gate.full.wait()
        # These are answered although the gate is shut: nothing waits behind the searches in flight.
        refused = [await service.client.post("/v1/search", json=body) for _ in range(5)]
        refused.append(await service.client.get("/v1/search?q=winter"))
        others = {
            "feedback": await service.client.post("/v1/feedback", json=event),
            "live": await service.client.get("/livez"),
            "ready": await service.client.get("/readyz"),
            "item": await service.client.get("/v1/items/t001"),
            "bad": await service.client.post("/v1/search", json={"limit": 0}),
        }
        gate.open.set()
        return await asyncio.gather(*accepted), refused, others

    with replaced(service, {"lexical"}, gate):
        accepted, refused, others = service.run(crowd())
    assert [response.status_code for response in accepted] == [200] * LIMIT
    assert all(response.json()["hits"] for response in accepted)
    for response in refused:
        problem(response, 503, "unavailable")
        assert response.headers["Retry-After"] == "1"
    assert shed() - counted == len(refused)
    assert others["feedback"].json()["results"][0]["status"] == "accepted"
    assert [others[name].status_code for name in ("live", "ready", "item", "bad")] == [200, 200, 200, 422]
    assert service.search("winter song")["hits"], "and afterwards all is as before"


def test_a_search_that_fails_gives_its_place_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: Any) -> Any:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr(service.system.search, "collect", crash)
        for _ in range(3 * LIMIT):
            response = service.request("POST", "/v1/search", json={"query": "winter"})
            problem(response, 500, "internal-error")
            assert "RuntimeError" not in response.text
    assert service.search("winter song")["hits"]
