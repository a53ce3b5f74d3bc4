"""Arms whose lists are kept: a simulation asks the same queries many times, and arms are deterministic."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from services.arms.base import Arm
from services.errors import ArmFailed
from services.types import Candidate, Context, Deadline

OF_THE_PERSON = frozenset({"personal"})
"""Arms whose lists depend on the person's history as well."""
NEVER = frozenset({"memory"})
"""Arms that change with every click and cost nothing."""


class RecordedArm:
    """An arm that is asked once a query, at its full depth; smaller counts are the beginning of that list, which is
    what arms give (tests/contracts/arm.py). Arms in `dead()` fail, as one does whose engine is away; those in
    `absent()` have nothing for any request."""

    def __init__(
        self, arm: Arm, dead: Callable[[], Collection[str]] = tuple, absent: Callable[[], Collection[str]] = tuple
    ) -> None:
        self._arm = arm
        self._dead = dead
        self._absent = absent
        self._lists: dict[Any, list[Candidate]] = {}

    @property
    def name(self) -> str:
        return self._arm.name

    @property
    def counts(self) -> tuple[int, ...]:
        return self._arm.counts

    def available(self, context: Context) -> bool:
        return self.name not in self._absent() and self._arm.available(context)

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        if self.name in self._dead():
            raise ArmFailed("unavailable")
        if self.name in NEVER:
            return await self._arm.retrieve(context, count, deadline)
        key: Any = (context.query.text, context.query.filters)
        if self.name in OF_THE_PERSON:
            key = (*key, context.person.recent)
        found = self._lists.get(key)
        if found is None:
            found = self._lists[key] = await self._arm.retrieve(context, self.counts[-1], deadline)
        return found[:count]

    def forget(self) -> None:
        """The catalogue has changed."""
        self._lists.clear()
