"""Every error as RFC 9457 `application/problem+json`, with a stable `type`."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, cast

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from app.http.schemas import MAX_ECHOED_CHARS
from services.errors import InvalidRequest, LtrrError, ModelInvalid, NotFound, Overloaded, StorageFailed, TooLarge

logger = logging.getLogger(__name__)

TYPE_PREFIX = "urn:ltrr:problem:"
MAX_DETAILS = 20
PROBLEMS = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    409: "conflict",
    413: "too-large",
    415: "unsupported-media-type",
    421: "misdirected-request",
    422: "invalid-request",
    429: "too-many-requests",
    500: "internal-error",
    503: "unavailable",
}


class Refused(LtrrError):
    """A caller without the right key, Host or Origin."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def problem(
    status: int,
    detail: str | None,
    errors: Sequence[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem document; `detail` and `errors` say what to change and never quote the request."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + PROBLEMS.get(status, "error"),
        "title": HTTPStatus(status).phrase,
        "status": status,
    }
    if detail is not None:
        body["detail"] = detail
    if errors:
        body["errors"] = list(errors)
    return Response(orjson.dumps(body), status, headers, "application/problem+json")


def answer(error: Exception) -> Response:
    """The problem document of an error; an unexpected one is logged and becomes a 500."""
    match error:
        case InvalidRequest(detail=detail, field=field):
            return problem(422, detail, [{"field": field, "detail": detail}] if field else None)
        case NotFound():
            return problem(404, str(error))
        case TooLarge():
            return problem(413, str(error))
        case Refused(status=status):
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            return problem(status, str(error), headers=headers)
        case Overloaded(retry_after=seconds) | StorageFailed(retry_after=seconds):
            return problem(503, str(error), headers={"Retry-After": str(seconds)})
        case TimeoutError():
            return problem(503, "no answer in time; try again", headers={"Retry-After": "1"})
        case ClientDisconnect():
            return Response(status_code=499)  # the client has left
        case ModelInvalid():
            return problem(409, str(error))
        case _:
            # The traceback without the message, which may quote the request.
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error("unhandled_error error=%s\n%s", type(error).__name__, where)
            return problem(500, "something went wrong on our side; it has been logged")


def _methods(app: FastAPI, path: str) -> set[str]:
    """The methods of the documented operations at a path."""
    return {
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if compile_path(template)[0].match(path)
        for method in operations
    }


def install(app: FastAPI) -> None:
    """Answer every failure of `app` with a problem document."""

    async def ours(request: Request, error: Exception) -> Response:
        return answer(error)

    async def validation(request: Request, error: Exception) -> Response:
        details = [
            # The first part of `loc` is body, query or path.
            {"field": ".".join(str(part)[:MAX_ECHOED_CHARS] for part in e["loc"][1:]), "detail": e["msg"]}
            for e in cast(RequestValidationError, error).errors()[:MAX_DETAILS]
        ]
        first = details[0]
        named = f"{first['field']}: {first['detail']}" if first["field"] else first["detail"]
        return problem(422, named, details)

    async def http(request: Request, error: Exception) -> Response:
        raised = cast(HTTPException, error)
        headers = dict(raised.headers or {})
        if raised.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The router names the methods of one route; those of other routes at the same path are allowed as well.
            headers["Allow"] = ", ".join(sorted(_methods(app, request.url.path))) or headers.get("Allow", "")
        return problem(raised.status_code, raised.detail, headers=headers)

    app.add_exception_handler(LtrrError, ours)
    app.add_exception_handler(ClientDisconnect, ours)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
