"""Requests to a Qdrant server and its answers, as values of this service. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any, Literal

from qdrant_client import AsyncQdrantClient, models

from services.backends.qdrant.points import (
    EF_CONSTRUCT,
    EXTRA_NEIGHBOURS,
    ID,
    INDEXED_BYTES,
    Clause,
    M,
    Point,
    checked,
    filterable,
    key,
    more,
    payload,
    point_id,
    ranked,
)
from services.backends.qdrant.server import NAME, Refused
from services.errors import StorageFailed
from services.types import Candidate, Field, Role, Schema

Quantization = Literal["none", "scalar", "binary"]

MISSING_STATUS, MISMATCH_STATUS = 404, 400
"""HTTP statuses: no such collection; a collection without what was requested (such as another vector)."""
BATCH_NUMBERS = 25_000
"""Numbers of the vectors sent in one request: half a megabyte, which takes a few milliseconds to serialise."""
OVERSAMPLING: dict[Quantization, float | None] = {"none": None, "scalar": 2.0, "binary": 4.0}
"""Candidates found with quantized vectors and scored again with the full ones, per requested neighbour."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The schema, size and encoder that a generation was built for."""

    version: str
    size: int
    fields: dict[str, Field]

    @classmethod
    def of(cls, schema: Schema, size: int, version: str) -> Layout:
        """The layout for vectors of `size` from the encoder `version`, under `schema`."""
        return cls(version, size, filterable(schema))

    @property
    def vector(self) -> str:
        """Name of the vector; the server makes file names of it."""
        safe = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.version) is not None
        return f"{self.version if safe else sha256(self.version.encode()).hexdigest()}_{self.size}"


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest neighbours of a vector, ties by object id."""

    using: str
    vector: list[float]
    under: models.Filter | None
    limit: int
    params: models.SearchParams

    async def __call__(self, client: AsyncQdrantClient, seconds: int, collection: str) -> list[Candidate]:
        """At most `limit` candidates, best first."""
        requested = self.limit + EXTRA_NEIGHBOURS
        while True:
            answer = await client.query_points(
                collection,
                query=self.vector,
                using=self.using,
                query_filter=self.under,
                search_params=self.params,
                limit=requested,
                with_payload=[ID],
                timeout=seconds,
            )
            if not more(answer.points, requested, self.limit):
                return ranked(answer.points, self.limit, name_of)
            requested *= 2


@dataclass(frozen=True, slots=True)
class Stored:
    """The vectors of some points, by object id."""

    using: str
    points: list[str]

    async def __call__(self, client: AsyncQdrantClient, seconds: int, collection: str) -> dict[str, list[float]]:
        """Object id -> vector; points that do not exist are left out."""
        records = await client.retrieve(
            collection, self.points, with_payload=[ID], with_vectors=[self.using], timeout=seconds
        )
        return {name_of(record): vector_of(record, self.using) for record in records}


def search_params(count: int | None, size: int, quantization: Quantization) -> models.SearchParams:
    """Parameters for searching `count` points (None: unknown): few are searched exactly."""
    if count is not None and count * size * 4 <= INDEXED_BYTES:
        return models.SearchParams(exact=True)
    oversampling = OVERSAMPLING[quantization]
    if oversampling is None:
        return models.SearchParams()
    return models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=oversampling))


def prepared(waiting: Iterator[Point], layout: Layout) -> tuple[models.Batch, list[str]] | None:
    """The next points to send, and ids of points that have no vector; None at the end."""
    held: dict[str, tuple[list[float], dict[str, Any]]] = {}
    without: list[str] = []
    batch = list(islice(waiting, max(1, BATCH_NUMBERS // layout.size)))
    for document, vector in batch:
        numbers = checked(vector, layout.size)
        point = point_id(document["id"])
        held.pop(point, None)
        if any(numbers):
            held[point] = numbers, payload(document, layout.fields)
        else:
            without.append(point)
    if not batch:
        return None
    points = models.Batch(
        ids=list(held),
        vectors={layout.vector: [numbers for numbers, _ in held.values()]},
        payloads=[fields for _, fields in held.values()],
    )
    return points, without


def completed(done: models.UpdateResult) -> None:
    """Raises StorageFailed when the server gave up waiting: it has not failed, but searches may not see the write
    yet."""
    if done.status is not models.UpdateStatus.COMPLETED:
        raise StorageFailed(f"{NAME}: the write is not known to be done")


def name_of(point: models.ScoredPoint | models.Record) -> str:
    """The object id of a point. Raises ValueError when it has none."""
    object_id = (point.payload or {}).get(ID)
    if not isinstance(object_id, str):
        raise ValueError("a point without an object id")
    return object_id


def vector_of(record: models.Record, name: str) -> list[float]:
    """The vector `name` of a point. Raises Refused when it has none of this name."""
    vector = record.vector.get(name) if isinstance(record.vector, dict) else None
    if not isinstance(vector, list):
        raise Refused(MISMATCH_STATUS)  # as a server that checks vector names would
    return [float(number) for number in vector]  # type: ignore[arg-type]


def restriction(wanted: Sequence[Clause]) -> models.Filter | None:
    """The engine's filter for these clauses; None for none."""
    return models.Filter(must=[_condition(clause) for clause in wanted]) if wanted else None


def _condition(clause: Clause) -> models.Condition:
    if clause.texts:
        return models.FieldCondition(key=clause.key, match=models.MatchAny(any=list(clause.texts)))
    within: list[models.Condition] = [
        models.FieldCondition(key=clause.key, range=models.Range(gte=r.gte, gt=r.gt, lte=r.lte, lt=r.lt))
        for r in clause.ranges
    ]
    return within[0] if len(within) == 1 else models.Filter(should=within)


def kind_of(field: Field) -> models.PayloadSchemaType:
    """The type of payload index of a field."""
    return models.PayloadSchemaType.KEYWORD if field.role is Role.KEYWORD else models.PayloadSchemaType.FLOAT


def configuration(layout: Layout, quantization: Quantization) -> dict[str, Any]:
    """Parameters of a new collection. With quantization, which is there to save memory, the full vectors that score the
    nearest again stay on disk."""
    kilobytes = INDEXED_BYTES // 1000
    quantized: dict[Quantization, Any] = {
        "none": None,
        "scalar": models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        ),
        "binary": models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
    }
    vector = models.VectorParams(size=layout.size, distance=models.Distance.COSINE, on_disk=quantization != "none")
    return {
        "vectors_config": {layout.vector: vector},
        "hnsw_config": models.HnswConfigDiff(m=M, ef_construct=EF_CONSTRUCT, full_scan_threshold=kilobytes),
        "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=kilobytes),
        "quantization_config": quantized[quantization],
    }


def built_for(info: models.CollectionInfo, layout: Layout, quantization: Quantization) -> bool:
    """Whether a collection has exactly this vector, these payload indexes and this quantization."""
    kinds = {key: index.data_type for key, index in info.payload_schema.items()}
    held = info.config.quantization_config
    quantized = {
        "none": held is None,
        "scalar": isinstance(held, models.ScalarQuantization),
        "binary": isinstance(held, models.BinaryQuantization),
    }
    return (
        list(vectors_of(info)) == [layout.vector]
        and kinds == {key(field): kind_of(field) for field in layout.fields.values()}
        and quantized[quantization]
    )


def vectors_of(info: models.CollectionInfo) -> dict[str, models.VectorParams]:
    """Name -> parameters of a collection's vectors."""
    held = info.config.params.vectors
    return held if isinstance(held, dict) else {}
