"""GET /v1/explain/{query_id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.http.requests import json_response, problems
from app.system.system import System

router = APIRouter(tags=["explain"])


@router.get(
    "/v1/explain/{query_id}",
    summary="Why this answer: what was understood, decided, asked, found, and how it was ordered",
    response_model=dict[str, Any],
    responses=problems(401, 404),
)
async def explain(request: Request, query_id: str) -> Response:
    """Explain an answer from the event log alone: nothing is searched again."""
    system: System = request.app.state.system
    return json_response(await system.explain.explain(query_id))
