"""An arm: one way of finding candidates."""

from __future__ import annotations

from typing import Protocol

from services.types import Candidate, Context, Deadline


class Arm(Protocol):
    """Contract (tests/contracts/arm.py): at most `count` candidates, no item twice, best first, finite scores, only
    items under the query's filters; deterministic for the same catalogue; raises ArmFailed or TimeoutError, never
    returns half an answer."""

    @property
    def name(self) -> str:
        """Name of the arm; never renamed: it is a feature, a metric label and a field of the API."""
        ...

    @property
    def counts(self) -> tuple[int, ...]:
        """Candidate counts the policy may choose, ascending, 0 first."""
        ...

    def available(self, context: Context) -> bool:
        """Whether the arm can answer this request (the personal arm cannot without a history)."""
        ...

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """At most `count` candidates for the request, best first. Raises ArmFailed, TimeoutError."""
        ...
