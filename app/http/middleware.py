"""Middleware for every request. Pure ASGI: Starlette's wrappers cost several times as much."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import answer
from app.http.security import OriginGuard
from app.telemetry import logs, tracing
from services import metrics
from services.errors import TooLarge
from services.tracing import outgoing_headers as trace_headers

STREAMED_ROUTES = {("PUT", "/v1/items")}
"""Routes that stream the body and have their own limits."""


class GuardOrigin:
    """Reject foreign Hosts and Origins (only installed when there is no admin key)."""

    def __init__(self, app: ASGIApp, guard: OriginGuard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a foreign Host or Origin, or pass the request on."""
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
        """Pass the request on with its body read, or answer 413."""
        if (
            scope["type"] != "http"
            or (scope["method"], scope["path"]) in STREAMED_ROUTES
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
    """Count, time, trace and log requests by route template (never by path: labels are a closed set); answer uncaught
    errors. Every response has an X-Request-Id, the caller's own if that is a plain token; a traced one also its
    traceparent."""

    def __init__(self, app: ASGIApp, log_queries: bool = False) -> None:
        self._app = app
        self._log_queries = log_queries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record it; answers 500 for an error that no route handled."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        started = False
        sent = dict(scope["headers"])
        with tracing.request(sent, scope["method"]) as span:
            current, stamps = _identify(sent)

            async def observed(message: Message) -> None:
                nonlocal status, started
                if message["type"] == "http.response.start":
                    status, started = message["status"], True
                    message = {**message, "headers": [*message.get("headers", ()), *stamps]}
                await send(message)

            token = logs.REQUEST.set(current)
            try:
                await self._app(scope, receive, observed)
            except Exception as error:
                # Not re-raised: the server would log the error's message, which may quote the request.
                response = answer(error)
                if not started:
                    await response(scope, receive, observed)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                took = time.perf_counter() - start
                metrics.REQUESTS.labels(route, str(status)).inc()
                metrics.REQUEST_SECONDS.labels(route).observe(took)
                if not self._log_queries:
                    current.notes.pop("query", None)
                for name, value in {"route": route, "status": status, **current.notes}.items():
                    span.set(name, value)
                logs.finish(scope["method"], route, status, took)
                logs.REQUEST.reset(token)


def _identify(sent: Mapping[bytes, bytes]) -> tuple[logs.Request, list[tuple[bytes, bytes]]]:
    """The ids of a request, the caller's or new ones, and the response headers with them."""
    given = sent.get(b"x-request-id", b"")
    request_id = given if _TOKEN.fullmatch(given) else secrets.token_hex(16).encode()
    stamps = [(b"x-request-id", request_id)]
    traceparent = trace_headers().get("traceparent", "").encode()
    if traceparent:
        stamps.append((b"traceparent", traceparent))
    found = _TRACEPARENT.fullmatch(traceparent or sent.get(b"traceparent", b""))
    return logs.Request(request_id.decode(), found[1].decode() if found else ""), stamps


_TOKEN = re.compile(rb"[A-Za-z0-9._~-]{1,64}")
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
