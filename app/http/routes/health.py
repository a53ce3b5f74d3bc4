"""GET /livez, /readyz, /metrics."""

from __future__ import annotations

from typing import Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from app.http.requests import ADMIN_RESPONSES, json_response, problems
from app.http.schemas import Health
from app.telemetry.metrics_export import Exposition


class Watched(Protocol):
    """The service or the learner, as seen by its probes."""

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """(ready, part -> "ok" or the kind of its failure)."""
        ...

    async def observe(self) -> object:
        """Update the gauges."""
        ...


router = APIRouter(tags=["operations"])
metrics_router = APIRouter(tags=["operations"])


@router.get("/livez", summary="Is the process alive", response_model=Health, responses=problems())
async def livez() -> Response:
    """Always ok while the process answers."""
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    summary="Can it answer searches",
    response_model=Health,
    responses=problems()
    | {503: {"model": Health, "description": "it cannot, and `checks` names the part; or it is about to leave"}},
)
async def readyz(request: Request) -> Response:
    """503 while draining, or while a part that searches need has failed."""
    if request.app.state.draining.active:
        return json_response({"status": "draining"}, 503)
    system: Watched = request.app.state.system
    ready, checks = await system.ready()
    return json_response({"status": "ok" if ready else "unavailable", "checks": checks}, 200 if ready else 503)


@metrics_router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=ADMIN_RESPONSES,
)
async def prometheus(request: Request) -> Response:
    """All metrics in Prometheus' text format."""
    system: Watched = request.app.state.system
    await system.observe()
    exposition: Exposition = request.app.state.exposition
    return await exposition.response()
