"""A catalogue that goes in as a whole: every index is built once, by the models that will be in force, and what is
broken off half-way is done by the next start."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli.index import index
from app.cli.train import SEED, train_encoders
from app.operations.indexing import Summary, indexed
from app.settings import Settings
from app.system.system import System
from app.system.wiring import Surroundings, opened
from app.telemetry.progress import Progress
from services.backends.qdrant.edge import QdrantEdgeIndex
from services.backends.tantivy.index import TantivyIndex
from services.catalogue.index_updaters import PredictionUpdater, UnderstandingUpdater
from services.datasets.folder import Dataset, HistoryEvent, write_folder
from services.models.text_encoder.train import train
from services.types import Deadline, Query
from tests.service import TRACKS

BUILT = {TantivyIndex: 1, QdrantEdgeIndex: 2, UnderstandingUpdater: 1, PredictionUpdater: 1}
"""The classes that build an index, and the position of the items among the arguments of their `rebuild`."""
ONCE = {"lexical": 1, "vectors": 1, "taste": 1, "UnderstandingUpdater": 1, "PredictionUpdater": 1}
HISTORY = [
    HistoryEvent(f"u{person}", TRACKS[(7 * person + 3 * step) % len(TRACKS)]["id"], "play", 1_700_000_000.0 + step)
    for person in range(12)
    for step in range(9)
]


class Crash(Exception):
    """The process dies here."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tracks"
    write_folder(path, TRACKS, history=HISTORY)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, data_dir=tmp_path / "var")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each index, or its engine's folder, was built with items in it."""
    counted: Counter[str] = Counter()

    def count(kind: Any, place: int) -> None:
        rebuild = kind.rebuild

        async def counting(self: Any, *given: Any) -> None:
            found = list(given[place])
            if found:
                path = getattr(self, "_path", None)
                counted[kind.__name__ if path is None else path.name] += 1
            await rebuild(self, *given[:place], found, *given[place + 1 :])

        monkeypatch.setattr(kind, "rebuild", counting)

    for kind, place in BUILT.items():
        count(kind, place)
    return counted


def put_in(settings: Settings, source: Path, rebuild: bool = True) -> Summary:
    return asyncio.run(index(settings, source, Dataset.open(source).schema, rebuild, train=True))


def started(settings: Settings) -> tuple[dict[str, Any], int]:
    """Starts the service and stops it: what a title finds first, and how many items the words know."""

    async def run() -> tuple[dict[str, Any], int]:
        async with opened(settings) as system:
            answer = await system.search.answer(Query(TRACKS[7]["title"], limit=10, timeout=10.0))
            return answer.hits[0].document, answer.total

    return asyncio.run(run())


@pytest.mark.parametrize("rebuild", [True, False])
def test_every_index_is_built_once_and_not_again_by_the_start_after_it(
    settings: Settings, folder: Path, builds: Counter[str], rebuild: bool
) -> None:
    summary = put_in(settings, folder, rebuild)
    assert (summary.accepted, summary.invalid, summary.events) == (len(TRACKS), 0, len(HISTORY))
    assert builds == ONCE
    builds.clear()
    assert started(settings)[0] == TRACKS[7]
    assert builds == {"UnderstandingUpdater": 1}, "only what is in memory alone"


def test_another_rebuild_builds_every_index_once_more(settings: Settings, folder: Path, builds: Counter[str]) -> None:
    put_in(settings, folder)
    builds.clear()
    put_in(settings, folder)
    assert builds == ONCE


def test_vectors_are_of_the_encoder_that_the_catalogue_trains(settings: Settings, folder: Path) -> None:
    put_in(settings, folder)

    async def run() -> None:
        async with opened(settings, learning=False) as system:
            documents = [document async for document in system.items.scan()]
            schema = system.catalogue.schema
            assert await system.state.get("vector_encoded_by") == train(documents, schema, SEED).version
        encoder = train(documents, schema, SEED)
        vectors = QdrantEdgeIndex.open(settings.data_dir / "vectors", schema, encoder.size)
        try:
            ids = [document["id"] for document in documents]
            held = await vectors.vectors(ids, Deadline.after(10.0))
        finally:
            await vectors.close()
        wanted = encoder.encode_documents(documents, schema)
        assert np.allclose([held[object_id] for object_id in ids], wanted, atol=1e-6)

    asyncio.run(run())


def test_items_that_the_source_no_longer_has_are_gone_from_every_index(
    settings: Settings, folder: Path, tmp_path: Path
) -> None:
    put_in(settings, folder)
    fewer = tmp_path / "fewer"
    write_folder(fewer, TRACKS[:40], history=HISTORY)
    put_in(settings, fewer)

    async def run() -> None:
        async with opened(settings, learning=False) as system:
            assert await system.items.count() == 40
            answer = await system.search.answer(Query("song", limit=100, timeout=10.0))
            assert {hit.object_id for hit in answer.hits} <= {track["id"] for track in TRACKS[:40]}
            assert answer.total == 40

    asyncio.run(run())


@asynccontextmanager
async def broken_off(settings: Settings, source: Path, at: str) -> AsyncIterator[System]:
    """The process dies while the index `at` is built."""

    def building(name: str, done: int, total: int) -> None:
        if name == at and done == total:
            raise Crash

    class Dying(Progress):
        def done(self, stage: str, count: int, total: int | None = None) -> None:
            building(stage, count, total or 0)

    schema = Dataset.open(source).schema
    async with indexed(settings, source, schema, Dying(), train_encoders, replace=True) as (system, _):
        yield system


@pytest.mark.parametrize("at", ["words", "vectors", "tastes", "vocabulary", "predicted queries"])
def test_what_is_broken_off_is_done_by_the_next_start(
    settings: Settings, folder: Path, builds: Counter[str], at: str
) -> None:
    async def run() -> None:
        async with broken_off(settings, folder, at):
            pytest.fail("it went through")

    with pytest.raises(Crash):
        asyncio.run(run())
    builds.clear()
    document, total = started(settings)
    assert document == TRACKS[7]
    assert total > 0
    left = list(ONCE)
    assert builds["UnderstandingUpdater"] == 1
    assert all(builds[name] <= 1 for name in left), "what was whole is not built again"
    builds.clear()
    started(settings)
    assert builds == {"UnderstandingUpdater": 1}


def test_a_death_before_any_index_was_opened(settings: Settings, folder: Path, builds: Counter[str]) -> None:
    async def dies(_: Settings, summary: Summary, progress: Progress) -> None:
        raise Crash

    async def run() -> None:
        async with indexed(settings, folder, None, Progress(), dies):
            pytest.fail("it went through")

    with pytest.raises(Crash):
        asyncio.run(run())
    assert builds == {}
    assert started(settings)[0] == TRACKS[7]
    assert builds == ONCE


def test_builds_are_told_step_by_step_to_their_end(settings: Settings, folder: Path) -> None:
    put_in(settings, folder)
    told: list[tuple[str, int, int]] = []

    async def run() -> None:
        around = replace(Surroundings(), on_progress=lambda *step: told.append(step))
        async with opened(settings, learning=False, surroundings=around) as system:
            await system.index_sync.rebuild()

    asyncio.run(run())
    assert {name for name, _, _ in told} == {"understanding", "lexical", "vector", "taste", "predictions"}
    for name in ("lexical", "vector", "taste", "predictions"):
        steps = [done for index_name, done, _ in told if index_name == name]
        assert steps == [0, 100, len(TRACKS)]
