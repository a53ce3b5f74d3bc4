"""GET /v1/autocomplete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.http.requests import PROBLEM_RESPONSES, json_response
from app.http.schemas import AutocompleteResponse, Integer, Name, Parameters, Text
from app.system.system import System
from app.telemetry import logs
from services.types import Deadline

TIMEOUT = 0.2
"""Timeout in seconds: a completion after the next key press is useless."""

router = APIRouter(tags=["search"])


class Completion(Parameters):
    """Parameters of a completion."""

    q: Text = Field("", description="what has been typed so far")
    session_id: Name | None = None
    limit: Integer = Field(8, ge=1, le=50)


@router.get("/v1/autocomplete", summary="Completions", response_model=AutocompleteResponse, responses=PROBLEM_RESPONSES)
async def autocomplete(request: Request, parameters: Annotated[Completion, Query()]) -> Response:
    """Titles and past queries that continue the text, best first."""
    system: System = request.app.state.system
    logs.note(query=parameters.q)
    found = await system.autocomplete.suggest(parameters.q, parameters.limit, Deadline.after(TIMEOUT))
    return json_response({"suggestions": [{"text": text, "score": score} for text, score in found]})
