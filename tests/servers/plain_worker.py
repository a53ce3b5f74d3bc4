"""A small application under the real server and the real supervisor, in the place of the gateway.

`python -m tests.servers.plain_worker PORT WORKERS DRAIN_SECONDS` serves, from several workers on as their supervisor;
they are this same module too."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from app.process.workers import Place, Supervisor, WorkerFailed, become_worker

SILENCE_SECONDS = 3.0
STOP_SECONDS = 4.0
BROKEN = Path("broken")
"""While this file is in the working folder, workers refuse to start."""


def supervise(port: int, workers: int, drain: float) -> int:
    from app.process.server import StartFailed, listening

    command = (sys.executable, "-m", "tests.servers.plain_worker", "worker", str(drain))
    try:
        with listening("127.0.0.1", port) as listener:
            asked = Supervisor(listener, workers, drain, command, SILENCE_SECONDS, STOP_SECONDS).run()
    except (StartFailed, WorkerFailed) as error:
        print(f"ltrr: {error}", file=sys.stderr)
        return 1
    return 0 if asked == signal.SIGTERM else 130


def work(place: Place, drain: float) -> int:
    become_worker(place)
    if BROKEN.exists():
        print("ltrr: broken", file=sys.stderr)
        return 2
    from app.process.server import WorkerServer, run_server, uvicorn_config

    app = application()
    server = WorkerServer(uvicorn_config(app), app.state.draining, drain, place)
    run_server(server, app, socket.socket(fileno=place.listener))
    return 0


def alone(port: int, drain: float) -> int:
    from app.process.server import DrainingServer, listening, run_server, uvicorn_config

    with listening("127.0.0.1", port) as listener:
        app = application()
        run_server(DrainingServer(uvicorn_config(app), app.state.draining, drain), app, listener)
    return 0


def application() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from app.http.draining import Draining
    from app.telemetry.metrics_export import Exposition
    from services import metrics

    async def readyz(request: Request) -> Response:
        draining = request.app.state.draining.active
        return JSONResponse({"status": "draining" if draining else "ok"}, 503 if draining else 200)

    async def answer(request: Request) -> Response:
        """Who answers, after as long as asked."""
        metrics.IN_FLIGHT.inc()
        try:
            await asyncio.sleep(float(request.query_params.get("seconds", 0)))
        finally:
            metrics.IN_FLIGHT.dec()
        metrics.REQUESTS.labels("/answer", "200").inc()
        return JSONResponse({"pid": os.getpid()})

    async def hang(request: Request) -> Response:
        time.sleep(60)
        return Response()

    async def prometheus(request: Request) -> Response:
        response: Response = await app.state.exposition.response()
        return response

    app = Starlette(
        routes=[
            Route("/readyz", readyz),
            Route("/answer", answer, methods=["GET", "POST"]),
            Route("/hang", hang),
            Route("/metrics", prometheus),
        ]
    )
    app.state.draining = Draining()
    app.state.exposition = Exposition()
    return app


def main() -> int:
    if sys.argv[1] == "worker":
        return work(Place.parse(sys.argv[3:]), float(sys.argv[2]))
    port, workers, drain = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    return alone(port, drain) if workers == 1 else supervise(port, workers, drain)


if __name__ == "__main__":
    sys.exit(main())
