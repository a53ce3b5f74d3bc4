"""Shared parts of the event logs: decoding rows of a store into records, and a cache of recent impressions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from cachetools import TTLCache

from services.backends.base import Record
from services.backends.log_codec import decode
from services.errors import RecordDamaged
from services.types import EventStatus, Impression

REMEMBER_SECONDS = 25 * 3600.0
"""Seconds that event ids are remembered: 24 h as promised, plus an hour for clocks that disagree. Settings allow query
ids to live for 24 h at most, so none outlives the memory of its events."""
STORED_STATUSES = (EventStatus.ACCEPTED, EventStatus.LATE)
MAX_DEAD_LETTERS = 10_000
"""Number of newest dead letters that are kept."""
TRIM_BATCH = 500
"""Records dropped in one step, for which other writers have to wait."""
MAX_TRIM_STEPS = 20
"""Maximum number of steps in one call of `consumed`."""

COPY_BATCH = 250
"""Records per read for a backup ..."""
KNOWN_BATCH = 1000
"""... and deduplication entries per read."""


class Row(NamedTuple):
    """A record in the form in which a store returns it."""

    offset: int
    body: bytes
    at: float | None = None
    """The record's time where it is not the one in the body."""


def decode_row(row: Row) -> Record:
    """The record of `row`. Raises RecordDamaged with its offset."""
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
    """Cache of the last impressions that this process appended, for the feedback and page requests that follow.

    Holds at most `capacity` (0: none), each for at most `seconds` by `clock`.
    """

    def __init__(self, capacity: int, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._impressions: TTLCache[str, Impression] = TTLCache(capacity, seconds, clock)

    def get(self, query_id: str) -> Impression | None:
        """The impression of `query_id`, or None when it is not (or no longer) kept here."""
        return self._impressions.get(query_id)

    def add(self, impression: Impression) -> None:
        """Add `impression`; the least recently used one is evicted if necessary."""
        if self._impressions.maxsize:
            self._impressions[impression.query_id] = impression

    def clear(self) -> None:
        """Remove all impressions."""
        self._impressions.clear()

    def forget(self, user_id: str) -> None:
        """Remove the impressions of this user."""
        for query_id in [q for q, impression in self._impressions.items() if impression.user_id == user_id]:
            self._impressions.pop(query_id, None)
