"""POST /v1/feedback: one event, an array, or NDJSON."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.http.requests import PROBLEM_RESPONSES, json_response, read_json
from app.http.schemas import FeedbackEvent, FeedbackResponse
from app.http.security import is_admin
from app.system.system import System
from services.errors import InvalidRequest, TooLarge
from services.types import EventStatus

MAX_EVENTS = 1000

router = APIRouter(tags=["feedback"])

_EVENT = FeedbackEvent.model_json_schema()
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"oneOf": [_EVENT, {"type": "array", "items": _EVENT, "maxItems": MAX_EVENTS}]}
            },
            "application/x-ndjson": {"schema": {"type": "string", "description": "one event per line"}},
        },
    }
}


@router.post(
    "/v1/feedback",
    status_code=202,
    summary="Report what users did with an answer",
    description="Each event gets its own status. An accepted one is durable before the answer and counts once.",
    response_model=FeedbackResponse,
    responses=PROBLEM_RESPONSES,
    openapi_extra=_BODY,
)
async def feedback(request: Request) -> Response:
    """Record events; those accepted are durable before the answer."""
    system: System = request.app.state.system
    events = _events(await request.body(), request.headers.get("content-type", ""))
    if len(events) > MAX_EVENTS:
        raise TooLarge(f"{len(events)} events in one call; at most {MAX_EVENTS}, send them in parts")
    results = await system.record(events, admin=is_admin(request, system.admin_key))
    accepted = sum(result.status is EventStatus.ACCEPTED for result in results)
    return json_response(
        {
            "accepted": accepted,
            "results": [{"event_id": r.event_id, "status": r.status, "detail": r.detail} for r in results],
        },
        202,
    )


def _events(body: bytes, content_type: str) -> list[object]:
    lines = [line for line in body.splitlines() if line.strip()]
    if not lines:
        raise InvalidRequest("the body is empty; send one event, an array of events, or NDJSON")
    # Whatever the content type says: no JSON value has several lines that all begin an object.
    objects = len(lines) > 1 and all(line.lstrip().startswith(b"{") for line in lines)
    if objects or "ndjson" in content_type or "jsonl" in content_type:
        return [read_json(line, f"line {number}") for number, line in enumerate(lines, 1)]
    value = read_json(body, "the body")
    return value if isinstance(value, list) else [value]
