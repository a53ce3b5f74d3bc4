"""Every engine of a production service on this machine, and a learner beside them; for tests, and for commands:

    python -m tests.servers.stack [--workers 2] -- COMMAND …

runs COMMAND with the LTRR_* settings of that stack in its environment (OpenSearch, Redis and the learner are real;
Qdrant is the stub of tests/servers/qdrant.py) and ends with its exit code.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx

from tests.commands import ROOT, TLS, free_port
from tests.servers.opensearch import OpenSearchNode
from tests.servers.qdrant import QdrantStub
from tests.servers.redis import RedisServer

KEYS = "k1:" + "0123456789abcdef" * 4
PATIENCE = 60.0


class Learner:
    """`ltrr learn` as a process of its own."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = os.environ | environ
        self._url = f"http://127.0.0.1:{environ['LTRR_LEARNER_PORT']}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "app", "learn"], cwd=ROOT, env=self._environ)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            assert self._process.poll() is None, "the learner ended at its start"
            try:
                if httpx.get(f"{self._url}/readyz", verify=TLS).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("the learner did not become ready")

    def ready(self) -> dict[str, str]:
        """The checks of its readiness."""
        checks: dict[str, str] = httpx.get(f"{self._url}/readyz", verify=TLS).json()["checks"]
        return checks

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(PATIENCE)
        self._process = None
        return code


class Stack:
    """The engines, all running, and the settings that use them."""

    def __init__(
        self, opensearch: OpenSearchNode, qdrant: QdrantStub, redis: RedisServer, settings: dict[str, str]
    ) -> None:
        self.opensearch = opensearch
        self.qdrant = qdrant
        self.redis = redis
        self.settings = {
            "LTRR_OPENSEARCH_URL": opensearch.url,
            "LTRR_QDRANT_URL": qdrant.url,
            "LTRR_REDIS_URL": redis.url,
            "LTRR_SIGNING_KEYS": KEYS,
            "LTRR_LEARNER_PORT": str(free_port()),
        } | settings
        self.learner = Learner(self.settings)


@contextmanager
def stack(workers: int = 1, learner: bool = True, **settings: object) -> Iterator[Stack]:
    """`settings` (names without LTRR_, in lower case) are for gateways and learner alike."""
    given = {f"LTRR_{name.upper()}": str(value) for name, value in (settings | {"workers": workers}).items()}
    with ExitStack() as opened:
        redis = opened.enter_context(RedisServer())
        qdrant = opened.enter_context(QdrantStub())
        opensearch = opened.enter_context(OpenSearchNode())
        running = Stack(opensearch, qdrant, redis, given)
        if learner:
            running.learner.start()
            opened.callback(running.learner.kill)
        yield running


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="gateway processes that `ltrr serve` starts")
    parser.add_argument("command", nargs="+", help="what to run, after --")
    asked = parser.parse_args()
    with stack(asked.workers) as running:
        return subprocess.run(asked.command, env=os.environ | running.settings).returncode


if __name__ == "__main__":
    sys.exit(main())
