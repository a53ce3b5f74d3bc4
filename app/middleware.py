"""What happens to every request before and after its route. Pure ASGI: wrappers cost several times as much."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import answer
from app.security import OriginGuard
from services import metrics
from services.errors import TooLarge

STREAMED = {("PUT", "/v1/items")}
"""Bodies that are read piece by piece by their route, which has its own limits."""


class GuardOrigin:
    """Refuse Hosts and Origins that are not ours (only installed when there is no admin key)."""

    def __init__(self, app: ASGIApp, guard: OriginGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            origin = headers.get(b"origin")
            refused = self._guard.refusal(
                headers.get(b"host", b"").decode("latin-1"), origin.decode("latin-1") if origin is not None else None
            )
            if refused is not None:
                await answer(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class LimitBody:
    """Read the body up to a limit before the route runs; larger ones get 413 without being held in memory."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or (scope["method"], scope["path"]) in STREAMED
            or scope["method"] in ("GET", "HEAD")
        ):
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        body = bytearray()
        more = True
        while more and not (announced.isdigit() and int(announced) > self._limit):
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit:
                break
        if more or len(body) > self._limit:
            too_large = TooLarge(f"the body is larger than {self._limit} bytes; send it in parts")
            await answer(too_large)(scope, receive, send)
            return
        await self._app(scope, _replay(bytes(body), receive), send)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class Measure:
    """Count and time requests by route template (never by path: labels are a closed set); answer what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        started = False

        async def observed(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            # Not raised on: the server would log the error's message, which may quote what was sent.
            response = answer(error)
            if not started:
                await response(scope, receive, send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics.REQUESTS.labels(route, str(status)).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - start)
