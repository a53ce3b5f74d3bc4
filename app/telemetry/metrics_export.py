"""Exporting metrics: those of all workers from any of them, series that start at 0, and those of the process."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from services import metrics
from services.types import EventStatus

LAG_INTERVAL = 0.1
PROCESS_INTERVAL = 1.0
CONSUMERS = ("memory", "policy", "ubi")
"""Consumers of the event log; the last one where it is mirrored."""
ERROR_STATUSES = ("422", "500", "503")
"""Statuses of any route, beside its own."""
ARM_OUTCOMES = ("ok", "timeout", "error", "garbage", "unavailable", "circuit_open")
SURVEY_OUTCOMES = ("made", "incomplete", "dropped")
SEARCH_ROUTE = "/v1/search"
PAGE_BYTES = resource.getpagesize()


def version() -> str:
    """The installed version of this package; "unknown" when it is not installed."""
    try:
        return importlib.metadata.version("ltrr")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def render() -> bytes:
    """All metrics as text: of this process, or of all workers together. Takes tens of milliseconds."""
    registry = REGISTRY
    if values.ValueClass._multiprocess:
        registry = CollectorRegistry()
        _WorkersCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class _WorkersCollector(MultiProcessCollector):
    """The library's collector fails on a file that a starting worker has created and not yet filled."""

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in Path(self._path).glob("*.db") if _size(path)]
        merged: Iterable[Metric] = self.merge(files)  # type: ignore[no-untyped-call]
        return merged


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Exposition:
    """/metrics, rendered in a thread; requests during one rendering share the next."""

    def __init__(self) -> None:
        self._next: asyncio.Task[bytes] | None = None
        self._lock = asyncio.Lock()

    async def response(self) -> Response:
        """The metrics, rendered after this call began."""
        if self._next is None:
            self._next = asyncio.create_task(self._render())
        return Response(await asyncio.shield(self._next), media_type=CONTENT_TYPE_LATEST)

    async def _render(self) -> bytes:
        async with self._lock:
            self._next = None
            return await asyncio.to_thread(render)


async def watch(worker: int) -> None:
    """Keep the metrics of the process up to date, until cancelled."""
    metrics.BUILD_INFO.labels(version()).set(1)
    metrics.WORKERS.set(1)
    name = str(worker)
    cpu_counted = 0.0
    described_at = 0.0
    while True:
        start = time.perf_counter()
        await asyncio.sleep(LAG_INTERVAL)
        now = time.perf_counter()
        metrics.LOOP_LAG.observe(max(0.0, now - start - LAG_INTERVAL))
        if now - described_at >= PROCESS_INTERVAL:
            described_at = now
            used = time.process_time()
            metrics.PROCESS_CPU.labels(name).inc(used - cpu_counted)
            cpu_counted = used
            _measure_process(name)


def _measure_process(worker: str) -> None:
    """Read the process's memory and open descriptors from /proc; on other platforms the two gauges stay at 0."""
    try:
        with open("/proc/self/statm", "rb") as memory:
            metrics.PROCESS_MEMORY.labels(worker).set(int(memory.read().split()[1]) * PAGE_BYTES)
        metrics.PROCESS_FDS.labels(worker).set(len(os.listdir("/proc/self/fd")))
    except OSError:
        return


def begin(routers: Iterable[APIRouter], arms: Iterable[str]) -> None:
    """Create series of closed label sets at 0 before the first event, so that no rate misses it."""
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute):
            metrics.REQUEST_SECONDS.labels(route.path)
            for status in (str(route.status_code or 200), *ERROR_STATUSES):
                metrics.REQUESTS.labels(route.path, status)
    metrics.SHED.labels(SEARCH_ROUTE)
    for event in EventStatus:
        metrics.FEEDBACK.labels(event)
    for outcome in SURVEY_OUTCOMES:
        metrics.SURVEYS.labels(outcome)
    for consumer in CONSUMERS:
        metrics.LEARNER_LAG.labels(consumer)
    for arm in arms:
        metrics.ARM_SECONDS.labels(arm)
        metrics.ARM_CANDIDATES.labels(arm)
        metrics.HITS_SHOWN.labels(arm)
        metrics.PROPENSITY.labels(arm)
        for outcome in ARM_OUTCOMES:
            metrics.ARM_REQUESTS.labels(arm, outcome)
