"""Counts each principal's decisions per hour of log time, so that no principal influences learning beyond its share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from services.types import Impression

HOUR_SECONDS = 3600


@dataclass(slots=True)
class PrincipalQuota:
    """Number of decisions of each principal in the current hour (of log time)."""

    hour: int
    counts: dict[str, int]

    def count(self, impression: Impression) -> int:
        """Decisions of the same principal before this one in its hour; 0 for an unknown principal."""
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
    """Digest in place of the principal's id: snapshots outlive a request to be forgotten, so they must not hold ids."""
    return hashlib.sha256(principal.encode()).hexdigest()[:16]
