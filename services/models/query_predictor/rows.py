"""What the query predictor is trained on: per query of the log, how often each item was looked at and taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.backends.base import EventLog
from services.models.clicks import ItemEvent, read_answers
from services.rewards.rewards import examination
from services.types import Impression


@dataclass(slots=True)
class ItemClicks:
    """An item under a query: `examinations` by expectation, and in how many answers it was `taken`, both over all answers."""

    examinations: float = 0.0
    taken: int = 0


@dataclass(slots=True)
class LoggedQuery:
    """A query, by its memory key: `text` is how it was first written, normalised."""

    text: str
    items: defaultdict[str, ItemClicks] = field(default_factory=lambda: defaultdict(ItemClicks))


async def from_log(
    log: EventLog,
    weights: Mapping[str, float],
    attribution: float,
    cap: int,
    curve: Callable[[int], float] = examination,
) -> dict[str, LoggedQuery]:
    """Memory key -> query. An item was taken in an answer where all that was done with it within `attribution` seconds
    is worth something together; see services.models.clicks.read_answers for the parameters."""
    asked: dict[str, LoggedQuery] = {}
    keys: dict[str, str] = {}
    worth: defaultdict[tuple[str, str], float] = defaultdict(float)
    async for told in read_answers(log, weights, attribution, cap, _usable):
        if isinstance(told, ItemEvent):
            worth[told.query_id, told.object_id] += told.worth
            continue
        keys[told.query_id] = told.memory_key
        query = asked.setdefault(told.memory_key, LoggedQuery(told.normalized))
        for place, object_id in enumerate(told.shown, told.offset + 1):
            query.items[object_id].examinations += curve(place)
    for (query_id, object_id), earned in worth.items():
        if earned > 0.0 and (shown := asked[keys[query_id]].items.get(object_id)) is not None:
            shown.clicked += 1
    return asked


def _usable(impression: Impression) -> bool:
    return impression.learn and bool(impression.memory_key)
