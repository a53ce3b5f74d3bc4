"""DELETE /v1/users/{user_id}: forget a person."""

from __future__ import annotations

from fastapi import APIRouter, Path, Request, Response

from app.http.requests import ADMIN_RESPONSES, json_response
from app.http.schemas import ID_LENGTH, UserForgotten
from app.system.system import System

router = APIRouter(tags=["users"])


@router.delete(
    "/v1/users/{user_id:path}",
    summary="Forget a person: history, memory contributions where separable, log fields",
    response_model=UserForgotten,
    responses=ADMIN_RESPONSES,
)
async def forget(request: Request, user_id: str = Path(min_length=1, max_length=ID_LENGTH)) -> Response:
    system: System = request.app.state.system
    return json_response({"user_id": user_id, "log_records": await system.forget_user(user_id)})
