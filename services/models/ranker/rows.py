"""What a ranker is trained on: groups of feature rows and what each item was worth, from judged queries or the log.

One group is one ranking of one query. Features are always those of services.rankers.features, as served.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.backends.base import EventLog, Record
from services.datasets.folder import Dataset
from services.errors import InvalidRequest, RecordDamaged
from services.evaluation.measures import exponential
from services.rankers.base import Rows
from services.rankers.features import NAMES, rows
from services.rewards import examination, gain, principal_weight
from services.types import Context, Document, Impression, Interaction, Pooled, Schema

FEWEST = 50
"""Groups with something relevant that training and its gate need at least."""
VALIDATION_SHARE = 0.2
_READ = 500
_HOUR = 3600.0

Found = tuple[Context, Sequence[Pooled], Mapping[str, Document]]
Search = Callable[["Labelled"], Awaitable[Found]]
"""From a labelled query to its context, fused pool and documents: the live path up to the ranker."""


@dataclass(frozen=True, slots=True)
class Group:
    key: str
    """Which query: the same key is never in training and in validation."""
    ids: tuple[str, ...]
    rows: Rows
    gains: NDArray[np.float64]
    """What each item is worth, >= 0; 0 where nobody judged or clicked it."""
    baseline: NDArray[np.float64]
    """Scores of the order to beat: the fused one, or the one that was shown."""
    ideal: tuple[float, ...] = ()
    """Gains of all judged items, in the pool or not; () when only shown items are known."""
    positions: tuple[int, ...] = ()
    """Where each item was shown, from 1; () without position bias."""
    weight: float = 1.0
    slice: str = ""


# --- judged queries -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Labelled:
    """A query of a data set folder with its judgements."""

    query_id: str
    split: str
    text: str
    slice: str = ""
    user_id: str | None = None
    grades: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0
    """Relative frequency in the traffic of its slice."""


def read_labels(folder: Path, splits: Sequence[str] = ("train", "validation")) -> list[Labelled]:
    """Queries of `splits` that have something relevant, in file order, from queries.tsv and qrels.tsv (or .gz).

    Raises InvalidRequest when a file or a column is absent, or a line cannot be read: what is learned from, and judged
    by, is all of the labels or nothing.
    """
    dataset = Dataset.open(folder)
    grades = dataset.judgments()
    found = [
        Labelled(
            query.query_id, query.split, query.text, query.slice, query.user_id, grades[query.query_id], query.weight
        )
        for query in dataset.queries()
        if query.split in splits and any(grade > 0 for grade in grades.get(query.query_id, {}).values())
    ]
    if dataset.problems:
        raise InvalidRequest(str(dataset.problems[0]))
    return found


async def from_labels(
    queries: Iterable[Labelled],
    search: Search,
    schema: Schema,
    mix: Mapping[str, float] | None = None,
) -> list[Group]:
    """One group a query, in order; gains are 2^grade - 1. `mix`: share of traffic per slice, by which groups are
    weighted (default: every query the same). Queries whose pool is empty are kept: what was not found counts against
    both orders alike, and in the mean."""
    queries = list(queries)
    sizes: defaultdict[str, int] = defaultdict(int)
    for query in queries:
        sizes[query.slice] += 1
    groups = []
    for query in queries:
        context, pool, documents = await search(query)
        table = rows(context, pool, documents, schema)
        weight = 1.0 if mix is None else mix.get(query.slice, 0.0) * len(queries) / sizes[query.slice]
        groups.append(
            Group(
                key=query.query_id,
                ids=tuple(pooled.object_id for pooled in pool),
                rows=table,
                gains=np.array([exponential(query.grades.get(pooled.object_id, 0.0)) for pooled in pool]),
                baseline=table[:, NAMES.index("fused")].astype(np.float64),
                ideal=tuple(exponential(grade) for grade in query.grades.values()),
                weight=weight,
                slice=query.slice,
            )
        )
    return groups


# --- the event log ------------------------------------------------------------------------------------------------


async def from_log(
    log: EventLog, weights: Mapping[str, float], attribution: float, cap: int
) -> tuple[list[Group], list[Group]]:
    """(training, validation) groups: one per answer that earned something within `attribution` seconds (server times).

    Gains are action weights relative to the largest; items that were shown and got nothing, or were disliked, have 0.
    One principal's events beyond `cap` an hour count less. A fifth of the queries (by a hash of their memory key, so
    that a query is never on both sides) is for validation. Answers that are not to be learned from, or without feature
    rows (browsing), are left out.

    Raises InvalidRequest when either side has too few groups to learn or to judge from.
    """
    shown: dict[str, Impression] = {}
    earned: defaultdict[str, dict[str, float]] = defaultdict(dict)
    recent: defaultdict[str, deque[float]] = defaultdict(deque)
    async for record in records(log):
        if isinstance(record, Impression) and _usable(record):
            shown[record.query_id] = record
        elif isinstance(record, Interaction) and record.query_id in shown and record.object_id is not None:
            impression = shown[record.query_id]
            if record.at - impression.at <= attribution:
                trust = _trust(impression.principal, record.at, recent, cap)
                items = earned[impression.query_id]
                items[record.object_id] = items.get(record.object_id, 0.0) + trust * gain(record, weights)
    groups = [_group(shown[query_id], items) for query_id, items in earned.items()]
    groups = [group for group in groups if (group.gains > 0).any()]
    training = [group for group in groups if not _held_out(group.key)]
    validation = [group for group in groups if _held_out(group.key)]
    if len(training) < FEWEST or len(validation) < FEWEST * VALIDATION_SHARE:
        raise InvalidRequest(
            f"too little to learn from: {len(groups)} answers with a wanted item in the log ({len(training)} for "
            f"training, {len(validation)} for validation); at least {FEWEST} and {FEWEST * VALIDATION_SHARE:.0f} needed"
        )
    return training, validation


async def records(log: EventLog) -> AsyncIterator[Record]:
    """Every record that can be read, in order."""
    after = 0
    while True:
        try:
            batch = await log.read(after, _READ)
        except RecordDamaged as damage:
            if damage.offset is None:
                raise
            after = damage.offset
            continue
        if not batch:
            return
        after = batch[-1][0]
        for _, record in batch:
            yield record


def _trust(principal: str | None, at: float, recent: Mapping[str, deque[float]], cap: int) -> float:
    """Weight of this event of a principal, which is counted with it; callers that name nobody are not told apart."""
    if principal is None:
        return 1.0
    times = recent[principal]
    while times and times[0] <= at - _HOUR:
        times.popleft()
    times.append(at)
    return principal_weight(len(times) - 1, cap)


def _usable(impression: Impression) -> bool:
    if not impression.learn or not impression.memory_key or len(impression.rows) != len(impression.shown):
        return False
    return bool(impression.rows) and all(0 < len(row) <= len(NAMES) for row in impression.rows)


def _group(impression: Impression, items: Mapping[str, float]) -> Group:
    table = np.zeros((len(impression.rows), len(NAMES)), dtype=np.float32)
    for i, row in enumerate(impression.rows):
        table[i, : len(row)] = row  # logged before the last features existed: those are absent, 0
    places = range(impression.offset + 1, impression.offset + len(impression.shown) + 1)
    worth = np.array([max(items.get(object_id, 0.0), 0.0) for object_id in impression.shown])
    return Group(
        key=impression.memory_key,
        ids=impression.shown,
        rows=table,
        gains=worth,
        baseline=-np.array(places, dtype=np.float64),
        positions=tuple(places),
    )


def _held_out(key: str) -> bool:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < VALIDATION_SHARE


def debiased(group: Group) -> NDArray[np.float64]:
    """Gains over the chance that the place was looked at (inverse propensity, Joachims et al., WSDM 2017)."""
    if not group.positions:
        return group.gains
    looked_at = np.array([examination(position) for position in group.positions])
    worth: NDArray[np.float64] = group.gains / looked_at
    return worth
