"""The embedded vector index: the contract, and what it does with its folder."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from services.backends.base import VectorIndex
from services.backends.qdrant import edge as qdrant_edge
from services.backends.qdrant.edge import QdrantEdgeIndex
from services.errors import StorageFailed
from services.types import Deadline, Field, Role, Schema
from tests.contracts.vector_index import FILTERS, SCHEMA, SIZE, VectorIndexContract, expected, ids, items

ROOT = Path(__file__).resolve().parents[3]
OPEN = """
import asyncio, os, sys
from pathlib import Path
from services.backends.qdrant.edge import QdrantEdgeIndex
from tests.contracts.vector_index import SCHEMA, SIZE
index = QdrantEdgeIndex.open(Path(sys.argv[1]), SCHEMA, SIZE)
"""


class TestQdrantEdgeIndex(VectorIndexContract):
    def make(self, path: Path, schema: Schema, size: int) -> VectorIndex:
        return QdrantEdgeIndex.open(path, schema, size)


async def fill(path: Path) -> None:
    index = QdrantEdgeIndex.open(path, SCHEMA, SIZE)
    assert index.needs_rebuild
    await index.rebuild(SCHEMA, SIZE, items())
    assert not index.needs_rebuild
    await index.close()
    await index.close()


async def everything(path: Path, schema: Schema = SCHEMA, size: int = SIZE) -> tuple[bool, int]:
    """(whether it wants a rebuild, how many items it finds)."""
    index = QdrantEdgeIndex.open(path, schema, size)
    found = await index.nearest([1.0] * size, (), 1000, Deadline.after(5))
    await index.close()
    return index.needs_rebuild, len(found)


async def test_an_index_is_there_again_after_a_restart(tmp_path: Path) -> None:
    await fill(tmp_path)
    assert await everything(tmp_path) == (False, len(items()))


async def test_an_index_that_waits_for_its_rebuild_filters_alike(tmp_path: Path) -> None:
    index = QdrantEdgeIndex.open(tmp_path, SCHEMA, SIZE)
    await index.apply(items(), [])
    for filters in FILTERS:
        found = await index.nearest([0.5] * SIZE, filters, 30, Deadline.after(5))
        assert ids(found) == expected(items(), [0.5] * SIZE, filters, 30), filters
    await index.close()


async def test_another_size_or_schema_wants_a_rebuild(tmp_path: Path) -> None:
    await fill(tmp_path)
    assert await everything(tmp_path, size=3) == (True, 0)
    assert await everything(tmp_path, schema=Schema(fields=(*SCHEMA.fields, Field("colour", Role.KEYWORD)))) == (
        True,
        0,
    )
    # A field that filters nothing changes nothing; and looking did no harm.
    assert await everything(tmp_path, schema=Schema(fields=(*SCHEMA.fields, Field("notes", Role.TEXT)))) == (False, 120)


def some_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return random.Random(1).sample(files, len(files) // 2)


@pytest.mark.parametrize(
    "damaged",
    [
        some_files,
        lambda folder: [folder / "CURRENT"],
        lambda folder: folder.glob("index-*/layout.json"),
        lambda folder: folder.rglob("segment.json"),
        lambda folder: folder.rglob("*-null/is_null/status.dat"),  # the engine panics
        lambda folder: folder.rglob("vectors/chunk_0.mmap"),  # the engine notices when it searches
        lambda folder: folder.rglob("payload_storage/page_0.dat"),
    ],
)
async def test_a_damaged_folder_wants_a_rebuild_and_takes_one(
    tmp_path: Path, damaged: Callable[[Path], Iterable[Path]]
) -> None:
    await fill(tmp_path)
    files = list(damaged(tmp_path))
    assert files
    for path in files:
        os.truncate(path, 0)
    index = QdrantEdgeIndex.open(tmp_path, SCHEMA, SIZE)
    assert index.needs_rebuild
    assert await index.nearest([1.0] * SIZE, (), 5, Deadline.after(5)) == []
    await index.rebuild(SCHEMA, SIZE, items())
    await index.close()
    assert await everything(tmp_path) == (False, len(items()))
    assert len(list(tmp_path.glob("index-*"))) == 1


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    await fill(tmp_path)
    index = QdrantEdgeIndex.open(tmp_path, SCHEMA, SIZE)
    other = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    await index.close()
    assert other.returncode == 1
    assert "StorageFailed" in other.stderr
    assert "in use by another process" in other.stderr


async def test_what_was_applied_survives_a_kill(tmp_path: Path) -> None:
    await fill(tmp_path)
    die = f"{OPEN}\nasyncio.run(index.apply([({{'id': 'last'}}, [1.0] * SIZE)], ['i0']))\nos._exit(9)"
    done = subprocess.run([sys.executable, "-c", die, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    index = QdrantEdgeIndex.open(tmp_path, SCHEMA, SIZE)
    assert list(await index.vectors(["last", "i0"], Deadline.after(5))) == ["last"]
    await index.close()


async def test_a_large_catalogue_gets_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_edge, "INDEXED_BYTES", 200_000)
    size = 32
    rng = np.random.default_rng(1)
    points = [
        ({"id": f"p{i}", "genres": ["Drama"]}, vector)
        for i, vector in enumerate(rng.normal(size=(3000, size)).tolist())
    ]
    index = QdrantEdgeIndex.open(tmp_path, SCHEMA, size)
    await index.rebuild(SCHEMA, size, points)
    assert index._shard.unindexed_bytes == 0
    hits = 0
    for _, vector in points[:20]:
        found = ids(await index.nearest(vector, (), 20, Deadline.after(5)))
        hits += len(set(found) & set(expected(points, vector, (), 20)))
    assert hits >= 0.9 * 400
    # Items that come later are found as well.
    await index.apply([({"id": "late"}, [-x for x in points[0][1]])], [])
    assert ids(await index.nearest([-x for x in points[0][1]], (), 3, Deadline.after(5)))[0] == "late"
    await index.close()


async def test_an_index_that_outgrew_its_graph_wants_a_rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(tmp_path)
    monkeypatch.setattr(qdrant_edge, "INDEXED_BYTES", 1000)
    assert await everything(tmp_path) == (True, len(items()))


async def test_closing_during_a_rebuild_keeps_what_it_built(tmp_path: Path) -> None:
    index = QdrantEdgeIndex.open(tmp_path, SCHEMA, SIZE)
    rebuilding = asyncio.ensure_future(index.rebuild(SCHEMA, SIZE, items()))
    await asyncio.sleep(0)
    await index.close()
    await rebuilding
    assert await everything(tmp_path) == (False, len(items()))


async def test_nothing_stays_open(tmp_path: Path) -> None:
    await fill(tmp_path)
    before = len(os.listdir("/dev/fd"))
    index = QdrantEdgeIndex.open(tmp_path, SCHEMA, SIZE)
    await index.rebuild(SCHEMA, SIZE, items())
    await index.nearest([1.0] * SIZE, (), 5, Deadline.after(5))
    await index.close()
    with pytest.raises(StorageFailed):
        await index.nearest([1.0] * SIZE, (), 5, Deadline.after(5))
    with pytest.raises(StorageFailed):
        await index.apply([], ["x"])
    assert len(os.listdir("/dev/fd")) == before
    assert len(list(tmp_path.glob("index-*"))) == 1
