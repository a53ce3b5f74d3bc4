"""A running service for tests: the real application with the real parts, in this process, on a tiny music catalogue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson
from fastapi import FastAPI

from app.http.application import create_app
from app.settings import Settings
from app.system.system import System
from services.arms.base import Arm
from services.types import Context, Deadline
from tests.builders.catalogue import TRACKS

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a call that does not end fails its test."""
HOST = "http://127.0.0.1:8000"


class Service:
    """The application on an event loop of its own thread, so that tests stay plain functions."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app: FastAPI = create_app(settings)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="service")
        self._thread.start()
        self._lifespan = self.app.router.lifespan_context(self.app)
        try:
            self.run(self._lifespan.__aenter__())
        except BaseException:
            self._stop()
            raise
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url=HOST)

    @property
    def system(self) -> System:
        system: System = self.app.state.system
        return system

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.client.request(method, path, **options))

    def search(self, query: str = "", **fields: Any) -> dict[str, Any]:
        """The answer of a search that must succeed. A long time, so that a busy machine degrades nothing."""
        response = self.request("POST", "/v1/search", json={"query": query, "timeout_ms": 10_000, **fields})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def feedback(self, *events: dict[str, Any]) -> list[str]:
        """The status of each event."""
        response = self.request("POST", "/v1/feedback", json=list(events))
        assert response.status_code == 202, response.text
        return [result["status"] for result in response.json()["results"]]

    def put(self, *documents: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = b"\n".join(orjson.dumps(document) for document in documents)
        response = self.request("PUT", "/v1/items", content=body, headers=headers)
        assert response.status_code == 200, response.text
        assert response.json()["accepted"] == len(documents), response.text

    def close(self) -> None:
        try:
            self.run(self.client.aclose())
            self.run(self._lifespan.__aexit__(None, None, None))
        finally:
            self._stop()

    def _stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Service]:
    """A service on `folder`, empty unless something ran there before."""
    service = Service(Settings.load({}, data_dir=folder, **settings))
    try:
        yield service
    finally:
        service.close()


@contextmanager
def with_tracks(folder: Path, **settings: Any) -> Iterator[Service]:
    """A service that has the TRACKS."""
    key = settings.get("admin_key")
    with running(folder, **settings) as service:
        service.put(*TRACKS, headers={"Authorization": f"Bearer {key}"} if key else None)
        yield service


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:ltrr:problem:{kind}"
    assert document["status"] == status
    assert document["title"]
    return document


class StubArm:
    """Stands in for a real arm, with the failure that the test needs. `behave` gets the count and returns the list."""

    def __init__(self, arm: Arm, behave: Callable[[int], Awaitable[Any]]) -> None:
        self.name = arm.name
        self.counts = arm.counts
        self._behave = behave

    def available(self, context: Context) -> bool:
        return True

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> Any:
        return await self._behave(count)


@contextmanager
def replaced(service: Service, names: Collection[str], behave: Callable[[int], Awaitable[Any]]) -> Iterator[None]:
    """The arms of these names behave like that for as long as the context lasts."""
    pool = service.system.search.arms
    real = pool.arms
    pool.arms = tuple(StubArm(arm, behave) if arm.name in names else arm for arm in real)
    try:
        yield
    finally:
        pool.arms = real
