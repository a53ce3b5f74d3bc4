"""A simulation over HTTP: a serving process with the real clock, searches and clicks as HTTP calls."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.offline.sandbox import EMBEDDED, SEARCH_TIMEOUT
from app.operations.client import Client, ServiceRefused
from app.process.gateway import serve
from app.settings import Settings
from app.simulation.in_process import copy_prepared
from app.telemetry import logs
from services.datasets.folder import DatasetQuery
from services.errors import StorageFailed, Unavailable
from services.simulation.judge import Judge
from services.simulation.loop import PAGE_SIZE, SearchOutcome
from services.simulation.traffic import Search

ATTRIBUTION_SECONDS, SNAPSHOT_SECONDS = 2.0, 0.5
"""Short, because simulated users click at once and a simulated day takes minutes."""
START_SECONDS, STOP_SECONDS = 120.0, 30.0
HOST = "127.0.0.1"


@asynccontextmanager
async def open_served_copy(settings: Settings, prepared: Path, folder: Path, mode: str) -> AsyncIterator[HttpService]:
    """A serving process on a temporary copy, `folder`, of the folder `prepared`, with a mode of PUT /v1/policy. Raises
    Unavailable when it does not start."""
    copy_prepared(prepared, folder)
    own = settings.model_copy(
        update={
            "data_dir": folder,
            "host": HOST,
            "port": _free_port(),
            "admin_key": None,
            "workers": 1,
            "log_level": "warning",
            "attribution_seconds": ATTRIBUTION_SECONDS,
            "snapshot_seconds": SNAPSHOT_SECONDS,
        }
        | EMBEDDED
    )
    process = get_context("spawn").Process(target=_serve, args=(own,), daemon=True)
    process.start()
    try:
        service = HttpService(Client(f"http://{HOST}:{own.port}", None))
        await _ready(service, process)
        await service.call("PUT", "/v1/policy", {"mode": mode})
        yield service
    finally:
        await asyncio.to_thread(_stop, process)
        shutil.rmtree(folder, ignore_errors=True)


class HttpService:
    """The Service of a simulation over HTTP."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded response. Raises ServiceRefused."""
        return await asyncio.to_thread(self._client.send, method, path, b"" if body is None else orjson.dumps(body))

    async def search(self, search: Search) -> SearchOutcome:
        """Answer the search at the real time; its virtual time is ignored."""
        return _outcome(
            await self._search(
                search.query.text, user_id=search.user_id, session_id=search.session_id, context=dict(search.context)
            )
        )

    async def send_feedback(self, events: list[dict[str, Any]]) -> None:
        """Post feedback events. Raises StorageFailed unless all are accepted."""
        for result in (await self.call("POST", "/v1/feedback", events))["results"]:
            if result["status"] != "accepted":
                raise StorageFailed(f"a simulated click was not accepted: {result['status']} {result['detail']}")

    async def learn(self, publish: bool = True) -> None:
        """Does nothing: the service learns in the background."""

    async def settle(self) -> None:
        """Wait until all clicks are learned and the policy is published."""
        await asyncio.sleep(ATTRIBUTION_SECONDS + 4 * SNAPSHOT_SECONDS)

    async def measure_queries(self, judge: Judge, queries: Sequence[DatasetQuery], done: int) -> NDArray[np.float64]:
        """NDCG@10 of the first page, capped recall of the union of all arms' lists, and candidates requested, [queries,
        3]. Nothing of it is learned."""
        table = np.zeros((len(queries), 3))
        for place, query in enumerate(queries):
            outcome = _outcome(await self._search(query.text, user_id=query.user_id, learn=False))
            explanation = await self.call("GET", f"/v1/explain/{outcome.query_id}")
            union = {candidate["object_id"] for listed in explanation["arms"].values() for candidate in listed}
            table[place, 0] = judge.measures(outcome.slate, query.query_id, done, ("ndcg@10",))["ndcg@10"]
            table[place, 1] = judge.measures(list(union), query.query_id, done, ("capped_recall@10",))[
                "capped_recall@10"
            ]
            table[place, 2] = sum(outcome.counts.values())
        return table

    async def _search(self, query: str, **fields: Any) -> Any:
        request = {"query": query, "limit": PAGE_SIZE, "timeout_ms": int(1000 * SEARCH_TIMEOUT)} | fields
        return await self.call("POST", "/v1/search", request)


def _outcome(response: Any) -> SearchOutcome:
    counts = {arm: choice["count"] for arm, choice in response["decision"]["arms"].items()}
    return SearchOutcome(
        response["query_id"], tuple(hit["object_id"] for hit in response["hits"]), counts, bool(response["degraded"])
    )


def _serve(settings: Settings) -> None:
    """Run `ltrr serve` with these settings."""
    logs.configure(settings)
    serve(settings)


async def _ready(service: HttpService, process: BaseProcess) -> None:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + START_SECONDS
    while process.is_alive() and loop.time() < give_up_at:
        try:
            await service.call("GET", "/readyz")
        except ServiceRefused:
            await asyncio.sleep(0.1)
        else:
            return
    raise Unavailable("the simulated service")


def _stop(process: BaseProcess) -> None:
    process.terminate()
    process.join(STOP_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
