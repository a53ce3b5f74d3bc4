"""Training data of a ranker: groups of feature rows with the gain of each item, from judged queries or the log.

A group is one query's pool, or the items that several answers to it showed. Features are those of
services.rankers.features, as when serving.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.backends.base import EventLog
from services.datasets.folder import Dataset
from services.errors import InvalidRequest
from services.evaluation.measures import exponential
from services.models.clicks import VALIDATION_SHARE, ItemEvent, held_out, read_answers
from services.models.ranker.answers import AnswerGroups, QueryGroup
from services.rankers.base import Rows
from services.rankers.features import NAMES, rows
from services.rewards.rewards import examination
from services.types import Context, Document, Impression, Pooled, Schema

MIN_GROUPS = 50
"""Groups with a relevant item that training and its gate need at least."""
_PERSON_KNOWN_COLUMN = NAMES.index("person_known")

Found = tuple[Context, Sequence[Pooled], Mapping[str, Document]]
Search = Callable[["Labelled"], Awaitable[Found]]
"""Labelled query -> (context, fused pool, documents): the live path up to the ranker."""


@dataclass(frozen=True, slots=True)
class Group:
    """The items of one query that are ranked against each other, with their feature rows and gains."""

    key: str
    """Key of the query; never both in training and in validation."""
    ids: tuple[str, ...]
    rows: Rows
    gains: NDArray[np.float64]
    """Gain of each item, >= 0; 0 where it was neither judged nor clicked."""
    baseline: NDArray[np.float64]
    """Scores of the order to beat: the fused order, or the order shown."""
    ideal: tuple[float, ...] = ()
    """Gains of all judged items, in the pool or not; () when only shown items are known."""
    examinations: NDArray[np.float64] | None = None
    """Expected examinations of each item, > 0, over which `gains` are summed; None where the gains are judgements."""
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
    """Queries of `splits` with a relevant item, in file order, from queries.tsv and qrels.tsv (or .gz).

    Raises InvalidRequest when a file or a column is missing, or a line cannot be read: training and validation use all
    labels or none.
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
    """One group per query, in order; gains are 2^grade - 1. `mix`: share of traffic per slice, by which groups are
    weighted (default: all equal). Queries with an empty pool are kept: they count against both orders alike."""
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


def labelled(groups: Iterable[Group], folder: Path, split: str) -> list[Group]:
    """The groups of `split`'s queries with a relevant item, with gains from their judgements."""
    grades = {query.query_id: query.grades for query in read_labels(folder, (split,))}
    return [
        replace(
            group,
            gains=np.array([exponential(grades[group.key].get(object_id, 0.0)) for object_id in group.ids]),
            ideal=tuple(exponential(grade) for grade in grades[group.key].values()),
        )
        for group in groups
        if group.key in grades
    ]


# --- the event log ------------------------------------------------------------------------------------------------


async def from_log(
    log: EventLog,
    weights: Mapping[str, float],
    attribution: float,
    cap: int,
    curve: Callable[[int], float] = examination,
) -> tuple[list[Group], list[Group]]:
    """(training, validation) groups of answers to the same query (see services.models.ranker.answers) that earned
    something within `attribution` seconds (server time). Answers that earned nothing still count as examinations.

    Gains are summed action weights, relative to the largest weight, and at least 0. `curve`: position (from 1) ->
    probability that it is examined. A principal's events beyond `cap` an hour are weighted down. A fifth of the
    queries, by a hash of their memory key, is for validation. Answers marked not to learn from, and those without
    feature rows (browsing), are left out.

    Raises InvalidRequest when either set has too few groups.
    """
    answers = AnswerGroups(curve)
    shown: dict[str, QueryGroup] = {}
    async for record in read_answers(log, weights, attribution, cap, _usable):
        if isinstance(record, ItemEvent):
            shown[record.query_id].earn(record.object_id, record.worth)
        else:
            shown[record.query_id] = _add_answer(answers, record)
    groups = [to_group(answered) for answered in answers.rewarded()]
    training, validation = split_groups(groups)
    if len(training) < MIN_GROUPS or len(validation) < MIN_GROUPS * VALIDATION_SHARE:
        raise InvalidRequest(
            f"too little to learn from: {len(groups)} queries and repeats with a wanted item in the log "
            f"({len(training)} for training, {len(validation)} for validation); at least {MIN_GROUPS} and "
            f"{MIN_GROUPS * VALIDATION_SHARE:.0f} needed"
        )
    return training, validation


def _usable(impression: Impression) -> bool:
    if not impression.learn or not impression.memory_key or len(impression.rows) != len(impression.shown):
        return False
    return bool(impression.rows) and all(0 < len(row) <= len(NAMES) for row in impression.rows)


def _add_answer(answers: AnswerGroups, impression: Impression) -> QueryGroup:
    table = np.zeros((len(impression.rows), len(NAMES)), dtype=np.float32)
    for i, row in enumerate(impression.rows):
        table[i, : len(row)] = row  # features newer than the log record stay 0
    known = bool((table[:, _PERSON_KNOWN_COLUMN] > 0).any())
    person = (impression.actor.person or "") if known else ""
    return answers.add(impression.memory_key, impression.shown, table, impression.offset + 1, person)


def to_group(answered: QueryGroup) -> Group:
    """The training group of `answered`; its baseline is the items' mean position."""
    return Group(
        key=answered.key,
        ids=answered.ids(),
        rows=answered.rows(),
        gains=answered.worth(),
        baseline=-answered.mean_positions(),
        examinations=answered.examinations(),
    )


def split_groups(groups: Iterable[Group]) -> tuple[list[Group], list[Group]]:
    """(training, validation), by a hash of the query."""
    found: tuple[list[Group], list[Group]] = ([], [])
    for group in groups:
        found[held_out(group.key)].append(group)
    return found


def rerank_depth(groups: Sequence[Group]) -> int | None:
    """Depth of the pool that a ranker trained on `groups` reorders (services/rankers/cascade.py): twice the 99th
    percentile of the positions shown; None where whole pools were judged."""
    if any(group.examinations is None for group in groups):
        return None
    positions = -np.concatenate([group.baseline for group in groups])
    return 2 * math.ceil(float(np.percentile(positions, 99)))


def debiased(group: Group) -> NDArray[np.float64]:
    """Gain of each item per examination, [items]."""
    return group.gains if group.examinations is None else group.gains / group.examinations
