"""What every event log does alike: rows of its store as records, and the answers of just now at hand."""

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

REMEMBER = 25 * 3600.0
"""Seconds for which event ids are remembered: 24 h as promised, and an hour for clocks that disagree. The longest life
of a query id that the settings allow is 24 h, so an id outlives no event of its answer."""
STORED = (EventStatus.ACCEPTED, EventStatus.LATE)
MOST_BURIED = 10_000
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
    """The last impressions that this process appended, for the feedback and the page requests that follow at once.

    At most `capacity` (0: none), none for longer than `seconds` by `clock`.
    """

    def __init__(self, capacity: int, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._impressions: TTLCache[str, Impression] = TTLCache(capacity, seconds, clock)

    def get(self, query_id: str) -> Impression | None:
        """The impression of `query_id`, or None when it is not (or no longer) kept here."""
        return self._impressions.get(query_id)

    def add(self, impression: Impression) -> None:
        """Keep `impression`; the one used least recently makes room."""
        if self._impressions.maxsize:
            self._impressions[impression.query_id] = impression

    def clear(self) -> None:
        """Keep none."""
        self._impressions.clear()

    def forget(self, user_id: str) -> None:
        """Keep none of this user."""
        for query_id in [q for q, impression in self._impressions.items() if impression.user_id == user_id]:
            self._impressions.pop(query_id, None)
