"""One process owns a data folder; others are told who, and nothing is started that cannot listen."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.system.ownership import Owned, Owner, owned, owner

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def command(folder: Path, port: int, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LTRR_")}
    own = {"LTRR_DATA_DIR": str(folder), "LTRR_PORT": str(port), **settings}
    return subprocess.Popen(
        [sys.executable, "-m", "app", "serve", *arguments],
        cwd=ROOT,
        env=clean | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """(exit code, lines on stderr that are not the log's)."""
    with process:
        _, said = process.communicate(timeout=START_SECONDS)
    return process.returncode, [line for line in said.splitlines() if line.startswith("ltrr: ")]


@contextmanager
def serving(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    with command(folder, port) as process:
        try:
            until = time.monotonic() + START_SECONDS
            while not ready(port):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < until, "the service did not start"
                time.sleep(0.05)
            yield process
        finally:
            process.kill()
            process.communicate()


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class TestLock:
    def test_second_owner_is_told_of_the_first(self, tmp_path: Path) -> None:
        assert owner(tmp_path) is None
        with owned(tmp_path, "http://127.0.0.1:8000"):
            assert owner(tmp_path) == Owner(os.getpid(), "http://127.0.0.1:8000")
            with (
                pytest.raises(Owned, match=rf"process {os.getpid()}, serving at http://127.0.0.1:8000"),
                owned(tmp_path),
            ):
                pass
            assert owner(tmp_path) is not None, "the attempt changed nothing"
        assert owner(tmp_path) is None
        with owned(tmp_path):
            assert owner(tmp_path) == Owner(os.getpid(), None)

    def test_folder_is_made_when_missing(self, tmp_path: Path) -> None:
        with owned(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()

    @pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": "x"}', '{"pid": 1}', "9" * 5000])
    def test_unreadable_account_of_the_owner_is_no_failure(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "owner.lock").write_text(content)
        assert owner(tmp_path) is None
        with owned(tmp_path):
            (tmp_path / "owner.lock").write_text(content)
            assert owner(tmp_path) == Owner(0, None)

    def test_goes_with_its_process(self, tmp_path: Path) -> None:
        holder = "import sys, time; from pathlib import Path; from app.system.ownership import owned\n"
        holder += "with owned(Path(sys.argv[1])):\n    print('mine', flush=True); time.sleep(60)"
        with subprocess.Popen(
            [sys.executable, "-c", holder, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "mine\n"
            assert owner(tmp_path) == Owner(process.pid, None)
            process.send_signal(signal.SIGKILL)
        with owned(tmp_path):
            pass


class TestServe:
    def test_folder_and_port_in_use_are_refused_in_one_line(self, tmp_path: Path) -> None:
        port = free_port()
        with serving(tmp_path / "data", port) as process:
            code, said = outcome(command(tmp_path / "data", free_port()))
            assert code == 2
            assert len(said) == 1
            assert f"in use by process {process.pid}, serving at http://127.0.0.1:{port}" in said[0]
            code, said = outcome(command(tmp_path / "other", port))
            assert (code, len(said)) == (1, 1)
            assert str(port) in said[0]
            assert "in use" in said[0]
            assert ready(port), "the first one serves on"
            assert json.loads((tmp_path / "data" / "owner.lock").read_text())["pid"] == process.pid

    def test_stops_when_told_to_and_comes_back(self, tmp_path: Path) -> None:
        port = free_port()
        for _ in range(2):
            with serving(tmp_path / "data", port) as process:
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) in (0, -signal.SIGTERM)
            assert owner(tmp_path / "data") is None

    @pytest.mark.parametrize(
        ("arguments", "settings", "names"),
        [
            (["--workers", "2"], {}, "--workers 2"),
            ([], {"LTRR_HOST": "0.0.0.0"}, "LTRR_ADMIN_KEY"),
            ([], {"LTRR_SINGING_KEYS": "x"}, "LTRR_SIGNING_KEYS"),
            ([], {"LTRR_SIGNING_KEYS": "x"}, "signing_keys"),
            ([], {"LTRR_REDIS_URL": "redis://127.0.0.1"}, "LTRR_SIGNING_KEYS"),
            ([], {"LTRR_REDIS_URL": "http://127.0.0.1"}, "LTRR_REDIS_URL"),
            ([], {"LTRR_ENCODER": "/nowhere"}, "/nowhere"),
        ],
    )
    def test_wrong_use_is_said_in_one_line(
        self, tmp_path: Path, arguments: list[str], settings: dict[str, str], names: str
    ) -> None:
        code, said = outcome(command(tmp_path / "data", free_port(), *arguments, **settings))
        assert code == 2
        assert len(said) == 1
        assert names in said[0]
