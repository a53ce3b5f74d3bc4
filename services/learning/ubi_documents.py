"""Searches and events as documents of User Behavior Insights (UBI 1.3). Pure.

Document ids are derived from the log, so that a document written twice counts once.

- A search with words is a query, and every item it showed is an `impression` event; click models need both.
- A later page belongs to the same search: its impressions and events have the query id of the first page, at positions
  that continue from there.
- An event on a listing without words, or outside of any answer, has no query and no position: there was no query, and
  clicks at positions without impressions would distort every rate by position.
- Left out are searches that are excluded from learning, with their events, and users who were forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.types import EventStatus, Impression, Interaction

OBJECT_ID_FIELD = "_id"
"""Name of the field that holds an item's id in the lexical index."""
CONVERSIONS = ("add_to_cart", "purchase")
MAX_KEY_BYTES = 512
"""Maximum size of an id in OpenSearch."""

Document = dict[str, Any]
Entry = tuple[str, Mapping[str, Any]]
"""Id and document."""


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """Facts about an answer that documents of its events need."""

    query_id: str
    """query_id of its first page."""
    text: str
    user_id: str | None
    searched: bool
    """Whether it answers a query with words; a listing does not."""
    mirrored: bool


def logged_answer(impression: Impression) -> LoggedAnswer:
    """The facts about this answer that documents of its events need."""
    return LoggedAnswer(
        query_id=impression.root_id,
        text=impression.text,
        user_id=impression.user_id,
        searched=impression.normalized != "",
        # `understanding`, otherwise never empty, is blanked for a forgotten user.
        mirrored=impression.learn and bool(impression.understanding),
    )


def query(application: str, impression: Impression) -> Entry:
    """(id, document) of the query that a first page answers."""
    degraded = [f"{part.arm} {part.reason}" for part in impression.degraded]
    attributes = {
        "user_id": impression.user_id,
        "session_id": impression.session_id,
        "offset": impression.offset or None,
        "total": impression.total,
        "policy": impression.decision.policy,
        "mode": impression.decision.mode,
        "model_version": impression.decision.model_version,
        "ranker": impression.ranker,
        "degraded": degraded or None,
    }
    return impression.query_id, _without_none(
        {
            "application": application,
            "query_id": impression.query_id,
            "client_id": impression.client_id,
            "user_query": impression.text,
            "query_attributes": _without_none(attributes),
            "object_id_field": OBJECT_ID_FIELD,
            "query_response_id": impression.query_id,
            "query_response_hit_ids": list(impression.shown),
            "timestamp": _time(impression.at),
        }
    )


def impressions(application: str, impression: Impression) -> list[Entry]:
    """An event for every item that a page showed."""
    return [
        (
            f"{impression.query_id}:{position}",
            _event(application, impression, logged_answer(impression), "impression", object_id, position),
        )
        for position, object_id in enumerate(impression.shown, impression.offset + 1)
    ]


def event(application: str, done: Interaction, answer: LoggedAnswer | None) -> Entry | None:
    """The document of an event on `answer` (None when it is no longer in the log, or there was none); None when the
    event is left out."""
    if answer is None and done.query_id is None and done.user_id is None:
        return None  # Without an answer only events of a known user are mirrored: this user was forgotten.
    if answer is not None and (not answer.mirrored or done.user_id != answer.user_id):
        return None  # The event and its answer have the same user, unless one of the two is being forgotten.
    key = f"{application}:{done.event_id}"
    if len(key.encode()) > MAX_KEY_BYTES:
        key = f"{application}:{hashlib.sha256(key.encode()).hexdigest()}"
    position = done.position if answer is not None and answer.searched else None
    document = _event(application, done, answer, done.action_name, done.object_id, position)
    if done.value is not None and done.object_id is not None:
        document["event_attributes"]["value"] = done.value
    if done.status == EventStatus.LATE:
        document["message"] = "late: not learned from"
    return key, document


def _event(
    application: str,
    record: Impression | Interaction,
    answer: LoggedAnswer | None,
    action_name: str,
    object_id: str | None,
    position: int | None,
) -> Document:
    query_id = record.query_id
    if answer is not None:
        query_id = answer.query_id if answer.searched else None
    attributes: Document = {}
    if object_id is not None:
        attributes["object"] = {"object_id": object_id, "object_id_field": OBJECT_ID_FIELD}
        if position is not None:
            attributes["position"] = {"ordinal": position}
        if query_id is not None and record.query_id != query_id:
            attributes["answer_id"] = record.query_id
    if action_name == "impression":
        message_type = "IMPRESSION"
    else:
        message_type = "CONVERSION" if action_name in CONVERSIONS else "INTERACTION"
    return _without_none(
        {
            "application": application,
            "action_name": action_name,
            "query_id": query_id,
            "user_query": answer.text if answer is not None and answer.searched else None,
            "session_id": record.session_id,
            "client_id": record.client_id,
            "user_id": record.user_id,
            "timestamp": _time(record.at),
            "message_type": message_type,
            "event_attributes": attributes or None,
        }
    )


def _without_none(document: Mapping[str, Any]) -> Document:
    return {name: value for name, value in document.items() if value is not None}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
