"""Training data from the event log: answers and the events on their items within the attribution window. Offline."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from services.backends.base import EventLog, Record
from services.backends.log_reader import read_batches
from services.rewards.rewards import gain, principal_weight
from services.types import Impression, Interaction

VALIDATION_SHARE = 0.2
HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ItemEvent:
    """One event on an item of an answer."""

    query_id: str
    object_id: str
    worth: float
    """Weight of the action relative to the largest, reduced beyond the principal's cap; negative for a dislike."""


async def read_answers(
    log: EventLog,
    weights: Mapping[str, float],
    attribution: float,
    cap: int,
    usable: Callable[[Impression], bool],
) -> AsyncIterator[Impression | ItemEvent]:
    """The `usable` answers of the log and the events within `attribution` seconds (server time) of one, in log order.
    A principal's events beyond `cap` an hour are weighted down."""
    shown: dict[str, tuple[float, str | None]] = {}
    recent: defaultdict[str, deque[float]] = defaultdict(deque)
    async for record in records(log):
        if isinstance(record, Impression) and usable(record):
            shown[record.query_id] = record.at, record.actor.principal
            yield record
        elif isinstance(record, Interaction) and record.query_id in shown and record.object_id is not None:
            at, principal = shown[record.query_id]
            if record.at - at <= attribution:
                worth = _principal_weight(principal, record.at, recent, cap) * gain(record, weights)
                yield ItemEvent(record.query_id, record.object_id, worth)


async def records(log: EventLog) -> AsyncIterator[Record]:
    """Every readable record, in log order."""
    async for batch in read_batches(log):
        for _, record in batch:
            yield record


def held_out(key: str) -> bool:
    """Whether the query with this memory key belongs to the validation set. Decided by its hash, so that a query is
    never in both sets."""
    return stable_hash(key) / 2**64 < VALIDATION_SHARE


def stable_hash(text: str, purpose: bytes = b"") -> int:
    """64-bit hash for splitting data: the same in every process, independent between purposes (at most 16 bytes)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=purpose).digest(), "big")


def _principal_weight(principal: str | None, at: float, recent: Mapping[str, deque[float]], cap: int) -> float:
    """Weight of an event by its principal's events of the last hour, to which it is added; 1 without a principal."""
    if principal is None:
        return 1.0
    times = recent[principal]
    while times and times[0] <= at - HOUR_SECONDS:
        times.popleft()
    times.append(at)
    return principal_weight(len(times) - 1, cap)
