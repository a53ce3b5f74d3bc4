"""POST and GET /v1/search."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.http.requests import PROBLEM_RESPONSES, json_body, json_response, parse
from app.http.schemas import (
    MAX_DEPTH,
    Boolean,
    Integer,
    Name,
    Parameters,
    SearchRequest,
    SearchResponse,
    Text,
)
from app.system.system import System
from app.telemetry import logs
from services import types
from services.errors import InvalidRequest
from services.schema.filters import check_facets, parse_sort
from services.schema.filters import parse as parse_filters
from services.search import serializers as views

router = APIRouter(tags=["search"])


class SearchParameters(Parameters):
    """The same search as query parameters."""

    q: Text = ""
    filters: str = Field("{}", description="JSON, as in POST")
    facets: list[str] = Field([], description="repeat, or separate by commas")
    sort: str = "relevance"
    limit: Integer = Field(10, ge=1, le=100)
    offset: Integer = Field(0, ge=0, le=MAX_DEPTH - 1)
    user_id: Name | None = None
    session_id: Name | None = None
    client_id: Name | None = None
    context: str = Field("{}", description="JSON, as in POST")
    timeout_ms: Integer = Field(300, ge=1, le=10_000)
    explain: Boolean = False
    learn: Boolean = True
    query_id: str | None = Field(None, max_length=512)

    def request(self) -> dict[str, Any]:
        """The same search as the JSON body of a POST. Raises InvalidRequest for a parameter that is not JSON."""
        facets = [name for value in self.facets for name in value.split(",") if name]
        return self.model_dump(exclude={"q"}, exclude_none=True) | {
            "query": self.q,
            "filters": _json("filters", self.filters),
            "context": _json("context", self.context),
            "facets": facets,
        }


def _json(name: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{name} is not JSON: {error}", name) from error


@router.post(
    "/v1/search",
    summary="Search",
    response_model=SearchResponse,
    responses=PROBLEM_RESPONSES,
    openapi_extra=json_body(SearchRequest),
)
async def search(request: Request) -> Response:
    """Hits with facets, the query's understanding and the policy's decision."""
    return await _answer(request, parse(SearchRequest, await request.body()))


@router.get("/v1/search", summary="Search by URL", response_model=SearchResponse, responses=PROBLEM_RESPONSES)
async def search_by_address(request: Request, parameters: Annotated[SearchParameters, Query()]) -> Response:
    """The same with query parameters."""
    return await _answer(request, parse(SearchRequest, orjson.dumps(parameters.request())))


async def _answer(request: Request, search_request: SearchRequest) -> Response:
    system: System = request.app.state.system
    logs.note(query=search_request.query)
    with system.admission.admit("/v1/search"):
        answer = await system.search.answer(query_of(search_request, system.search.active.schema))
    return json_response(views.answer(answer), headers={"X-Query-Id": answer.query_id})


def query_of(search_request: SearchRequest, schema: types.Schema) -> types.Query:
    """The validated request as a services.types.Query. Raises UnknownField, InvalidRequest."""
    return types.Query(
        text=search_request.query,
        filters=parse_filters(search_request.filters, schema),
        facets=check_facets(search_request.facets, schema),
        sort=parse_sort(search_request.sort, schema),
        limit=search_request.limit,
        offset=search_request.offset,
        user_id=search_request.user_id,
        session_id=search_request.session_id,
        client_id=search_request.client_id,
        context=search_request.context,
        timeout=search_request.timeout_ms / 1000,
        explain=search_request.explain,
        learn=search_request.learn,
        page_of=search_request.query_id,
    )
