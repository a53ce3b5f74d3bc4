"""How many decisions each principal had in an hour of log time: one principal must not teach more than its share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from services.types import Impression

HOUR_SECONDS = 3600


@dataclass(slots=True)
class PrincipalQuota:
    """How many decisions each principal had in the hour (of log time) that is being learned."""

    hour: int
    counts: dict[str, int]

    def count(self, impression: Impression) -> int:
        """Decisions of the same principal before this one in its hour; 0 when nobody is known."""
        hour = int(impression.at // HOUR_SECONDS)
        if hour != self.hour:
            self.hour, self.counts = hour, {}
        principal = impression.actor.principal
        if principal is None:
            return 0
        name = _pseudonym(principal)
        before = self.counts.get(name, 0)
        self.counts[name] = before + 1
        return before


def _pseudonym(principal: str) -> str:
    """Snapshots outlive a request to be forgotten, so they do not hold anybody's id."""
    return hashlib.sha256(principal.encode()).hexdigest()[:16]
