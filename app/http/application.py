"""The HTTP applications of the gateway and the learner: their routes, middleware and lifespan."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import Depends, FastAPI, params
from fastapi.middleware.cors import CORSMiddleware
from fastapi.telemetry import TelemetryConfig

from app.http import errors
from app.http.draining import Draining
from app.http.middleware import GuardOrigin, LimitBody, Measure
from app.http.pages import pages, traffic
from app.http.routes import autocomplete, explain, feedback, health, items, models, policy, search, users
from app.http.security import LOOPBACK_HOSTS, OriginGuard, admin_only
from app.settings import Settings
from app.system.system import System
from app.system.wiring import opened
from app.telemetry import metrics_export, tracing
from services.arm_profiles import by_number
from services.errors import LtrrError

GC_THRESHOLDS = (50_000, 20, 50)
"""Thresholds of gc.set_threshold: new objects, then collections of each generation before the next older one."""

NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI's own tracing would record the text of searches; app/telemetry/tracing.py does not."""

PUBLIC_ROUTERS = tuple(part.router for part in (search, feedback, autocomplete, items, health))
ADMIN_ROUTERS = (
    items.writes,
    explain.router,
    models.router,
    policy.router,
    users.router,
    health.metrics_router,
    pages.console_data,
    traffic.data,
)
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Opened = Callable[[Settings], AbstractAsyncContextManager[health.Watched]]
Visit = Callable[[System], AbstractAsyncContextManager[traffic.Visiting]]


def create_app(settings: Settings, visit: Visit | None = None) -> FastAPI:
    """The gateway's application. It opens the service when it starts and closes it when it ends. `visit` opens the
    simulated visitors of a demo, which stop before the service closes; without it there are none, and no request can
    start them."""
    app = FastAPI(
        title="LTRR",
        summary="Search that learns what to retrieve and how to order it",
        version="1",
        openapi_url="/openapi.json",
        docs_url=None,
        redirect_slashes=False,
        redoc_url=None,
        lifespan=_lifespan(settings, opened, visit),
        telemetry=NO_TELEMETRY,
    )
    admin = _prepare(app, settings)
    app.state.visiting = None
    for router in (*PUBLIC_ROUTERS, pages.router):
        app.include_router(router)
    for router in ADMIN_ROUTERS:
        app.include_router(router, dependencies=admin)
    _install_middleware(app, settings)
    metrics_export.begin((*PUBLIC_ROUTERS, *ADMIN_ROUTERS), [profile.name for profile in by_number()])
    return app


def create_learner_app(settings: Settings, learning: Opened) -> FastAPI:
    """Probes and metrics of the learner process; `learning` runs for as long as the application does."""
    app = FastAPI(
        openapi_url=None, redirect_slashes=False, lifespan=_lifespan(settings, learning), telemetry=NO_TELEMETRY
    )
    admin = _prepare(app, settings)
    app.include_router(health.router)
    app.include_router(health.metrics_router, dependencies=admin)
    _install_middleware(app, settings)
    return app


def _prepare(app: FastAPI, settings: Settings) -> list[params.Depends]:
    """Set up the common parts of both applications; returns the dependencies of routes that need the admin key."""
    app.state.draining = Draining()
    app.state.exposition = metrics_export.Exposition()
    errors.install(app)
    key = settings.admin_key.get_secret_value() if settings.admin_key else None
    return [Depends(admin_only(key))]


def _install_middleware(app: FastAPI, settings: Settings) -> None:
    """Install the middleware; the last one added is the first to see a request."""
    app.add_middleware(LimitBody, limit=settings.max_body_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type"],
            expose_headers=["X-Query-Id", "X-Request-Id", "traceparent"],
        )
    if settings.admin_key is None:
        hosts = [*LOOPBACK_HOSTS, settings.host, *settings.allowed_hosts]
        app.add_middleware(GuardOrigin, guard=OriginGuard(hosts, settings.cors_origins))
    app.add_middleware(Measure, log_queries=settings.log_queries)


def _lifespan(settings: Settings, opened: Opened, visit: Visit | None = None) -> Lifespan:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(tracing.exporting(settings))
                app.state.system = await stack.enter_async_context(opened(settings))
                if visit is not None:
                    app.state.visiting = await stack.enter_async_context(visit(app.state.system))
            except LtrrError as error:
                app.state.failure = error  # for the caller: the server only reports that it failed
                raise
            # Objects that live as long as the service need not be examined by every garbage collection, and searches
            # leave few cycles: full collections at the default frequency would stop everything for tenths of a second.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            yield

    return lifespan
