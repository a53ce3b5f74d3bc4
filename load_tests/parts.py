"""Searches inside one process: exact times of every stage, and the CPU cost of their library calls in isolation.

Runs as a separate process, so that all of its threads can be pinned to one core and the measured code can be patched:

    python -m load_tests.parts --data-dir INDEXED_FOLDER --data DATA_SET --requests 500 --seed 1     (prints JSON)
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import tantivy
import uvloop

from app.settings import Settings
from app.system.system import System
from app.system.wiring import opened as wired
from load_tests.figures import ENCODER, JSON, ONNX, QDRANT, SQLITE, TANTIVY, VW
from load_tests.loader import body, chunks, traffic
from load_tests.recorder import Call, Recorder, Statement
from services import metrics
from services.datasets.folder import Dataset, DatasetQuery
from services.rankers.passthrough import PassthroughRanker
from services.search import serializers
from services.types import Answer, Query

TIMEOUT = 10.0
"""Seconds per search: generous, because every part is to be measured."""
WARM_UP = 300
CONCURRENCY = 8


class RecordingHistogram:
    """Replaces a Prometheus histogram and keeps every value instead of bucket counts."""

    def __init__(self) -> None:
        self.values: defaultdict[str, list[float]] = defaultdict(list)

    def labels(self, name: str) -> Any:
        """The child with this label; its `observe` keeps the value."""
        kept = self.values[name]
        return type("Child", (), {"observe": staticmethod(kept.append)})


async def search(system: System, query: DatasetQuery) -> Answer:
    """One search with ten hits."""
    return await system.search.answer(Query(query.text, user_id=query.user_id, limit=10, timeout=TIMEOUT))


async def search_all(system: System, queries: Sequence[DatasetQuery], concurrency: int = 1) -> list[Answer]:
    """One search per query, `concurrency` at a time; answers grouped by client."""
    waiting = iter(queries)

    async def client() -> list[Answer]:
        return [await search(system, query) for query in waiting]

    return [answer for answers in await asyncio.gather(*[client() for _ in range(concurrency)]) for answer in answers]


async def stage_times(folder: Path, queries: Sequence[DatasetQuery], warm_up: Sequence[DatasetQuery]) -> Any:
    """Concurrency (1 and 8) -> wall seconds of every stage and arm, with the learner running as in the service."""
    found: dict[str, Any] = {}
    async with wired(Settings.load({}, data_dir=folder)) as system:
        await search_all(system, warm_up)
        for concurrency, part in ((1, queries[::2]), (CONCURRENCY, queries[1::2])):
            stages, arms = RecordingHistogram(), RecordingHistogram()
            with patch.object(metrics, "STAGE_SECONDS", stages), patch.object(metrics, "ARM_SECONDS", arms):
                start = time.process_time()
                await search_all(system, part, concurrency)
                cpu = (time.process_time() - start) / len(part)
            found[str(concurrency)] = {"requests": len(part), "stages": stages.values, "arms": arms.values, "cpu": cpu}
    return found


async def stage_cpu(system: System, queries: Sequence[DatasetQuery]) -> tuple[float, dict[str, Any]]:
    """(CPU seconds per search, stage -> CPU seconds of all threads and of the event loop's thread), one search at a
    time, with the learner off."""
    spent: defaultdict[str, float] = defaultdict(float)
    in_loop: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start, loop_start = time.process_time(), time.thread_time()
        try:
            yield
        finally:
            spent[name] += time.process_time() - start
            in_loop[name] += time.thread_time() - loop_start

    with patch.object(metrics, "stage", timed):
        start = time.process_time()
        await search_all(system, queries)
        total = (time.process_time() - start) / len(queries)
    return total, {name: {"cpu": spent[name] / len(queries), "loop": in_loop[name] / len(queries)} for name in spent}


async def cpu_by_part(
    folder: Path, queries: Sequence[DatasetQuery], others: Sequence[DatasetQuery], warm_up: Sequence[DatasetQuery]
) -> Any:
    """CPU of searches by stage, and of their library calls replayed in isolation.

    `others` are searched with the passthrough ranker: different queries, because the same ones would hit caches.
    """
    recorder = Recorder()
    pristine = folder.with_name("pristine")
    pristine.mkdir()
    with recorder.installed():
        async with wired(Settings.load({}, data_dir=folder), learning=False) as system:
            await search_all(system, warm_up)
            ranker = system.search.active.ranker
            system.search.active.ranker = PassthroughRanker()
            with_passthrough, _ = await stage_cpu(system, others)
            system.search.active.ranker = ranker
            with_ranker, stages = await stage_cpu(system, queries)
            for name in SQLITE:  # their state before the recorded statements
                with sqlite3.connect(folder / f"{name}.sqlite3") as source:
                    source.execute("VACUUM INTO ?", (str(pristine / f"{name}.sqlite3"),))
                source.close()
            gc.collect()
            recorder.active = True
            answers = await search_all(system, queries)
            recorder.active = False
            parts = {part: _replay(calls) for part, calls in _by_part(recorder.calls).items()}
    for name, part in SQLITE.items():
        parts[part] = _execute(pristine / f"{name}.sqlite3", recorder.statements)
    parts[JSON] = _json(queries, answers)
    return {
        "requests": len(queries),
        "ranker": ranker.version,
        "cpu": with_ranker,
        "cpu_passthrough": with_passthrough,
        "stages": stages,
        "parts": {p: {"calls": n / len(queries), "cpu": cpu / len(queries)} for p, (n, cpu) in parts.items()},
    }


def _by_part(calls: Sequence[Call]) -> dict[str, list[Call]]:
    """Part -> calls in their original order. Each input occurs once: a repeated one would be too fast."""
    parts: dict[str, list[Call]] = {part: [] for part in (TANTIVY, QDRANT, ENCODER, VW, ONNX)}
    for call in calls:
        parts[call.part].append(call)
    return parts


def _replay(calls: Sequence[Call]) -> tuple[int, float]:
    """(number of calls, CPU seconds of all threads) of a replay."""
    start = time.process_time()
    for part, function, positional, named in calls:
        _materialise(part, function(*positional, **named))
    return len(calls), time.process_time() - start


def _materialise(part: str, answer: Any) -> None:
    """Convert lazy results to Python objects: the conversion is part of the engine's work."""
    if part == TANTIVY:
        if isinstance(answer, tantivy.SearchResult):
            _ = answer.hits
        elif isinstance(answer, tantivy.Document):
            answer.to_dict()
    elif part == QDRANT:
        for point in answer:
            _ = point.payload, point.vector


def _execute(path: Path, statements: Sequence[Statement]) -> tuple[int, float]:
    """(number of statements, CPU seconds) on a plain connection with the product's durability; includes the log's
    commits."""
    own = [statement for statement in statements if statement.file == path.name]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    start = time.process_time()
    for _, sql, values in own:
        connection.execute(sql, values).fetchall()
    spent = time.process_time() - start
    connection.close()
    return len(own), spent


def _json(queries: Sequence[DatasetQuery], answers: Sequence[Answer]) -> tuple[int, float]:
    bodies, shown = [body(query) for query in queries], [serializers.answer(answer) for answer in answers]
    start = time.process_time()
    for sent, answered in zip(bodies, shown, strict=True):
        orjson.loads(sent)
        orjson.dumps(answered)
    return 2 * len(bodies), time.process_time() - start


def measure(data_dir: Path, queries: Sequence[DatasetQuery], requests: int) -> dict[str, Any]:
    """Times and CPU. `queries`: WARM_UP, then 2 x `requests` for times (half of them at each concurrency), then for CPU
    `requests` with the passthrough ranker and `requests` with the active one."""
    warm_up, timed, others, cpu_queries = chunks(queries, (WARM_UP, 2 * requests, requests, requests))
    with tempfile.TemporaryDirectory() as scratch:
        one, other = Path(scratch, "one"), Path(scratch, "other")
        shutil.copytree(data_dir, one)
        shutil.copytree(data_dir, other)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            times = runner.run(stage_times(one, timed, warm_up))
            gc.collect()
            return {"times": times, "cpu": runner.run(cpu_by_part(other, cpu_queries, others, warm_up))}


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="an indexed data folder (only copied)")
    parser.add_argument("--data", type=Path, required=True, help="data set folder with the queries")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    queries = list(Dataset.open(args.data).queries("validation"))
    drawn = traffic(queries, WARM_UP + 4 * args.requests, args.seed)
    sys.stdout.buffer.write(orjson.dumps(measure(args.data_dir, drawn, args.requests)))


if __name__ == "__main__":
    main()
