"""A real Redis server for a test, in a folder of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import pytest

from tests.system_packages import program

START_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RedisServer:
    """`with RedisServer() as server:` runs redis-server on a free loopback port, durable unless `options` say otherwise
    (as lines of redis.conf, the names with _ for -). The folder goes with the context."""

    def __init__(self, **options: str | int) -> None:
        self._program = program("redis-server")
        self._options: dict[str, str | int] = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory_policy": "noeviction",
            "save": '""',
            **options,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisServer:
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        try:
            self._start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def kill(self) -> None:
        """Kill the process, like a crash."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Start again on the same folder and port, after `kill` or `stop` or at once."""
        self.stop()
        self._start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        log = self.folder / "log"
        for _ in range(5):
            self._process = subprocess.Popen([self._program, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            assert self._process.stdin is not None
            with self._process.stdin as configuration:
                configuration.write(self._configuration(log).encode())
            if self._answers():
                return
            self._process.wait()
            if not (log.exists() and "Address already in use" in log.read_text()):
                break
            self.port = free_port()
        told = log.read_text() if log.exists() else "nothing was logged"
        pytest.fail(f"redis-server did not start: {told[-2000:]}")

    def _configuration(self, log: Path) -> str:
        fixed = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "logfile": log, "daemonize": "no"}
        options = {**fixed, **self._options}
        return "".join(f"{name.replace('_', '-')} {value}\n" for name, value in options.items())

    def _answers(self) -> bool:
        """Whether it serves, waiting for it; False once it has ended."""
        assert self._process is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                    connection.sendall(b"PING\r\n")
                    # One that asks for a password answers, too.
                    if connection.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                        return True
            except OSError:
                pass
            time.sleep(0.01)
        self._process.kill()
        return False
