"""GET /v1/models, POST /v1/models/{kind}/{version}/promote, POST /v1/models/{kind}/rollback."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from app.http.requests import ADMIN_RESPONSES, json_body, json_response, parse, problems
from app.http.schemas import ModelInForce, Promotion
from app.system.system import System

router = APIRouter(tags=["models"])

ModelName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
Force = Annotated[bool, Query(description="as `force` in the body")]


@router.get(
    "/v1/models",
    summary="Kinds, versions, metrics and history",
    response_model=dict[str, Any],
    responses=ADMIN_RESPONSES,
)
async def list_models(request: Request) -> Response:
    """Every kind of model with its versions and their metrics."""
    system: System = request.app.state.system
    return json_response(await system.models.listing())


@router.post(
    "/v1/models/{kind}/{version}/promote",
    summary="Activate a version",
    response_model=ModelInForce,
    responses=problems(401, 404, 409),
    openapi_extra=json_body(Promotion, required=False),
)
async def promote(request: Request, kind: ModelName, version: ModelName, force: Force = False) -> Response:
    """Make a version active. One that did not pass its gate is rejected unless forced."""
    system: System = request.app.state.system
    promotion = parse(Promotion, await request.body() or b"{}")
    await system.models.promote(kind, version, promotion.reason, force=promotion.force or force)
    return json_response({"kind": kind, "version": version, "status": "promoted"})


@router.post(
    "/v1/models/{kind}/rollback",
    summary="Return to the previous version",
    response_model=ModelInForce,
    responses=problems(401, 404, 409),
)
async def rollback(request: Request, kind: ModelName) -> Response:
    """Go back to the version before the active one, without any gate."""
    system: System = request.app.state.system
    version = await system.models.rollback(kind)
    return json_response({"kind": kind, "version": version, "status": "promoted"})
