"""The search page, the learning console, the API reference, and their files.

Everything comes from this origin, which the Content-Security-Policy makes browsers enforce. The pages and their files
are open (they hold no data); the console's figures need the admin key like every other admin route.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from app.http.pages import assets, traffic
from app.http.pages.figures import figures
from app.http.requests import ADMIN_RESPONSES, json_response
from app.system.system import System
from services.errors import NotFound, Unavailable
from services.types import Field, Role, Schema

POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data:",
        "style-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
LIBRARY_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
"""Plotly and Swagger UI write style elements of their own; scripts stay files of this origin there, too."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
REVALIDATE = "no-cache"
WEEK = "public, max-age=604800"
MAX_FACETS = 8

router = APIRouter(include_in_schema=False)
console_data = APIRouter(include_in_schema=False)


@router.get("/")
async def search_page(request: Request) -> Response:
    """The search page."""
    return _page(request, "search.html", POLICY)


@router.get("/console")
async def console_page(request: Request) -> Response:
    """The learning console."""
    return _page(request, "console.html", LIBRARY_POLICY)


@router.get("/docs")
async def docs_page(request: Request) -> Response:
    """The API reference."""
    return _page(request, "docs.html", LIBRARY_POLICY)


@router.get("/favicon.ico")
async def favicon(request: Request) -> Response:
    """The icon of all pages."""
    return _served(request, assets.own("favicon.svg"), WEEK)


@router.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """A file of the pages."""
    return _served(request, assets.own(name), REVALIDATE)


@router.get("/static/vendor/{name}")
async def vendor(request: Request, name: str) -> Response:
    """A file of a packaged library."""
    return _served(request, await asyncio.to_thread(assets.vendor, name), WEEK)


@router.get("/pages/fields")
async def fields(request: Request) -> Response:
    """Fields that the search page uses for this catalogue: to show, facet, limit and sort by."""
    system: System = request.app.state.system
    return json_response(offered(system.search.active.schema))


@console_data.get("/pages/activity", responses=ADMIN_RESPONSES)
async def activity(request: Request) -> Response:
    """The console's figures."""
    system: System = request.app.state.system
    progress = await system.observe()
    if progress is None:
        raise Unavailable("the event log")
    return json_response(
        {
            "mode": await system.mode(),
            "learner": asdict(progress) | {"attribution_seconds": system.settings.attribution_seconds},
            "activity": await system.activity.view(),
            "process": figures(),
            "price": system.settings.candidate_price,
            "traffic": traffic.state(request),
            "charts": assets.has_vendor("plotly.min.js"),
        }
    )


def offered(schema: Schema) -> dict[str, Any]:
    """`fields` in the schema's order with their roles, and those used as facets, range and sorts. Pure."""
    keywords = [field.name for field in schema.of(Role.KEYWORD) if field.name != "id"]
    created = schema.get(schema.created) if schema.created else None
    return {
        "title": schema.title,
        "created": schema.created,
        "rating": schema.rating,
        "fields": [{"name": field.name, "role": field.role} for field in schema.fields],
        "facets": keywords[:MAX_FACETS],
        "range": created.name if created is not None and created.role is Role.NUMBER else None,
        "sorts": _sorts(schema, created),
    }


def _sorts(schema: Schema, created: Field | None) -> list[dict[str, str]]:
    sorts = [{"value": "relevance", "label": "Most relevant"}]
    if schema.popularity:
        sorts.append({"value": f"-{schema.popularity}", "label": "Most popular"})
    if schema.rating:
        sorts.append({"value": f"-{schema.rating}", "label": "Best rated"})
    if created is not None:
        sorts += [{"value": f"-{created.name}", "label": "Newest"}, {"value": created.name, "label": "Oldest"}]
    return sorts


def _page(request: Request, name: str, policy: str) -> Response:
    response = _served(request, assets.own(name), REVALIDATE)
    response.headers["Content-Security-Policy"] = policy
    return response


def _served(request: Request, asset: assets.Asset | None, cache: str) -> Response:
    """The file, or 304 when the client has it. Raises NotFound when there is no such file."""
    if asset is None:
        raise NotFound("no such file; libraries come with the extra `pages`: pip install 'ltrr[pages]'")
    headers = HEADERS | {"ETag": asset.etag, "Cache-Control": cache, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.zipped, headers=headers | {"Content-Encoding": "gzip"}, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)
