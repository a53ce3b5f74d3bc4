"""A simulation through the front door: a process that serves, its real clock, searches and clicks as HTTP calls."""

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

from app.offline.sandbox import EMBEDDED, PATIENCE
from app.operations.client import Client, ServiceRefused
from app.process.gateway import serve
from app.settings import Settings
from app.simulation.world import LISTS
from app.telemetry import logs
from services.datasets.folder import DatasetQuery
from services.errors import StorageFailed, Unavailable
from services.simulation.judge import Judge
from services.simulation.simulate import PAGE, Shown
from services.simulation.users import Search

ATTRIBUTION_SECONDS, SNAPSHOT_SECONDS = 2.0, 0.5
"""People of a simulation click at once, and their days are minutes."""
START_SECONDS, STOP_SECONDS = 120.0, 30.0
HOST = "127.0.0.1"


@asynccontextmanager
async def served(settings: Settings, prepared: Path, folder: Path, mode: str) -> AsyncIterator[Served]:
    """A service on a copy of the folder `prepared`, under a mode of PUT /v1/policy. Raises Unavailable when it does not
    come up."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns(f"{LISTS}*"))
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
        service = Served(Client(f"http://{HOST}:{own.port}", None))
        await _ready(service, process)
        await service.call("PUT", "/v1/policy", {"mode": mode})
        yield service
    finally:
        await asyncio.to_thread(_stop, process)
        shutil.rmtree(folder, ignore_errors=True)


class Served:
    """The Service of a simulation, over HTTP."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer. Raises ServiceRefused."""
        return await asyncio.to_thread(self._client.send, method, path, b"" if body is None else orjson.dumps(body))

    async def search(self, search: Search) -> Shown:
        return _shown(
            await self._ask(
                search.query.text, user_id=search.user_id, session_id=search.session_id, context=dict(search.context)
            )
        )

    async def act(self, events: list[dict[str, Any]]) -> None:
        for result in (await self.call("POST", "/v1/feedback", events))["results"]:
            if result["status"] != "accepted":
                raise StorageFailed(f"a simulated click was not accepted: {result['status']} {result['detail']}")

    async def learn(self, publish: bool = True) -> None:
        """The service does that by itself, while searches go on."""

    async def settle(self) -> None:
        """Wait until what was clicked is learned and in force."""
        await asyncio.sleep(ATTRIBUTION_SECONDS + 4 * SNAPSHOT_SECONDS)

    async def judged(self, judge: Judge, queries: Sequence[DatasetQuery], done: int) -> NDArray[np.float64]:
        """Per query NDCG@10 of the first page, capped recall of all arms' lists together, and candidates asked for.
        Nothing of it is learned."""
        table = np.zeros((len(queries), 3))
        for place, query in enumerate(queries):
            shown = _shown(await self._ask(query.text, user_id=query.user_id, learn=False))
            why = await self.call("GET", f"/v1/explain/{shown.query_id}")
            held = {candidate["object_id"] for listed in why["arms"].values() for candidate in listed}
            table[place, 0] = judge.measures(shown.slate, query.query_id, done, ("ndcg@10",))["ndcg@10"]
            table[place, 1] = judge.measures(list(held), query.query_id, done, ("capped_recall@10",))[
                "capped_recall@10"
            ]
            table[place, 2] = sum(shown.counts.values())
        return table

    async def _ask(self, query: str, **fields: Any) -> Any:
        asked = {"query": query, "limit": PAGE, "timeout_ms": int(1000 * PATIENCE)} | fields
        return await self.call("POST", "/v1/search", asked)


def _shown(answer: Any) -> Shown:
    counts = {arm: choice["count"] for arm, choice in answer["decision"]["arms"].items()}
    return Shown(
        answer["query_id"], tuple(hit["object_id"] for hit in answer["hits"]), counts, bool(answer["degraded"])
    )


def _serve(settings: Settings) -> None:
    """What `ltrr serve` does with these settings."""
    logs.configure(settings)
    serve(settings)


async def _ready(service: Served, process: BaseProcess) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + START_SECONDS
    while process.is_alive() and loop.time() < until:
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
