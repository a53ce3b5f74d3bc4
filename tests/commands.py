"""Commands of the product as processes of their own, the way people run them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import httpx

from app.__main__ import main

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
TLS = ssl.create_default_context()
"""For `verify` of many clients: each would read the certificates of all authorities, though nothing here uses TLS."""
PATIENCE = 60.0
"""Seconds after which something that does not happen fails its test."""


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """The environment of the tests with no settings but `settings`, on the data folder `folder`."""
    # One thread: processes of tests share few cores.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LTRR_")}
    given = {f"LTRR_{name.upper()}": str(value) for name, value in settings.items()}
    return inherited | {"LTRR_DATA_DIR": str(folder), "OMP_NUM_THREADS": "1"} | given


def ltrr(folder: Path, *arguments: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment(folder, **settings), capture_output=True, text=True, timeout=PATIENCE
    )


def _main(arguments: list[str]) -> int:
    """`main` begins an event loop of its own, so where this thread has one, another thread runs it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return main(arguments)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(main, arguments).result()


def called(folder: Path, *arguments: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run `ltrr` in this process, which saves a second."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment(folder, **settings), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = _main([*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def done(folder: Path, *arguments: str | Path, **settings: object) -> str:
    """Output of a command that must succeed."""
    ended = called(folder, *arguments, **settings)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def failed(code: int, folder: Path, *arguments: str | Path, **settings: object) -> str:
    """The one line in which a command must say why it ends with this exit code."""
    ended = called(folder, *arguments, **settings)
    assert ended.returncode == code, ended.stdout + ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("ltrr: ")
    return line


def eventually(look: Callable[[], T | None], seconds: float = PATIENCE) -> T:
    """The first answer of `look` that is true; the test fails when there is none in time."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)
    return found


class Process:
    """A service that runs until it is stopped: `serve`, or another command that serves in the end."""

    def __init__(self, folder: Path, *arguments: str | Path, **settings: object) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, verify=TLS)
        self._output = (folder.parent / f"{folder.name}-{port}.out").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app", *map(str, arguments or ("serve",))],
            cwd=ROOT,
            env=environment(folder, **{"port": port} | settings),
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        try:
            eventually(self._ready)
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> bool:
        assert self._process.poll() is None, self.output
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def output(self) -> str:
        return Path(self._output.name).read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """The exit code."""
        self._process.send_signal(how)
        code = self._process.wait(PATIENCE)
        self.kill()
        return code

    def kill(self) -> None:
        """Kill it at once, like a power cut; does nothing when it has ended."""
        self._process.kill()
        self._process.wait(PATIENCE)
        self.client.close()
        self._output.close()

    def workers(self) -> list[int]:
        """Process ids of the gateways, when there are several."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(child) for child in children.split()]

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The body of an answer that must be a good one."""
        response = self.client.request(method, path, **options)
        assert response.is_success, response.text
        return response.json()

    def search(self, query: str, **fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.call("POST", "/v1/search", json={"query": query, "timeout_ms": 10_000} | fields)
        return found

    def explain(self, answer: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/v1/explain/{answer['query_id']}")
        return found

    def act(self, answer: dict[str, Any], place: int = 0, action: str = "click", **fields: Any) -> str:
        """The status of an event on one of the answer's hits."""
        object_id = answer["hits"][place]["object_id"]
        event = {
            "event_id": f"{answer['query_id']}-{action}-{object_id}"[-128:],
            "query_id": answer["query_id"],
            "object_id": object_id,
            "action_name": action,
        }
        (result,) = self.call("POST", "/v1/feedback", json=event | fields)["results"]
        return str(result["status"])


@contextmanager
def serving(folder: Path, *arguments: str | Path, **settings: object) -> Iterator[Process]:
    process = Process(folder, *arguments, **settings)
    try:
        yield process
    finally:
        process.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
