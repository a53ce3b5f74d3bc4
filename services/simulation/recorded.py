"""Engines whose answers are kept: a simulation asks the same queries many times, and engines are deterministic."""

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
"""Arms whose lists depend on the person's history as well."""
UNRECORDED_ARMS = frozenset(arm.name for arm in ARM_PROFILES if arm.list_input is ListInput.CLICKS)
"""Arms that change with every click: never recorded."""
BUSY_SECONDS = 60.0

Kept = tuple[int, list[Candidate]]
"""(all that match, a list)."""


class Lists:
    """Lists by (who gave it, what was asked), in memory and, when there is a path, on disk: other runs over the same
    catalogue find them there, also at the same time. Scores come back bit for bit (JSON has them in full)."""

    def __init__(self, path: Path | None = None) -> None:
        self._kept: dict[tuple[str, str], Kept] = {}
        self._disk: sqlite3.Connection | None = None
        if path is not None:
            self._disk = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self._disk.execute("PRAGMA journal_mode = WAL")
            self._disk.execute("PRAGMA synchronous = OFF")  # what is lost is asked for again
            self._disk.execute("CREATE TABLE IF NOT EXISTS lists (who, asked, found, PRIMARY KEY (who, asked))")

    def get(self, who: str, asked: str) -> Kept | None:
        """The list that was put under this key; None when there is none."""
        found = self._kept.get((who, asked))
        if found is None and self._disk is not None:
            row = self._disk.execute("SELECT found FROM lists WHERE who = ? AND asked = ?", (who, asked)).fetchone()
            if row is not None:
                total, ids, scores = orjson.loads(row[0])
                found = total, [Candidate(*pair) for pair in zip(ids, scores, strict=True)]
                self._kept[who, asked] = found
        return found

    def put(self, who: str, asked: str, found: Kept, everywhere: bool = True) -> None:
        """`everywhere`: for other runs as well."""
        self._kept[who, asked] = found
        if self._disk is not None and everywhere:
            total, listed = found
            value = orjson.dumps((total, [c.object_id for c in listed], [c.score for c in listed]))
            self._disk.execute("INSERT OR REPLACE INTO lists VALUES (?, ?, ?)", (who, asked, value))

    def forget(self) -> None:
        """The catalogue has changed, for this run: what is on disk is of the one before."""
        self._kept.clear()
        self.close()

    def close(self) -> None:
        """Close the file; what is in memory stays."""
        if self._disk is not None:
            self._disk.close()
            self._disk = None


class RecordedArm:
    """An arm that is asked once a query, at its full depth; smaller counts are the beginning of that list, which is
    what arms give (tests/contracts/arm.py). Arms in `dead()` fail, as one does whose engine is away; those in
    `absent()` have nothing for any request."""

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
        """That of the arm."""
        return self._arm.name

    @property
    def counts(self) -> tuple[int, ...]:
        """Those of the arm."""
        return self._arm.counts

    def available(self, context: Context) -> bool:
        """As the arm, unless it is absent."""
        return self.name not in self._absent() and self._arm.available(context)

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """The first `count` of the arm's recorded full list. Raises ArmFailed for an arm that is dead."""
        if self.name in self._dead():
            raise ArmFailed(DegradedReason.UNAVAILABLE)
        if self.name in UNRECORDED_ARMS:
            return await self._arm.retrieve(context, count, deadline)
        personal = self.name in PERSONAL_ARMS
        key: tuple[Any, ...] = (context.query.text, context.query.filters)
        asked = repr((*key, context.person.recent) if personal else key)
        found = self._lists.get(self.name, asked)
        if found is None:
            listed = await self._arm.retrieve(context, self.counts[-1], deadline)
            found = len(listed), listed
            self._lists.put(self.name, asked, found, everywhere=not personal)
        return found[1][:count]


class RecordedIndex:
    """What matches a query, asked once. With facets it is asked every time."""

    def __init__(self, index: Matching, lists: Lists) -> None:
        self._index = index
        self._lists = lists

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        """As the index, from the record if it was asked before."""
        if query.facets:
            return await self._index.search(query, deadline)
        asked = repr(query)
        found = self._lists.get("", asked)
        if found is None:
            result = await self._index.search(query, deadline)
            found = result.total, list(result.candidates)
            self._lists.put("", asked, found)
        return IndexResult(tuple(found[1]), found[0])
