"""DELETE /v1/users/{user_id}: forget a user."""

from __future__ import annotations

from fastapi import APIRouter, Path, Request, Response

from app.http.requests import ADMIN_RESPONSES, json_response
from app.http.schemas import MAX_ID_CHARS, UserForgotten
from app.system.system import System

router = APIRouter(tags=["users"])


@router.delete(
    "/v1/users/{user_id:path}",
    summary="Forget a person: history, memory contributions where separable, log fields",
    response_model=UserForgotten,
    responses=ADMIN_RESPONSES,
)
async def forget(request: Request, user_id: str = Path(min_length=1, max_length=MAX_ID_CHARS)) -> Response:
    """Blank the user in the log; histories and memory follow when the learner has read the record."""
    system: System = request.app.state.system
    return json_response({"user_id": user_id, "log_records": await system.forget_user(user_id)})
