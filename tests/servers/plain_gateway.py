"""tests.servers.plain_worker as a process, and what its workers are doing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.commands import PATIENCE, ROOT, eventually, free_port


class Gateway:
    """Started, but not waited for."""

    def __init__(self, folder: Path, workers: int, drain: float = 0.0) -> None:
        self.port = free_port()
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._output = (folder / "output").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.plain_worker", str(self.port), str(workers), str(drain)],
            cwd=folder,
            env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)},
            stderr=self._output,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def get(self, path: str, seconds: float = PATIENCE) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=seconds) as answer:
            return str(answer.read().decode())

    def answering(self) -> int | None:
        """The process that answers, or None."""
        try:
            return int(json.loads(self.get("/answer", 1.0))["pid"])
        except (OSError, ValueError):
            return None

    def workers(self) -> set[int]:
        """Processes that the supervisor has started and not reaped."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(number) for number in children.read_text().split()}

    def serving(self) -> int:
        """How many workers serve."""
        try:
            return int(self.metric("ltrr_workers"))
        except OSError:
            return 0

    def metric(self, series: str) -> float:
        return samples(self.get("/metrics"))[series]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)


def samples(text: str) -> dict[str, float]:
    """Series -> value of an exposition."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines)}


@contextmanager
def plain(folder: Path, workers: int, drain: float = 0.0, wait: bool = True) -> Iterator[Gateway]:
    gateway = Gateway(folder, workers, drain)
    try:
        if wait:
            eventually(lambda: gateway.process.poll() is not None or gateway.serving() == workers)
            assert gateway.process.poll() is None, gateway.output
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
        gateway.process.wait(PATIENCE)
        gateway._output.close()


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def alive(process: int) -> bool:
    try:
        state: Any = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
