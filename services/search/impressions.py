"""Impressions: the log record of an answer, visible to every worker before the answer is sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from services.backends.base import EventLog
from services.errors import StorageFailed, Unavailable
from services.memory.keys import memory_key
from services.rankers.base import Rows
from services.resilience.log_throttle import LogThrottle
from services.search import serializers
from services.search.signature import signature
from services.search.state import SearchState
from services.types import Deadline, Degraded, DegradedReason, Impression, Pooled

logger = logging.getLogger(__name__)

LOG = "log"
"""Name of the log among the parts that an answer may lack."""
MIN_SECONDS = 0.1
"""Minimum time for logging, however little of the request's time is left."""
_log_throttle = LogThrottle()


def impression(
    query_id: str, state: SearchState, pool: Sequence[Pooled], shown: Sequence[Pooled], table: Rows, ranker: str
) -> Impression:
    """The record of a decided answer. `pool` is ranked, `table` has the rows of `shown`, `ranker` is its version."""
    query, understanding = state.context.query, state.context.understanding
    return Impression(
        query_id=query_id,
        root_id=query_id,
        at=state.context.at,
        text=query.text,
        normalized=understanding.normalized,
        memory_key=memory_key(understanding.normalized),
        signature=signature(query),
        user_id=query.user_id,
        session_id=query.session_id,
        client_id=query.client_id,
        learn=query.learn,
        understanding=serializers.understanding(understanding),
        features=state.features,
        options=state.options,
        decision=state.decision,
        lists={name: tuple((c.object_id, c.score) for c in listed) for name, listed in state.lists.items()},
        degraded=tuple(state.degraded),
        ranking=tuple(pooled.object_id for pooled in pool),
        scores=tuple(round(pooled.score, 6) for pooled in pool),
        offset=query.offset,
        shown=tuple(pooled.object_id for pooled in shown),
        total=state.matched.total,
        ranker=ranker,
        rows=tuple(tuple(row) for row in table.tolist()),
    )


async def record(log: EventLog, impression: Impression, deadline: Deadline) -> tuple[Degraded, ...]:
    """Append to the log; returns () on success. Otherwise the answer is still sent, with the log in `degraded`: it
    cannot be paged, and feedback on it is not matched to an answer."""
    try:
        async with asyncio.timeout(max(deadline.remaining(), MIN_SECONDS)):
            await log.append(impression)
    except TimeoutError:
        return (Degraded(LOG, DegradedReason.TIMEOUT),)
    except Unavailable as error:  # counted and logged where the engine is called
        return (Degraded(LOG, error.reason),)
    except StorageFailed as error:
        if _log_throttle.allow(type(error).__name__):
            logger.warning("answer_not_logged error=%s", type(error).__name__)
        return (Degraded(LOG, DegradedReason.UNAVAILABLE),)
    return ()
