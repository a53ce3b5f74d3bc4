"""Reward windows: which events belong to which decision, and when a decision's time is up. Pure, in log order.

Time is the log's own: a window closes when a record at or after its end is read, never by a clock, so that reading the
same log again closes the same windows at the same records. Open windows hold ids only; what was decided is read from
the log again when the window closes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.backends.base import Record
from services.types import EventStatus, Impression, Interaction, Survey

NO_POLICY = "none"
"""Policy name of answers without a decision (services.search.listing)."""


@dataclass(slots=True)
class Window:
    """A decision whose events are still collected."""

    query_id: str
    offset: int
    """Offset of its impression in the log."""
    ends: float
    interactions: list[Interaction] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    """query_ids of further pages under the same decision."""
    survey: int | None = None
    """Offset of its survey in the log."""


class Windows:
    """The open windows, in log order. `seconds` is how long each stays open."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._queue: deque[Window] = deque()
        self._by_id: dict[str, Window] = {}

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def oldest(self) -> Window | None:
        """The open window that closes next; None when none is open."""
        return self._queue[0] if self._queue else None

    def take(self, offset: int, record: Record) -> list[Window]:
        """Take `record` in; the windows that it closes, in log order. An event still counts for a window that its own
        arrival closes: it was accepted in time."""
        match record:
            case Impression() if record.root_id != record.query_id:
                window = self._by_id.get(record.root_id)
                if window is not None and record.learn:
                    window.pages.append(record.query_id)
                    self._by_id[record.query_id] = window
            case Impression() if learnable(record):
                window = Window(record.query_id, offset, record.at + self._seconds)
                self._queue.append(window)
                self._by_id[record.query_id] = window
            case Interaction() if record.status == EventStatus.ACCEPTED and record.query_id is not None:
                window = self._by_id.get(record.query_id)
                if window is not None:
                    window.interactions.append(record)
            case Survey():
                window = self._by_id.get(record.query_id)
                if window is not None:
                    window.survey = offset
        return list(self._closed(record.at))

    def _closed(self, at: float) -> Iterable[Window]:
        while self._queue and self._queue[0].ends <= at:
            window = self._queue.popleft()
            for query_id in (window.query_id, *window.pages):
                del self._by_id[query_id]
            yield window


def learnable(impression: Impression) -> bool:
    """Whether the policy may learn from this answer: the first page of a decision, not excluded from learning."""
    return (
        impression.learn
        and impression.root_id == impression.query_id
        and impression.decision.policy != NO_POLICY
        and bool(impression.options)
    )
