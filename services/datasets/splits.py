"""Train, validation and test for data sets that were published without (all of) them; always the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from zlib import crc32

from services.datasets.folder import DatasetQuery

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def split(queries: Mapping[str, str], judgments: Mapping[str, Mapping[str, float]]) -> list[DatasetQuery]:
    """70 % train, 15 % validation, 15 % test of `queries` (query_id -> text). Queries whose most judged relevant
    item is the same are in the same part, so that a near-duplicate of a training query is never tested."""
    relevant = {query_id: [o for o, grade in judged.items() if grade > 0] for query_id, judged in judgments.items()}
    judged_queries = Counter(object_id for objects in relevant.values() for object_id in objects)
    split_queries = []
    for query_id, text in queries.items():
        objects = relevant.get(query_id, [])
        shared = max(objects, key=lambda object_id: (judged_queries[object_id], object_id)) if objects else query_id
        split_queries.append(DatasetQuery(query_id, part(shared), text))
    return split_queries


def part(key: str) -> str:
    """TRAIN for 70 % of all keys, VALIDATION and TEST for 15 % each, by a hash of `key`."""
    place = crc32(key.encode()) % 100
    return TRAIN if place < 70 else VALIDATION if place < 85 else TEST


def part_of_train(key: str) -> str:
    """VALIDATION for a tenth of all keys, else TRAIN; splits the training queries of a source without validation
    queries."""
    return VALIDATION if crc32(key.encode()) % 10 == 0 else TRAIN
