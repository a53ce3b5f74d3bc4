"""What an answer showed, made known to every worker before the answer leaves."""

from __future__ import annotations

import asyncio
import logging

from services.backends.base import EventLog
from services.errors import StorageFailed, Unavailable
from services.resilience.log_throttle import Seldom
from services.types import Deadline, Degraded, DegradedReason, Impression

logger = logging.getLogger(__name__)

LOG = "log"
_seldom = Seldom()
LEAST_SECONDS = 0.1
"""Time that logging has at least, however little is left of the request's."""


async def record(log: EventLog, impression: Impression, deadline: Deadline) -> tuple[Degraded, ...]:
    """Nothing when the log has it. Else the answer goes out all the same and names the log: it cannot be paged, and
    feedback on it finds no answer."""
    try:
        async with asyncio.timeout(max(deadline.remaining(), LEAST_SECONDS)):
            await log.append(impression)
    except TimeoutError:
        return (Degraded(LOG, DegradedReason.TIMEOUT),)
    except Unavailable as error:  # counted, and said, where the engine is called
        return (Degraded(LOG, error.reason),)
    except StorageFailed as error:
        if _seldom.due(type(error).__name__):
            logger.warning("answer_not_logged error=%s", type(error).__name__)
        return (Degraded(LOG, DegradedReason.UNAVAILABLE),)
    return ()
