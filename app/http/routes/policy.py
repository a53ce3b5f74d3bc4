"""GET and PUT /v1/policy: the kill switch, and apprentice (shadow) mode."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.http.requests import ADMIN_RESPONSES, json_body, json_response, parse
from app.http.schemas import PolicyMode
from app.system.system import System

router = APIRouter(tags=["policy"])


@router.get("/v1/policy", summary="The active mode", response_model=PolicyMode, responses=ADMIN_RESPONSES)
async def get_policy(request: Request) -> Response:
    """The current mode: learned, static or shadow."""
    system: System = request.app.state.system
    return json_response({"mode": await system.mode()})


@router.put(
    "/v1/policy",
    summary="Change the mode: active when this answers, and after a restart",
    description="`static` fixes the counts only: memory, ranker and learning continue. "
    "`shadow` serves the static counts and logs what the learned policy would have chosen.",
    response_model=PolicyMode,
    responses=ADMIN_RESPONSES,
    openapi_extra=json_body(PolicyMode),
)
async def put_policy(request: Request) -> Response:
    """Set the mode for every process and after a restart."""
    system: System = request.app.state.system
    mode = parse(PolicyMode, await request.body()).mode
    await system.set_mode(mode)
    return json_response({"mode": mode})
