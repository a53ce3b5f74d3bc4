"""GET /livez, /readyz, /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.requests import json_response
from app.wiring import System

router = APIRouter(tags=["operations"])
metrics_router = APIRouter(tags=["operations"])


@router.get("/livez", summary="Is the process alive")
async def livez() -> Response:
    return json_response({"status": "ok"})


@router.get("/readyz", summary="Can it answer searches")
async def readyz(request: Request) -> Response:
    system: System = request.app.state.system
    ready, checks = await system.ready()
    return json_response({"status": "ok" if ready else "unavailable", "checks": checks}, 200 if ready else 503)


@metrics_router.get("/metrics", summary="Prometheus metrics")
async def prometheus(request: Request) -> Response:
    system: System = request.app.state.system
    await system.observe()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
