"""Recorded retrieval results: a simulation repeats the same queries many times, and engines are deterministic."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import orjson

from services.arm_profiles import ARM_PROFILES, ListInput
from services.arms.base import Arm
from services.backends.base import IndexQuery, IndexResult
from services.errors import ArmFailed
from services.search.state import Matching
from services.types import Candidate, Context, Deadline, DegradedReason

PERSONAL_ARMS = frozenset(arm.name for arm in ARM_PROFILES if arm.list_input is ListInput.PERSON)
"""Arms whose lists depend on the user's history as well."""
UNRECORDED_ARMS = frozenset(arm.name for arm in ARM_PROFILES if arm.list_input is ListInput.CLICKS)
"""Arms that change with every click: never recorded."""
BUSY_SECONDS = 60.0

RecordedList = tuple[int, list[Candidate]]
"""(total number of matches, candidates)."""


class Lists:
    """Lists by (name of the arm, request key), in memory and, when there is a path, on disk: other runs over the same
    catalogue read them there, also concurrently. Scores are restored exactly (JSON has them in full)."""

    def __init__(self, path: Path | None = None) -> None:
        self._lists: dict[tuple[str, str], RecordedList] = {}
        self._disk: sqlite3.Connection | None = None
        if path is not None:
            self._disk = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self._disk.execute("PRAGMA journal_mode = WAL")
            self._disk.execute("PRAGMA synchronous = OFF")  # lost lists are retrieved again
            self._disk.execute("CREATE TABLE IF NOT EXISTS lists (who, asked, found, PRIMARY KEY (who, asked))")

    def get(self, arm: str, request_key: str) -> RecordedList | None:
        """The list stored under this key; None when there is none. `arm`: "" for the index."""
        found = self._lists.get((arm, request_key))
        if found is None and self._disk is not None:
            row = self._disk.execute(
                "SELECT found FROM lists WHERE who = ? AND asked = ?", (arm, request_key)
            ).fetchone()
            if row is not None:
                total, ids, scores = orjson.loads(row[0])
                found = total, [Candidate(*pair) for pair in zip(ids, scores, strict=True)]
                self._lists[arm, request_key] = found
        return found

    def put(self, arm: str, request_key: str, found: RecordedList, everywhere: bool = True) -> None:
        """Store a list. `everywhere`: for other runs as well."""
        self._lists[arm, request_key] = found
        if self._disk is not None and everywhere:
            total, listed = found
            value = orjson.dumps((total, [c.object_id for c in listed], [c.score for c in listed]))
            self._disk.execute("INSERT OR REPLACE INTO lists VALUES (?, ?, ?)", (arm, request_key, value))

    def forget(self) -> None:
        """Drop all lists and stop using the disk, because this run's catalogue has changed."""
        self._lists.clear()
        self.close()

    def close(self) -> None:
        """Close the file; lists in memory stay."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None


class RecordedArm:
    """An arm that is called once per query, at its full depth; smaller counts are prefixes of that list, as for every
    arm (tests/contracts/arm.py). Arms in `dead()` fail as if their engine were unreachable; those in `absent()` are not
    available for any request."""

    def __init__(
        self,
        arm: Arm,
        dead: Callable[[], Collection[str]] = tuple,
        absent: Callable[[], Collection[str]] = tuple,
        lists: Lists | None = None,
    ) -> None:
        self._arm = arm
        self._dead = dead
        self._absent = absent
        self._lists = lists or Lists()

    @property
    def name(self) -> str:
        """Name of the arm."""
        return self._arm.name

    @property
    def counts(self) -> tuple[int, ...]:
        """Candidate counts of the arm."""
        return self._arm.counts

    def available(self, context: Context) -> bool:
        """Whether the arm is available and not absent."""
        return self.name not in self._absent() and self._arm.available(context)

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """The first `count` of the arm's recorded full list. Raises ArmFailed for an arm that is dead."""
        if self.name in self._dead():
            raise ArmFailed(DegradedReason.UNAVAILABLE)
        if self.name in UNRECORDED_ARMS:
            return await self._arm.retrieve(context, count, deadline)
        personal = self.name in PERSONAL_ARMS
        key: tuple[Any, ...] = (context.query.text, context.query.filters)
        request_key = repr((*key, context.person.recent) if personal else key)
        found = self._lists.get(self.name, request_key)
        if found is None:
            listed = await self._arm.retrieve(context, self.counts[-1], deadline)
            found = len(listed), listed
            self._lists.put(self.name, request_key, found, everywhere=not personal)
        return found[1][:count]


class RecordedIndex:
    """An index that is searched once per query, but every time for a query with facets."""

    def __init__(self, index: Matching, lists: Lists) -> None:
        self._index = index
        self._lists = lists

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        """The result of the index, recorded if the query was searched before."""
        if query.facets:
            return await self._index.search(query, deadline)
        request_key = repr(query)
        found = self._lists.get("", request_key)
        if found is None:
            result = await self._index.search(query, deadline)
            found = result.total, list(result.candidates)
            self._lists.put("", request_key, found)
        return IndexResult(tuple(found[1]), found[0])
