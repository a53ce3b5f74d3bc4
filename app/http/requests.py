"""Parsing of requests and JSON responses, for every route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from app.http.schemas import Problem, unknown
from services.errors import InvalidRequest

Model = TypeVar("Model", bound=BaseModel)

_MEANINGS = {
    401: "the admin key is missing or wrong",
    403: "a page of another origin; only without an admin key",
    404: "there is no such thing",
    409: "the version is damaged, or did not pass its gate",
    413: "the body is too large",
    421: "not a Host of this service; only without an admin key",
    422: "the request is invalid; `errors` names the field",
    503: "overloaded or storage failing; see Retry-After",
}


def problems(*further: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI of the error statuses that every operation may return, and of `further` ones."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": _MEANINGS[status], "content": content}
        for status in sorted({403, 413, 421, 422, 503, *further})
    }


PROBLEM_RESPONSES = problems()
ADMIN_RESPONSES = problems(401)


def parse(model: type[Model], body: bytes) -> Model:
    """`body` as a `model`, strictly. Raises RequestValidationError. One pass over the bytes: half the cost of parsing
    generic JSON first."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(
            [_detail(e, model) for e in error.errors(include_url=False, include_input=False)]
        ) from None


def _detail(error: ErrorDetails, model: type[BaseModel]) -> dict[str, Any]:
    """A validation error in FastAPI's form, except that an unknown field comes with the nearest known one."""
    message = error["msg"]
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        message = unknown(str(error["loc"][0]), model)
    return {"type": error["type"], "loc": ("body", *error["loc"]), "msg": message}


def json_body(model: type[BaseModel], required: bool = True) -> dict[str, Any]:
    """OpenAPI for a route that parses its own body."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as a JSON response."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def read_json(body: bytes, what: str) -> Any:
    """The JSON value of `body`. Raises InvalidRequest when it is not JSON (NaN and Infinity are not)."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{what} is not JSON: {error}") from error
