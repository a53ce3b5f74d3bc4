"""PUT /v1/items, and PUT, GET, DELETE /v1/items/{object_id}."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Path, Request, Response

from app.http.requests import ADMIN_RESPONSES, json_response, problems, read_json
from app.http.schemas import ItemDeleted, ItemOutcome, ItemsResponse
from app.system.system import System
from services.errors import InvalidRequest, NotFound

router = APIRouter(tags=["items"])
writes = APIRouter(tags=["items"])

_ITEMS_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {"schema": {"type": "string", "description": "one item per line"}},
            "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
        },
    }
}
_ITEM_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}
PATH = "/v1/items/{object_id:path}"
"""The rest of the path: ids may contain slashes."""
ObjectId = Path(min_length=1, max_length=128)


@writes.put(
    "/v1/items",
    summary="Write items: each replaces an earlier one of the same id, and searches see it when this answers",
    response_model=ItemsResponse,
    responses=ADMIN_RESPONSES,
    openapi_extra=_ITEMS_BODY,
)
async def put_items(request: Request) -> Response:
    """Add or replace items: NDJSON or an array, of any length. Each item gets its own status."""
    system: System = request.app.state.system
    results = await system.catalogue.put_stream(_not_empty(request.stream()))
    return json_response(
        {
            "accepted": sum(result.status == "accepted" for result in results),
            "results": [{"id": r.id, "status": r.status, "detail": r.detail} for r in results],
        }
    )


@writes.put(
    PATH,
    summary="Write one item",
    response_model=ItemOutcome,
    responses=problems(401, 404),
    openapi_extra=_ITEM_BODY,
)
async def put_item(request: Request, object_id: str = ObjectId) -> Response:
    """Add or replace one item. The id in the body, if any, must be the one in the path."""
    system: System = request.app.state.system
    document = read_json(await request.body(), "the body")
    if not isinstance(document, dict):
        raise InvalidRequest("an item is a JSON object")
    if str(document.setdefault("id", object_id)) != object_id:
        raise InvalidRequest("the id in the body is not the id in the address", "id")
    (result,) = await system.catalogue.put([document])
    if result.status != "accepted":
        raise InvalidRequest(result.detail or "the item is invalid")
    return json_response({"id": result.id, "status": result.status, "detail": result.detail})


@router.get(PATH, summary="One item as it was written", response_model=dict[str, Any], responses=problems(404))
async def get_item(request: Request, object_id: str = ObjectId) -> Response:
    """The document as it was written."""
    system: System = request.app.state.system
    document = await system.catalogue.get(object_id)
    if document is None:
        raise NotFound("no item has this id")
    return json_response(document)


@writes.delete(PATH, summary="Delete one item", response_model=ItemDeleted, responses=problems(401, 404))
async def delete_item(request: Request, object_id: str = ObjectId) -> Response:
    """Delete one item. Searches no longer find it once this has returned."""
    system: System = request.app.state.system
    if not await system.catalogue.delete([object_id]):
        raise NotFound("no item has this id")
    return json_response({"id": object_id, "status": "deleted"})


async def _not_empty(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks as they arrive. Raises InvalidRequest at the end of an empty body."""
    empty = True
    async for chunk in chunks:
        empty = empty and not chunk.strip()
        yield chunk
    if empty:
        raise InvalidRequest("the body is empty; send one item a line, or an array of items")
