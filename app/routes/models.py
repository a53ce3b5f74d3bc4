"""GET /v1/models, POST /v1/models/{kind}/{version}/promote, POST /v1/models/{kind}/rollback."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.requests import ADMIN_RESPONSES, json_body, json_response, parse
from app.schemas import Promotion
from app.wiring import System

router = APIRouter(tags=["models"])


@router.get(
    "/v1/models",
    summary="Kinds, versions, metrics and history",
    response_model=dict[str, Any],
    responses=ADMIN_RESPONSES,
)
async def list_models(request: Request) -> Response:
    system: System = request.app.state.system
    return json_response(await system.models.listing())


@router.post(
    "/v1/models/{kind}/{version}/promote",
    summary="Make a version the one in force",
    responses=ADMIN_RESPONSES,
    openapi_extra=json_body(Promotion),
)
async def promote(request: Request, kind: str, version: str) -> Response:
    system: System = request.app.state.system
    asked = parse(Promotion, await request.body() or b"{}")
    await system.models.promote(kind, version, asked.reason, force=asked.force)
    return json_response({"kind": kind, "version": version, "status": "promoted"})


@router.post("/v1/models/{kind}/rollback", summary="Back to the version before", responses=ADMIN_RESPONSES)
async def rollback(request: Request, kind: str) -> Response:
    system: System = request.app.state.system
    version = await system.models.rollback(kind)
    return json_response({"kind": kind, "version": version, "status": "promoted"})
