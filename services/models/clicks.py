"""What models learn from in the event log: the answers, and what was done with their items in time. Offline only."""

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
    """Weight of the action over the largest, less where its principal says too much; negative for a dislike."""


async def read_answers(
    log: EventLog,
    weights: Mapping[str, float],
    attribution: float,
    cap: int,
    usable: Callable[[Impression], bool],
) -> AsyncIterator[Impression | ItemEvent]:
    """The `usable` answers of the log, and the events that came within `attribution` seconds (server times) of one, in
    order. One principal's events beyond `cap` an hour count less."""
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
    """Every record that can be read, in order."""
    async for batch in read_batches(log):
        for _, record in batch:
            yield record


def held_out(key: str) -> bool:
    """Whether the query of this memory key is for validation, by its hash: so that it is never on both sides."""
    return hashed(key) / 2**64 < VALIDATION_SHARE


def hashed(text: str, what_for: bytes = b"") -> int:
    """64 bits by which texts are sorted into parts, always the same, and independent for each `what_for`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=what_for).digest(), "big")


def _principal_weight(principal: str | None, at: float, recent: Mapping[str, deque[float]], cap: int) -> float:
    """Weight of this event of a principal, which is counted with it; callers that name nobody are not told apart."""
    if principal is None:
        return 1.0
    times = recent[principal]
    while times and times[0] <= at - HOUR_SECONDS:
        times.popleft()
    times.append(at)
    return principal_weight(len(times) - 1, cap)
