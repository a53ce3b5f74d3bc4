"""A real Prometheus server for a test, on the product's own configuration and rules, only with other targets and a
quicker pulse."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.servers.redis import free_port
from tests.system_packages import program

START_SECONDS = 30.0
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "prometheus"


def promtool(*arguments: str | Path) -> str:
    """Output of promtool, which must succeed."""
    command = [program("promtool"), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60.0)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def configured(folder: Path, targets: Mapping[str, Sequence[str]], key: str) -> Path:
    """The product's configuration in `folder`, with `targets` by job, scraped and judged every second; alerts fire at
    once. Jobs without targets are left out."""
    credentials = folder / "key"
    credentials.write_text(key)
    settings = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text())
    settings["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    kept = [job for job in settings["scrape_configs"] if job["job_name"] in targets]
    assert {job["job_name"] for job in kept} == set(targets), "the configuration scrapes other jobs"
    for job in kept:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        job["authorization"]["credentials_file"] = str(credentials)
    settings["scrape_configs"] = kept
    (folder / "rules").mkdir()
    for path in (CONFIGURATION / "rules").glob("*.yml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / "rules" / path.name).write_text(yaml.safe_dump(rules))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    return folder / "prometheus.yml"


class Prometheus:
    """Asks a running server; every answer must be free of errors and warnings."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30.0)

    def get(self, path: str, **params: Any) -> Any:
        response = self._client.get(path, params=params)
        answer = response.json()
        assert answer["status"] == "success", f"{params}: {answer}"
        assert not {"warnings", "infos"} & set(answer), f"{params}: {answer}"
        return answer["data"]

    def now(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=expression)["result"]
        return found

    def course(self, expression: str, seconds: int) -> list[dict[str, Any]]:
        """Values of the last `seconds`, one per second, the last one of now."""
        end = time.time()
        params = {"query": expression, "start": end - seconds, "end": end, "step": 1}
        found: list[dict[str, Any]] = self.get("/api/v1/query_range", **params)["result"]
        return found

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()


@contextmanager
def prometheus(folder: Path, configuration: Path) -> Iterator[Prometheus]:
    port = free_port()
    output = (folder / "prometheus.out").open("w+")
    process = subprocess.Popen(
        [
            program("prometheus"),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until = time.monotonic() + START_SECONDS
        while not server.ready():
            running = process.poll() is None and time.monotonic() < until
            assert running, Path(output.name).read_text()
            time.sleep(0.05)
        yield server
    finally:
        server.close()
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        output.close()
