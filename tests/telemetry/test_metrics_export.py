"""Metrics of several workers are one picture: exact, bounded, and quick to ask for."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client import REGISTRY, Gauge

from app.telemetry.metrics_export import watch
from services import metrics
from tests.commands import eventually
from tests.servers.plain_gateway import Gateway, plain, samples
from tests.service import running

REQUESTS = 'ltrr_requests_total{route="/answer",status="200"}'
BATCH = 500


def ask(gateway: Gateway, number: int) -> None:
    with ThreadPoolExecutor(4) as clients:
        for answer in [clients.submit(gateway.get, "/answer") for _ in range(number)]:
            assert "pid" in answer.result()


def kill_one_at_work(gateway: Gateway) -> None:
    """It answers one request, and dies of kill -9 during the next."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request("GET", "/answer")
    victim = json.load(connection.getresponse())["pid"]
    connection.request("GET", "/answer?seconds=60")
    eventually(lambda: gateway.metric("ltrr_searches_in_flight") == 1)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in gateway.workers())
    connection.close()


def test_counts_of_workers_stay_exact_and_their_series_bounded_while_they_die(tmp_path: Path) -> None:
    with plain(tmp_path, 2) as gateway:
        ask(gateway, BATCH)
        assert gateway.metric(REQUESTS) == BATCH
        series = set(samples(gateway.get("/metrics")))
        (folder,) = gateway.temporary.iterdir()
        files = {file.name: file.stat().st_size for file in folder.iterdir()}
        used = gateway.metric('ltrr_process_cpu_seconds_total{worker="1"}')
        for deaths in range(1, 4):
            kill_one_at_work(gateway)
            assert gateway.metric("ltrr_searches_in_flight") == 0, "what it was at went with it"
            ask(gateway, BATCH - 1)
            assert gateway.metric(REQUESTS) == (1 + deaths) * BATCH
            eventually(lambda: gateway.serving() == 2)
        assert gateway.metric(REQUESTS) == 2000
        eventually(lambda: set(samples(gateway.get("/metrics"))) == series)
        assert {file.name: file.stat().st_size for file in folder.iterdir()} == files
        assert gateway.metric('ltrr_process_cpu_seconds_total{worker="1"}') >= used
        start = time.perf_counter()
        for _ in range(10):
            gateway.get("/metrics")
        assert (time.perf_counter() - start) / 10 < 0.2


def test_each_worker_tells_what_it_needs(tmp_path: Path) -> None:
    with plain(tmp_path, 2) as gateway:

        def told() -> dict[str, float]:
            return {name: value for name, value in samples(gateway.get("/metrics")).items() if "process_" in name}

        eventually(lambda: len(told()) == 6)
        for worker in ("1", "2"):
            assert told()[f'ltrr_process_resident_memory_bytes{{worker="{worker}"}}'] > 10_000_000
            assert told()[f'ltrr_process_open_fds{{worker="{worker}"}}'] > 3
            assert told()[f'ltrr_process_cpu_seconds_total{{worker="{worker}"}}'] > 0


def test_a_file_that_a_worker_has_just_created_is_passed_over(tmp_path: Path) -> None:
    with plain(tmp_path, 2) as gateway:
        (folder,) = gateway.temporary.iterdir()
        (folder / "counter_9.db").touch()
        assert gateway.metric("ltrr_workers") == 2


def test_every_gauge_says_what_it_is_over_several_workers() -> None:
    """The default would be one series for each process that ever was."""
    for name, metric in vars(metrics).items():
        if isinstance(metric, Gauge):
            assert metric._multiprocess_mode in ("livesum", "livemax", "livemostrecent"), name


async def test_a_loop_that_comes_late_is_seen() -> None:
    def late() -> float:
        return REGISTRY.get_sample_value("ltrr_event_loop_lag_seconds_sum") or 0.0

    before = late()
    watching = asyncio.create_task(watch(1))
    await asyncio.sleep(0.05)
    time.sleep(0.4)
    await asyncio.sleep(0.05)
    watching.cancel()
    assert 0.3 < late() - before < 0.6


def test_series_of_routes_exist_before_the_first_request(tmp_path: Path) -> None:
    with running(tmp_path / "data") as service:

        def counted() -> dict[str, float]:
            text = service.request("GET", "/metrics").text
            return {name: value for name, value in samples(text).items() if name.startswith("ltrr_requests_total")}

        before = counted()
        assert any('route="/v1/feedback",status="202"' in name for name in before)
        service.search("song")
        assert service.feedback({}) == ["invalid"]
        assert counted().keys() == before.keys()
