"""Train, validation and test for data sets that were published without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from zlib import crc32

from services.datasets.folder import DatasetQuery


def split(queries: Mapping[str, str], judgments: Mapping[str, Mapping[str, float]]) -> list[DatasetQuery]:
    """60 % train, 20 % validation, 20 % test, always the same. Queries that share their most asked relevant item are in
    the same part, so that a near-duplicate of a training query is never tested."""
    relevant = {query_id: [o for o, grade in judged.items() if grade > 0] for query_id, judged in judgments.items()}
    asked = Counter(object_id for objects in relevant.values() for object_id in objects)
    found = []
    for query_id, text in queries.items():
        objects = relevant.get(query_id, [])
        shared = max(objects, key=lambda object_id: (asked[object_id], object_id)) if objects else query_id
        found.append(DatasetQuery(query_id, part(shared), text))
    return found


def part(key: str) -> str:
    place = crc32(key.encode()) % 100
    return "train" if place < 60 else "validation" if place < 80 else "test"
