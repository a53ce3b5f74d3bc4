"""The same searches inside one process: exact times of every stage, and the library calls they made, made alone.

A process of its own, so that it can be held to one core from its first thread on and patch what it measures:

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
from services.search import serializers as views
from services.types import Answer, Query

TIMEOUT = 10.0
"""Seconds for a search: here every part is to be measured, not given up."""
WARM_UP = 300
CONCURRENCY = 8


class Times:
    """Stands in for a histogram of the product, and keeps every value instead of counting buckets."""

    def __init__(self) -> None:
        self.values: defaultdict[str, list[float]] = defaultdict(list)

    def labels(self, name: str) -> Any:
        kept = self.values[name]
        return type("Child", (), {"observe": staticmethod(kept.append)})


async def ask(system: System, query: DatasetQuery) -> Answer:
    return await system.search.answer(Query(query.text, user_id=query.user_id, limit=10, timeout=TIMEOUT))


async def ask_all(system: System, queries: Sequence[DatasetQuery], concurrency: int = 1) -> list[Answer]:
    waiting = iter(queries)

    async def client() -> list[Answer]:
        return [await ask(system, query) for query in waiting]

    return [answer for answers in await asyncio.gather(*[client() for _ in range(concurrency)]) for answer in answers]


async def stage_times(folder: Path, queries: Sequence[DatasetQuery], warm_up: Sequence[DatasetQuery]) -> Any:
    """Wall seconds of every stage and arm at concurrency 1 and 8, with the learner at work as in the service."""
    found: dict[str, Any] = {}
    async with wired(Settings.load({}, data_dir=folder)) as system:
        await ask_all(system, warm_up)
        for concurrency, part in ((1, queries[::2]), (CONCURRENCY, queries[1::2])):
            stages, arms = Times(), Times()
            with patch.object(metrics, "STAGE_SECONDS", stages), patch.object(metrics, "ARM_SECONDS", arms):
                start = time.process_time()
                await ask_all(system, part, concurrency)
                cpu = (time.process_time() - start) / len(part)
            found[str(concurrency)] = {"requests": len(part), "stages": stages.values, "arms": arms.values, "cpu": cpu}
    return found


async def stage_cpu(system: System, queries: Sequence[DatasetQuery]) -> tuple[float, dict[str, Any]]:
    """(CPU seconds of a search, the same per stage: of all threads and of the event loop's alone), one search at a
    time, the learner resting."""
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
        await ask_all(system, queries)
        total = (time.process_time() - start) / len(queries)
    return total, {name: {"cpu": spent[name] / len(queries), "loop": in_loop[name] / len(queries)} for name in spent}


async def parts_alone(
    folder: Path, queries: Sequence[DatasetQuery], others: Sequence[DatasetQuery], warm_up: Sequence[DatasetQuery]
) -> Any:
    """CPU of searches by stage, and of the library calls they made when made again with nothing around them.

    `others` are asked with the passthrough ranker: not the same ones, which would find everything cached.
    """
    recorder = Recorder()
    pristine = folder.with_name("pristine")
    pristine.mkdir()
    with recorder.installed():
        async with wired(Settings.load({}, data_dir=folder), learning=False) as system:
            await ask_all(system, warm_up)
            ranker = system.search.active.ranker
            system.search.active.ranker = PassthroughRanker()
            with_passthrough, _ = await stage_cpu(system, others)
            system.search.active.ranker = ranker
            with_ranker, stages = await stage_cpu(system, queries)
            for name in SQLITE:  # as they are before the statements that will be recorded
                with sqlite3.connect(folder / f"{name}.sqlite3") as source:
                    source.execute("VACUUM INTO ?", (str(pristine / f"{name}.sqlite3"),))
                source.close()
            gc.collect()
            recorder.active = True
            answers = await ask_all(system, queries)
            recorder.active = False
            parts = {part: _replayed(calls) for part, calls in _by_part(recorder.calls).items()}
    for name, part in SQLITE.items():
        parts[part] = _executed(pristine / f"{name}.sqlite3", recorder.statements)
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
    """In the order they were made: each is a fresh input, none is repeated (a repeated one would be too fast)."""
    parts: dict[str, list[Call]] = {part: [] for part in (TANTIVY, QDRANT, ENCODER, VW, ONNX)}
    for call in calls:
        parts[call.part].append(call)
    return parts


def _replayed(calls: Sequence[Call]) -> tuple[int, float]:
    """(number of calls, CPU seconds of all threads)."""
    start = time.process_time()
    for part, function, positional, named in calls:
        _taken(part, function(*positional, **named))
    return len(calls), time.process_time() - start


def _taken(part: str, answer: Any) -> None:
    """The engines turn what they found into Python objects only when it is looked at: that is their work as well."""
    if part == TANTIVY:
        if isinstance(answer, tantivy.SearchResult):
            _ = answer.hits
        elif isinstance(answer, tantivy.Document):
            answer.to_dict()
    elif part == QDRANT:
        for point in answer:
            _ = point.payload, point.vector


def _executed(path: Path, statements: Sequence[Statement]) -> tuple[int, float]:
    """The same on a plain connection, as durable as the product's; the log's statements include its commits."""
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
    bodies, shown = [body(query) for query in queries], [views.answer(answer) for answer in answers]
    start = time.process_time()
    for sent, answered in zip(bodies, shown, strict=True):
        orjson.loads(sent)
        orjson.dumps(answered)
    return 2 * len(bodies), time.process_time() - start


def measure(data_dir: Path, queries: Sequence[DatasetQuery], requests: int) -> dict[str, Any]:
    """`queries`: WARM_UP, then 2 x `requests` for the times (half of them at each concurrency), then for CPU `requests`
    with the passthrough ranker and `requests` with the one in force."""
    warm_up, timed, others, counted = chunks(queries, (WARM_UP, 2 * requests, requests, requests))
    with tempfile.TemporaryDirectory() as scratch:
        one, other = Path(scratch, "one"), Path(scratch, "other")
        shutil.copytree(data_dir, one)
        shutil.copytree(data_dir, other)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            times = runner.run(stage_times(one, timed, warm_up))
            gc.collect()
            return {"times": times, "cpu": runner.run(parts_alone(other, counted, others, warm_up))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="an indexed data folder (only copied)")
    parser.add_argument("--data", type=Path, required=True, help="data set folder with the queries")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    queries = list(Dataset.open(asked.data).queries("validation"))
    asked_queries = traffic(queries, WARM_UP + 4 * asked.requests, asked.seed)
    sys.stdout.buffer.write(orjson.dumps(measure(asked.data_dir, asked_queries, asked.requests)))


if __name__ == "__main__":
    main()
