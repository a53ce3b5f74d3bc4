"""GET /livez, /readyz, /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.requests import ADMIN_RESPONSES, json_response, problems
from app.schemas import Health
from app.wiring import System

router = APIRouter(tags=["operations"])
metrics_router = APIRouter(tags=["operations"])


@router.get("/livez", summary="Is the process alive", response_model=Health, responses=problems())
async def livez() -> Response:
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    summary="Can it answer searches",
    response_model=Health,
    responses=problems() | {503: {"model": Health, "description": "it cannot; `checks` names the part"}},
)
async def readyz(request: Request) -> Response:
    system: System = request.app.state.system
    ready, checks = await system.ready()
    return json_response({"status": "ok" if ready else "unavailable", "checks": checks}, 200 if ready else 503)


@metrics_router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=ADMIN_RESPONSES,
)
async def prometheus(request: Request) -> Response:
    system: System = request.app.state.system
    await system.observe()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
