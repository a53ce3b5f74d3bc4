"""Reading the event log from front to back, with one rule for records that cannot be read.

A damaged record is skipped: the reader's callback gets its offset, and reading continues after it. The callback decides
what else to do (count it, record a dead letter, commit the position after it); most readers do nothing, because the
learner reports it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from services.backends.base import EventLog, Record
from services.errors import RecordDamaged

BATCH = 500
"""Default number of records per read."""

Numbered = tuple[int, Record]
"""A record with its offset in the log."""
OnDamage = Callable[[int, RecordDamaged], Awaitable[None]]
"""Called with (offset, error) of a record that cannot be read."""


async def pass_over(offset: int, error: RecordDamaged) -> None:
    """Skip a damaged record silently."""


async def read_batch(log: EventLog, after: int, limit: int, on_damage: OnDamage = pass_over) -> list[Numbered]:
    """The next readable records with an offset above `after`, at most `limit`; empty at the end of the log.

    `on_damage` is awaited for each damaged record before the next one is read. Raises StorageFailed, TimeoutError,
    and what `on_damage` raises.
    """
    while True:
        try:
            return await log.read(after, limit)
        except RecordDamaged as error:
            after = after + 1 if error.offset is None else error.offset
            await on_damage(after, error)


async def read_batches(
    log: EventLog,
    after: int = 0,
    until: int | None = None,
    limit: int = BATCH,
    on_damage: OnDamage = pass_over,
) -> AsyncIterator[list[Numbered]]:
    """All readable records with after < offset <= until (by default the end of the log) in batches of at most `limit`,
    none of them empty. Raises as `read_batch` does."""
    while until is None or after < until:
        records = await read_batch(log, after, limit, on_damage)
        if until is not None:
            records = [(offset, record) for offset, record in records if offset <= until]
        if not records:
            return
        yield records
        after = records[-1][0]
