"""Training data of the query predictor: expected examinations and clicks of each item, per query of the log."""

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
    """Totals of an item under a query: expected examinations, and the number of answers in which it was clicked."""

    examinations: float = 0.0
    clicked: int = 0


@dataclass(slots=True)
class LoggedQuery:
    """A query with its items by object id; `text`: its first spelling in the log, normalised."""

    text: str
    items: defaultdict[str, ItemClicks] = field(default_factory=lambda: defaultdict(ItemClicks))


async def from_log(
    log: EventLog,
    weights: Mapping[str, float],
    attribution: float,
    cap: int,
    curve: Callable[[int], float] = examination,
) -> dict[str, LoggedQuery]:
    """Memory key -> query. An item counts as clicked in an answer when its events within `attribution` seconds have a
    positive sum of weights; see services.models.clicks.read_answers for the parameters."""
    queries: dict[str, LoggedQuery] = {}
    keys: dict[str, str] = {}
    worth: defaultdict[tuple[str, str], float] = defaultdict(float)
    async for record in read_answers(log, weights, attribution, cap, _usable):
        if isinstance(record, ItemEvent):
            worth[record.query_id, record.object_id] += record.worth
            continue
        keys[record.query_id] = record.memory_key
        query = queries.setdefault(record.memory_key, LoggedQuery(record.normalized))
        for position, object_id in enumerate(record.shown, record.offset + 1):
            query.items[object_id].examinations += curve(position)
    for (query_id, object_id), earned in worth.items():
        if earned > 0.0 and (shown := queries[keys[query_id]].items.get(object_id)) is not None:
            shown.clicked += 1
    return queries


def _usable(impression: Impression) -> bool:
    return impression.learn and bool(impression.memory_key)
