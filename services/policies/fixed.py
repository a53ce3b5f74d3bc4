"""Policies that do not learn: the static mix, which is the default and the anchor of learned ones, and pure chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.arm_profiles import by_number
from services.policies.budget import BUDGET, FLOOR, allocate, check, retrace
from services.policies.sampling import Distribution, certain, mask
from services.types import ArmChoice, ArmOption

FIXED_COUNTS: Mapping[str, int] = {profile.name: profile.static_count for profile in by_number()}
"""The static mix of the product's arms; an arm that is not listed is not used."""


class FixedPolicy:
    """The same counts for every request, as far as the arms offer them and the budget allows."""

    name = "fixed"
    version: str | None = None
    survey_share = 0.0

    def __init__(self, counts: Mapping[str, int] = FIXED_COUNTS, budget: int = BUDGET, floor: int = FLOOR) -> None:
        """Raises ValueError for a negative count or a floor above the budget."""
        check(budget, floor)
        if any(count < 0 for count in counts.values()):
            raise ValueError(f"counts must not be negative: {dict(counts)}")
        self._counts = dict(counts)
        self._budget = budget
        self._floor = floor

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        """The static mix within the budget, every propensity 1."""
        return allocate(options, self._budget, self._floor, seed, self._distribute)

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        """See services.policies.base.Retracing."""
        return retrace(options, self._budget, self._floor, counts, self._distribute)

    def wanted(self, arm: str) -> int:
        """The arm's count in the mix."""
        return self._counts.get(arm, 0)

    def _distribute(self, option: ArmOption, allowed: tuple[int, ...]) -> Distribution:
        return certain(option.counts, nearest(self.wanted(option.name), allowed))


def nearest(wanted: int, allowed: Sequence[int]) -> int:
    """`wanted`, or the nearest smaller allowed count, or else the smallest allowed one."""
    return max((count for count in allowed if count <= wanted), default=min(allowed))


class UniformPolicy:
    """Every allowed count is equally likely: a reference row of every comparison, and data for off-policy estimates."""

    name = "uniform"
    version: str | None = None
    survey_share = 0.0

    def __init__(self, budget: int = BUDGET, floor: int = FLOOR) -> None:
        """Raises ValueError for a floor above the budget."""
        check(budget, floor)
        self._budget = budget
        self._floor = floor

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        """Counts drawn uniformly from those allowed."""
        return allocate(options, self._budget, self._floor, seed, self._distribute)

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        """See services.policies.base.Retracing."""
        return retrace(options, self._budget, self._floor, counts, self._distribute)

    def _distribute(self, option: ArmOption, allowed: tuple[int, ...]) -> Distribution:
        return mask(tuple((count, 1.0) for count in option.counts), allowed)
