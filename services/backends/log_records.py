"""What every event log does alike: rows of its store as records, and the answers of just now at hand."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from services.backends.base import Record
from services.backends.log_codec import decode
from services.errors import RecordDamaged
from services.types import EventStatus, Impression

REMEMBER = 25 * 3600.0
"""Seconds for which event ids are remembered: 24 h as promised, and an hour for clocks that disagree. The longest life
of a query id that the settings allow is 24 h, so an id outlives no event of its answer."""
STORED = (EventStatus.ACCEPTED, EventStatus.LATE)
MAX_DEAD_LETTERS = 10_000
"""Dead letters kept: the newest."""
TRIM_AT_ONCE = 500
"""Records dropped in one step: other writers wait for no more than these."""
TRIM_STEPS = 20
"""Such steps for one word of a consumer."""

COPY_AT_ONCE = 250
"""Records of one read for a backup ..."""
KNOWN_AT_ONCE = 1000
"""... and things that count events once."""


class Row(NamedTuple):
    """A record as a log's store holds it."""

    offset: int
    body: bytes
    at: float | None = None
    """The record's time where it is not the one in the body."""


def decode_row(row: Row) -> Record:
    """Raises RecordDamaged that says at which offset."""
    try:
        record = decode(row.body)
    except RecordDamaged as error:
        error.offset = row.offset
        raise
    return record if row.at is None or row.at == record.at else replace(record, at=row.at)


def decode_rows(rows: Sequence[Row]) -> list[tuple[int, Record]]:
    """The records up to a damaged one; RecordDamaged when the first of them is damaged."""
    records: list[tuple[int, Record]] = []
    for row in rows:
        try:
            records.append((row.offset, decode_row(row)))
        except RecordDamaged:
            if not records:
                raise
            break
    return records


class RecentImpressions:
    """The last `capacity` impressions that this process appended, none for longer than `seconds`: for the feedback and
    the pages that follow at once."""

    def __init__(self, capacity: int, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[str, tuple[Impression, float]] = OrderedDict()

    def get(self, query_id: str) -> Impression | None:
        """The impression; None when it is not at hand."""
        impression, until = self._kept.get(query_id, (None, 0.0))
        return impression if self._clock() < until else None

    def add(self, impression: Impression) -> None:
        """Keep it, and drop the oldest beyond the capacity."""
        self._kept[impression.query_id] = impression, self._clock() + self._seconds
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()

    def forget(self, user_id: str) -> None:
        """Drop those of a user."""
        for query_id in [q for q, (impression, _) in self._kept.items() if impression.user_id == user_id]:
            del self._kept[query_id]
