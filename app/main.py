"""The HTTP application: what is served where, and what is opened and closed around it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app import errors
from app.middleware import GuardOrigin, LimitBody, Measure
from app.pages import pages
from app.routes import autocomplete, explain, feedback, health, items, models, policy, search, users
from app.security import LOOPBACK, OriginGuard, admin_only
from app.settings import Settings
from app.wiring import opened
from services.errors import LtrrError

COLLECT = (50_000, 20, 50)
"""Thresholds of the garbage collector: new objects, then collections of each generation before the next older one."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(
        title="LTRR",
        summary="Search that learns what to retrieve and how to order it",
        version="1",
        openapi_url="/openapi.json",
        docs_url=None,
        redirect_slashes=False,
        redoc_url=None,
        lifespan=_lifespan(settings),
    )
    errors.install(app)
    key = settings.admin_key.get_secret_value() if settings.admin_key else None
    admin = [Depends(admin_only(key))]
    for route in (search, feedback, autocomplete, items, health):
        app.include_router(route.router)
    for router in (
        items.writes,
        explain.router,
        models.router,
        policy.router,
        users.router,
        health.metrics_router,
        pages.data,
    ):
        app.include_router(router, dependencies=admin)
    app.include_router(pages.router)
    _install_middleware(app, settings)
    return app


def _install_middleware(app: FastAPI, settings: Settings) -> None:
    """The last one added is the first to see a request."""
    app.add_middleware(LimitBody, limit=settings.max_body_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type"],
            expose_headers=["X-Query-Id"],
        )
    if settings.admin_key is None:
        hosts = [*LOOPBACK, settings.host, *settings.allowed_hosts]
        app.add_middleware(GuardOrigin, guard=OriginGuard(hosts, settings.cors_origins))
    app.add_middleware(Measure)


def _lifespan(settings: Settings) -> Lifespan:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                app.state.system = await stack.enter_async_context(opened(settings))
            except LtrrError as error:
                app.state.failure = error  # for who started us: the server only says that it failed
                raise
            # What lives as long as the service need not be looked through by every collection of garbage, and searches
            # leave few cycles: a full collection of the default frequency stops everything for tenths of a second.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*COLLECT)
            yield

    return lifespan
