"""Feedback: validates reported events, decides which of them count, and logs them.

raw JSON -> event (or invalid) -> look up its answer and judge -> one durable, all-or-nothing call of the event log
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from services.backends.base import EventLog
from services.errors import RecordDamaged, StorageFailed
from services.query_ids import Signer
from services.types import Deadline, EventStatus, Impression, Interaction

LOOKUP_SECONDS = 2.0
"""Time for the look-ups of one call; a log that needs longer counts as failing."""
ATTRIBUTES_LENGTH = 4096

Name = Annotated[str, Field(min_length=1, max_length=256)]

_DETAILS = {
    EventStatus.DUPLICATE: "counted already: an event id, and an action on an object of an answer, count once",
    EventStatus.LATE: "the answer is too old to learn from; kept for audit",
    EventStatus.UNKNOWN_QUERY: "query_id: not an id of an answer of this service; send the one of the search response",
    EventStatus.NOT_SHOWN: "object_id: not in this answer; send the query_id of the page that showed it",
    EventStatus.INVALID: "event_id: sent before with another body; give every event an id of its own",
}


@dataclass(frozen=True, slots=True)
class EventResult:
    """Outcome of one reported event."""

    event_id: str | None
    """The id as sent; None when it is not usable."""
    status: EventStatus
    detail: str | None
    """How to correct the event, or why it does not count; None when it counts."""


class Event(BaseModel):
    """One well-formed event. Types are strict: no "10" or true for a number, no NaN."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    event_id: Annotated[str, Field(min_length=1, max_length=128)]
    query_id: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    object_id: Name | None = None
    action_name: Literal["click", "add_to_cart", "purchase", "play", "like", "dislike", "dwell", "abandon"]
    timestamp: Annotated[str, Field(max_length=64)] | None = None
    position: Annotated[int, Field(ge=1)] | None = None
    value: float | None = None
    user_id: Name | None = None
    client_id: Name | None = None
    session_id: Name | None = None
    event_attributes: dict[str, Any] | None = None

    @field_validator("timestamp")
    @classmethod
    def _iso_8601(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                _seconds(value)
            except (ValueError, OverflowError) as error:
                raise ValueError("send ISO 8601, such as 2026-11-20T20:00:00Z") from error
        return value

    @field_validator("event_attributes")
    @classmethod
    def _bounded(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            length = len(json.dumps(value, allow_nan=False))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError("send plain JSON, without NaN or Infinity and not deeply nested") from error
        if length > ATTRIBUTES_LENGTH:
            raise ValueError(f"send at most {ATTRIBUTES_LENGTH} characters of JSON")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Event:
        if self.action_name == "abandon":
            if self.object_id is not None:
                raise ValueError("object_id: leave it out, an abandon is of the whole answer")
            if self.query_id is None:
                raise ValueError("query_id: an abandon is of an answer; send its query_id")
        elif self.object_id is None:
            raise ValueError(f"object_id: send the object of the {self.action_name}")
        if self.action_name == "dwell" and (self.value is None or self.value < 0):
            raise ValueError("value: send the seconds of the dwell, 0 or more")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the body in one canonical form: key order, spacing and absent or null fields do not matter."""
        body = json.dumps(self.model_dump(exclude_none=True), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer that a query id signed by this service refers to."""

    expired: bool
    impression: Impression | None
    """None when the log does not have it (any more)."""


class FeedbackService:
    """Records feedback events.

    An event counts when its answer is at most `attribution` seconds (and `query_ttl`, the life of a query id) old;
    both times are the server's.
    """

    def __init__(
        self,
        log: EventLog,
        signer: Signer,
        query_ttl: float,
        attribution: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._signer = signer
        self._window = min(query_ttl, attribution)
        self._clock = clock

    async def record(self, events: Sequence[object], admin: bool) -> list[EventResult]:
        """Judge `events` (any JSON values) and store those that are accepted or late; one result each, in order.

        `admin`: the caller holds the admin key, which events without a query_id need.
        Raises StorageFailed when the log fails: then nothing was accepted and all may be sent again.
        """
        now = self._clock()
        parsed = [_parse(event, admin) for event in events]
        # All well-formed events go to the log, even those rejected by now: a retry of a known event id is a duplicate.
        valid = [event for event in parsed if isinstance(event, Event)]
        answers = await self._answers(valid, now)
        statuses = iter(await self._log.accept([(self._judge(event, answers, now), event.digest) for event in valid]))
        results = []
        for event in parsed:
            if isinstance(event, Event):
                status = next(statuses)
                event = EventResult(event.event_id, status, _DETAILS.get(status))
            results.append(event)
        return results

    async def _answers(self, events: Sequence[Event], now: float) -> dict[str, _Answer]:
        """Per query id signed by this service, its answer."""
        verdicts = {
            query_id: self._signer.verify(query_id, now)
            for query_id in {event.query_id for event in events}
            if query_id
        }
        signed = [query_id for query_id, verdict in verdicts.items() if verdict != "forged"]
        deadline = Deadline.after(LOOKUP_SECONDS)
        try:
            found = await asyncio.gather(*(self._impression(query_id, deadline) for query_id in signed))
        except TimeoutError as error:
            raise StorageFailed("the event log does not answer in time") from error
        return {
            query_id: _Answer(verdicts[query_id] == "expired", impression)
            for query_id, impression in zip(signed, found, strict=True)
        }

    async def _impression(self, query_id: str, deadline: Deadline) -> Impression | None:
        try:
            return await self._log.impression(query_id, deadline)
        except RecordDamaged:
            # An unreadable answer is treated as never shown: nothing can be learned from it.
            return None

    def _judge(self, event: Event, answers: Mapping[str, _Answer], now: float) -> Interaction:
        """`event` as it would be logged. Who acted, and at what position, is taken from the answer, not the event."""
        if event.query_id is None:
            return _interaction(event, EventStatus.ACCEPTED, now, None, event)
        answer = answers.get(event.query_id)
        if answer is None or (answer.impression is None and not answer.expired):
            return _interaction(event, EventStatus.UNKNOWN_QUERY, now, None, None)
        if answer.impression is None:
            return _interaction(event, EventStatus.LATE, now, None, None)
        impression, position = answer.impression, None
        if event.object_id is not None:
            if event.object_id not in impression.shown:
                return _interaction(event, EventStatus.NOT_SHOWN, now, None, impression)
            position = impression.offset + impression.shown.index(event.object_id) + 1
        late = answer.expired or now - impression.at > self._window
        return _interaction(event, EventStatus.LATE if late else EventStatus.ACCEPTED, now, position, impression)


def _parse(raw: object, admin: bool) -> Event | EventResult:
    if not isinstance(raw, dict):
        return EventResult(None, EventStatus.INVALID, "send a JSON object with event_id, query_id and action_name")
    try:
        event = Event.model_validate(raw)
    except ValidationError as error:
        return EventResult(_known_id(raw.get("event_id")), EventStatus.INVALID, _explain(error))
    if event.query_id is None:
        missing = None
        if not admin:
            missing = "query_id: send the one of the answer; events without it need the admin key"
        elif event.user_id is None:
            missing = "user_id: events without query_id are of a person; send whose"
        if missing is not None:
            return EventResult(event.event_id, EventStatus.INVALID, missing)
    return event


def _interaction(
    event: Event, status: EventStatus, now: float, position: int | None, who: Impression | Event | None
) -> Interaction:
    return Interaction(
        event_id=event.event_id,
        query_id=event.query_id,
        object_id=event.object_id,
        action_name=event.action_name,
        at=now,
        timestamp=None if event.timestamp is None else _seconds(event.timestamp),
        position=position,
        value=event.value,
        user_id=None if who is None else who.user_id,
        client_id=None if who is None else who.client_id,
        session_id=None if who is None else who.session_id,
        status=status,
    )


def _seconds(timestamp: str) -> float:
    """Unix time of an ISO 8601 date and time; without an offset it is read as UTC."""
    moment = datetime.fromisoformat(timestamp)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _known_id(value: object) -> str | None:
    """The event id if it can be repeated in the response: of acceptable length and valid UTF-8; else None."""
    if not isinstance(value, str) or not 1 <= len(value) <= 128:
        return None
    return value if value.encode("utf-8", "replace").decode("utf-8") == value else None


def _explain(error: ValidationError) -> str:
    """The first problem, with its field, without quoting the values sent."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        # The name is the caller's: shown plainly only where it is a harmless word.
        known = ", ".join(Event.model_fields)
        name = field if field.isidentifier() and len(field) <= 64 else "a field of this name"
        return f"{name}: unknown; fields are {known}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
