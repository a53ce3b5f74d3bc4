"""A stand-in for a Qdrant server, in a process of its own, that can be made to misbehave.

python -m tests.servers.qdrant --port 6333 --data DIR
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.servers.qdrant_application import VERSION, Server

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


class QdrantStub:
    """`with QdrantStub() as server:` runs the stand-in in a process of its own, on a free loopback port. The folder
    goes with the context."""

    def __init__(self, version: str = VERSION, api_key: str | None = None) -> None:
        self._version = version
        self._api_key = api_key
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> QdrantStub:
        self._folder = Path(tempfile.mkdtemp(prefix="qdrant-"))
        self._control = httpx.Client(timeout=START_SECONDS, trust_env=False)
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self._control.close()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start again on the same folder and port."""
        command = [sys.executable, "-m", "tests.servers.qdrant", "--data", str(self._folder), "--port", str(self.port)]
        command += ["--version", self._version] + (["--api-key", self._api_key] if self._api_key else [])
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        assert told.startswith("listening on "), "the stand-in for Qdrant did not start"
        self.port = int(told.split()[-1])

    def kill(self) -> None:
        """Kill the process, like a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    @contextmanager
    def fault(self, kind: str, path: str = "", seconds: float = 0.0) -> Iterator[None]:
        """Inject faults into requests whose path matches `path` (a pattern); see Faults."""
        self._tell("/_faults", {"kind": kind, "path": path, "seconds": seconds})
        try:
            yield
        finally:
            self._tell("/_faults", {"kind": None})

    def calls(self, path: str = "") -> int:
        """Requests since `forget_calls` whose method, path and parameters have `path` (a pattern) in them."""
        told: dict[str, int] = self._control.get(self.url + "/_calls").json()["calls"]
        return sum(number for what, number in told.items() if re.search(path, what))

    def connections(self) -> int:
        """Over which these requests came."""
        return int(self._control.get(self.url + "/_calls").json()["connections"])

    def forget_calls(self) -> None:
        self._tell("/_calls", {})

    def _tell(self, path: str, what: dict[str, Any]) -> None:
        self._control.post(self.url + path, json=what).raise_for_status()


class Faults:
    """Goes between uvicorn and the application: counts requests, and does wrong what it is told to.

    POST /_faults {"kind": …, "path": pattern, "seconds": …} (kind null heals); GET /_calls: requests and how often, and
    under "connections" over how many; POST /_calls forgets them.
    kind: blackhole, slow (to begin), late (to answer), reset, cut, garbage, nonsense, unfinished, or a status.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._fault: dict[str, Any] = {"kind": None}
        self._calls: Counter[str] = Counter()
        self._peers: set[Any] = set()
        self._healed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
        elif scope["path"] in ("/_faults", "/_calls"):
            await self._command(scope, receive, send)
        else:
            self._calls[f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}"] += 1
            self._peers.add(scope["client"])
            whole = await arrived(receive)
            if whole is None:
                return
            receive = whole
            kind = self._fault["kind"]
            if kind is None or not re.search(self._fault.get("path") or "", scope["path"]):
                await self._application(scope, receive, send)
            else:
                await self._misbehave(kind, scope, receive, send)

    async def _command(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method == "POST" and scope["path"] == "/_faults":
            self._fault = await request.json()
            self._healed.set()
            self._healed = asyncio.Event()
        elif request.method == "POST":
            self._calls.clear()
            self._peers.clear()
        told = {"calls": dict(self._calls), "connections": len(self._peers)}
        await JSONResponse(told)(scope, receive, send)

    async def _misbehave(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "blackhole":
            await self._healed.wait()
        elif kind == "slow":
            await asyncio.sleep(self._fault["seconds"])
            await self._application(scope, receive, send)
        elif kind == "late":

            async def later(message: Any) -> None:
                if message["type"] == "http.response.start":
                    await asyncio.sleep(self._fault["seconds"])
                await send(message)

            await self._application(scope, receive, later)
        elif kind == "reset":
            transport = send.__self__.transport  # type: ignore[attr-defined]
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        elif kind == "cut":
            start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5000")]}
            await send(start)
            await send({"type": "http.response.body", "body": b'{"result": {"points": [', "more_body": True})
            send.__self__.transport.close()  # type: ignore[attr-defined]
        elif kind == "garbage":
            await Response(b"\xff\xfe<html>what?</html>")(scope, receive, send)
        elif kind == "nonsense":
            points = [{"id": "x", "version": 1, "score": "high", "payload": None}]
            await JSONResponse({"result": {"points": points}, "status": "ok", "time": 0.0})(scope, receive, send)
        elif kind == "unfinished":
            result = {"operation_id": 1, "status": "wait_timeout"}
            await JSONResponse({"result": result, "status": "ok", "time": 0.0})(scope, receive, send)
        else:
            text = {"status": {"error": "the secret is out"}, "time": 0.0}
            await JSONResponse(text, int(kind), {"Retry-After": "1"})(scope, receive, send)


async def arrived(receive: Receive) -> Receive | None:
    """A `receive` that returns the whole body, already read: a client that disconnects later does not withdraw its
    request. None when it disconnected before."""
    body = bytearray()
    more = True
    while more:
        part = await receive()
        if part["type"] == "http.disconnect":
            return None
        body += part.get("body", b"")
        more = bool(part.get("more_body"))
    whole = {"type": "http.request", "body": bytes(body), "more_body": False}

    async def again() -> Any:
        return whole

    return again


def main() -> None:
    parser = argparse.ArgumentParser(description="a stand-in for a Qdrant server")
    parser.add_argument("--port", type=int, default=6333)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--version", default=VERSION)
    parser.add_argument("--api-key")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qdrant-") as temporary, socket.socket() as listener:
        server = Server(given.data or Path(temporary), given.version, given.api_key)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", given.port))
        listener.listen(512)
        config = uvicorn.Config(
            Faults(server.application()), log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        print(f"listening on {listener.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])
        server.close()


if __name__ == "__main__":
    main()
