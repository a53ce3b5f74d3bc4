"""The budget and the floor of a whole decision, which every policy respects.

Arms are drawn in the order given. Before an arm is drawn, the counts that would break the budget or make the floor
unreachable are masked, and the masked distribution is what is drawn from and logged: trimming a count after the draw
would make the logged propensity a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from services.policies.sampling import Distribution, draw
from services.types import ArmChoice, ArmOption

BUDGET = 200
"""Maximum number of candidates that all arms together may return."""
FLOOR = 5
"""Minimum number of candidates requested from all arms together, so that exploring never empties an answer; pages are
filled up with what else matches (services/search/engine.py)."""

Distribute = Callable[[ArmOption, tuple[int, ...]], Distribution]
"""(arm, its allowed counts, never empty) -> distribution over all its counts, 0 for counts that are not allowed."""


def check(budget: int, floor: int) -> None:
    """Raises ValueError unless 0 <= floor <= budget."""
    if not 0 <= floor <= budget:
        raise ValueError(f"floor {floor} and budget {budget}: need 0 <= floor <= budget")


def allocate(
    options: Sequence[ArmOption], budget: int, floor: int, seed: int, distribute: Distribute
) -> dict[str, ArmChoice]:
    """One choice per arm, in order, with the counts together in [floor, budget].

    Where the arms cannot reach the floor, the floor is the most they can reach within the budget. Unavailable arms
    (counts `(0,)`) get 0 with propensity 1.
    """
    choices: dict[str, ArmChoice] = {}
    limits = _Limits(options, budget, floor)
    for option in options:
        distribution = distribute(option, limits.allowed(option))
        count = draw(seed, option.name, distribution)
        choices[option.name] = ArmChoice(count, dict(distribution)[count], distribution)
        limits.spend(count)
    return choices


def retrace(
    options: Sequence[ArmOption], budget: int, floor: int, counts: Mapping[str, int], distribute: Distribute
) -> dict[str, ArmChoice]:
    """The choices that `allocate` would log had it drawn the given counts: per arm, in order, the distribution given
    the counts of the arms before, and the propensity of `counts[arm]` in it. The product of the propensities is the
    probability of the whole decision.

    The propensity is 0 for a count that the arm does not offer, or that is masked here though it was allowed when it
    was drawn; after a count that leaves nothing allowed, whole distributions are 0. Raises KeyError when an arm has no
    count.
    """
    choices: dict[str, ArmChoice] = {}
    limits = _Limits(options, budget, floor)
    for option in options:
        allowed = limits.allowed(option)
        distribution = distribute(option, allowed) if allowed else tuple((c, 0.0) for c in option.counts)
        count = counts[option.name]
        choices[option.name] = ArmChoice(count, dict(distribution).get(count, 0.0), distribution)
        limits.spend(count)
    return choices


class _Limits:
    """Tracks which counts are allowed, arm after arm, given the candidates spent so far."""

    def __init__(self, options: Sequence[ArmOption], budget: int, floor: int) -> None:
        later = _totals(tuple(option.counts for option in options), budget)
        self._low = min(floor, later[0].bit_length() - 1)
        self._high = budget
        self._reachable: Iterator[int] = iter(later[1:])

    def allowed(self, option: ArmOption) -> tuple[int, ...]:
        """The arm's counts that are still allowed. Call it once per arm, in order."""
        reachable = next(self._reachable)
        return tuple(c for c in option.counts if _fits(reachable, self._low - c, self._high - c))

    def spend(self, count: int) -> None:
        self._low -= count
        self._high -= count


@lru_cache(maxsize=1024)
def _totals(counts: tuple[tuple[int, ...], ...], budget: int) -> tuple[int, ...]:
    """For each arm, the totals that it and the arms after it can reach within the budget; then {0}, for no arms left.

    A set of totals is a bit set, an integer whose bit t means total t: adding a count to all totals is one shift."""
    within = (1 << (budget + 1)) - 1
    sets = [1]
    for arm in reversed(counts):
        reachable = 0
        for count in arm:
            reachable |= sets[-1] << count
        sets.append(reachable & within)
    return tuple(reversed(sets))


def _fits(reachable: int, low: int, high: int) -> bool:
    """Whether some reachable total lies in [low, high]."""
    if high < 0:
        return False
    low = max(low, 0)
    return (reachable >> low) & ((1 << (high - low + 1)) - 1) != 0
