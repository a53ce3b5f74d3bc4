"""The arms of a service and their circuit breakers: which arms may be chosen, and retrieval from the chosen ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from services.arms.base import Arm
from services.arms.retrieval import retrieve
from services.resilience.circuit import Circuit
from services.types import ArmOption, Candidate, Context, Deadline, Decision, Degraded, DegradedReason

FALLBACK_COUNT = 25
"""Candidates requested from each arm that was not chosen when all chosen arms failed."""

Retrieved = tuple[dict[str, list[Candidate]], list[Degraded]]
"""(lists of the arms that answered, why the others did not)."""


class ArmPool:
    """Each arm has a circuit breaker of its own."""

    def __init__(self, arms: Sequence[Arm], stopwatch: Callable[[], float] = time.monotonic) -> None:
        """arms: in the order in which decisions draw their counts. stopwatch: seconds, for the circuit breakers."""
        self.arms = tuple(arms)
        # The engine behind an arm has a circuit breaker of its own, which is slower to close again.
        self._circuits = {arm.name: Circuit(stopwatch, successes=1, max_successes=2) for arm in self.arms}

    def options(self, context: Context) -> tuple[tuple[ArmOption, ...], list[Degraded]]:
        """(the counts that may be chosen of every arm, the arms that are left out because they keep failing)."""
        available = [arm.name for arm in self.arms if arm.available(context)]
        tripped = [name for name in available if not self._circuits[name].would_admit]
        offered = set(available).difference(tripped)
        options = tuple(ArmOption(arm.name, arm.counts if arm.name in offered else (0,)) for arm in self.arms)
        return options, [Degraded(name, DegradedReason.CIRCUIT_OPEN) for name in tripped]

    async def retrieve(self, decision: Decision, context: Context, deadline: Deadline) -> Retrieved:
        """Retrieve from the chosen arms concurrently. Never raises for a failing arm."""
        counts = {name: choice.count for name, choice in decision.arms.items()}
        return await retrieve(self.arms, counts, context, deadline, self._circuits)

    async def retrieve_unchosen(
        self, decision: Decision, context: Context, deadline: Deadline
    ) -> dict[str, list[Candidate]]:
        """Lists of FALLBACK_COUNT candidates of the arms that were not chosen."""
        counts = {
            arm.name: FALLBACK_COUNT
            for arm in self.arms
            if decision.arms[arm.name].count == 0 and self._circuits[arm.name].would_admit and arm.available(context)
        }
        lists, _ = await retrieve(self.arms, counts, context, deadline, self._circuits)
        return lists

    async def retrieve_unguarded(self, counts: Mapping[str, int], context: Context, deadline: Deadline) -> Retrieved:
        """Retrieve from the arms, ignoring their circuit breakers and without reporting the outcome to them."""
        return await retrieve(self.arms, counts, context, deadline)
