"""The event log for commands that only read it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.backends.sqlite_log import SqliteLog
from services.errors import NotFound

FILE = "log.sqlite3"


@asynccontextmanager
async def open_log(data_dir: Path) -> AsyncIterator[SqliteLog]:
    """The log of the service that keeps `data_dir`, running or not. Raises NotFound when there is none."""
    if not (data_dir / FILE).exists():
        raise NotFound(f"there is no event log in {data_dir}; LTRR_DATA_DIR names the folder of the service")
    log = SqliteLog(data_dir / FILE)
    try:
        yield log
    finally:
        await log.close()
