"""Records of an event log, for tests to change what they are about."""

from __future__ import annotations

from typing import Any

from services.types import ArmChoice, ArmOption, Decision, Degraded, Impression, Interaction


def make_impression(query_id: str = "q1", **changes: Any) -> Impression:
    """An answer to "toy story" that showed items 1, 2, 3 from three arms, one of which timed out."""
    ids = ("1", "2", "3", "4")
    fields: dict[str, Any] = {
        "query_id": query_id,
        "root_id": query_id,
        "at": 1000.0,
        "text": "Toy Story",
        "normalized": "toy story",
        "memory_key": "story toy",
        "signature": "digest",
        "user_id": "ann",
        "session_id": "s1",
        "client_id": "c1",
        "learn": True,
        "understanding": {"normalized": "toy story", "slots": [{"field": "title", "value": "Toy Story"}]},
        "features": {"length": 2.0, "idf": 0.25},
        "options": tuple(ArmOption(arm, (0, 10), {"success": 0.5}) for arm in ("lexical", "memory", "vector")),
        "decision": Decision(
            "vw", "learned", "v1", 7,
            {arm: ArmChoice(10, 0.9, ((0, 0.1), (10, 0.9))) for arm in ("lexical", "memory", "vector")},
        ),
        "lists": {"lexical": tuple((i, 1.5) for i in ids), "memory": (("2", 0.5),)},
        "degraded": (Degraded("vector", "timeout"),),
        "ranking": ids,
        "scores": (4.0, 3.0, 2.0, 1.0),
        "offset": 0,
        "shown": ids[:3],
        "total": 4,
        "ranker": "r1",
        "rows": ((1.0, 0.0), (0.5, 0.0), (0.25, float("-1"))),
    }  # fmt: skip
    return Impression(**(fields | changes))


def make_interaction(event_id: str = "e1", **changes: Any) -> Interaction:
    """A click on the first item of that answer, a second later, by who asked."""
    fields: dict[str, Any] = {
        "event_id": event_id,
        "query_id": "q1",
        "object_id": "1",
        "action_name": "click",
        "at": 1001.0,
        "timestamp": None,
        "position": 1,
        "value": None,
        "user_id": "ann",
        "client_id": "c1",
        "session_id": "s1",
        "status": "accepted",
    }
    return Interaction(**(fields | changes))
