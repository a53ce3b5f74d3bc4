"""Routes that start, stop and report the simulated visitors of a demo. Elsewhere they answer 404: no request can make a
service learn from simulated users."""

from __future__ import annotations

from typing import Any, Protocol

from fastapi import APIRouter, Request, Response

from app.http.requests import json_response, parse, problems
from app.http.schemas import Traffic
from services.errors import NotFound

RESPONSES = problems(401, 404)

data = APIRouter(include_in_schema=False)


class Visiting(Protocol):
    """The simulated visitors of `ltrr demo`."""

    async def start(self) -> None:
        """Start them. Raises InvalidRequest when there is nothing to search for."""
        ...

    async def stop(self) -> None:
        """Stop them; they have finished when this returns."""
        ...

    def state(self) -> dict[str, Any]:
        """Their state as JSON values."""
        ...


@data.get("/pages/traffic", responses=RESPONSES)
async def get_traffic(request: Request) -> Response:
    """Whether simulated visitors are running, and what they have done so far. Raises NotFound outside a demo."""
    return json_response(_visiting(request).state())


@data.put("/pages/traffic", responses=RESPONSES)
async def put_traffic(request: Request) -> Response:
    """Start or stop the simulated visitors. Raises NotFound outside a demo."""
    visiting = _visiting(request)
    if parse(Traffic, await request.body()).running:
        await visiting.start()
    else:
        await visiting.stop()
    return json_response(visiting.state())


def state(request: Request) -> dict[str, Any] | None:
    """State of the simulated visitors; None outside a demo."""
    visiting: Visiting | None = request.app.state.visiting
    return None if visiting is None else visiting.state()


def _visiting(request: Request) -> Visiting:
    """The simulated visitors. Raises NotFound outside a demo."""
    visiting: Visiting | None = request.app.state.visiting
    if visiting is None:
        raise NotFound("simulated visitors are a part of `ltrr demo` alone")
    return visiting
