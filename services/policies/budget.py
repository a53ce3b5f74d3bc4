"""The rules that every policy shares: what a whole decision may spend, and what it must reach.

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
"""Most candidates that all arms together may return."""
FLOOR = 5
"""Fewest candidates that all arms together are asked for, so that exploring never empties an answer; pages are filled
up with what else matches (services/search/engine.py)."""

Distribute = Callable[[ArmOption, tuple[int, ...]], Distribution]
"""(arm, its allowed counts, never empty) -> distribution over all its counts, nothing on the others."""


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
    """What `allocate` would log had it drawn the given counts: per arm, in order, the distribution after the counts of
    the arms before, and in it the propensity of `counts[arm]`. Their product is the probability of the whole decision.

    The propensity is 0 for a count that the arm does not offer, or that is masked here though it was not where it was
    drawn; after one that leaves nothing allowed, whole distributions are 0. Raises KeyError when an arm has no count.
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
    """Which counts are allowed, arm after arm, given what was spent so far."""

    def __init__(self, options: Sequence[ArmOption], budget: int, floor: int) -> None:
        later = _totals(tuple(option.counts for option in options), budget)
        self._low = min(floor, later[0].bit_length() - 1)
        self._high = budget
        self._reachable: Iterator[int] = iter(later[1:])

    def allowed(self, option: ArmOption) -> tuple[int, ...]:
        """To be asked once per arm, in order."""
        reachable = next(self._reachable)
        return tuple(c for c in option.counts if _fits(reachable, self._low - c, self._high - c))

    def spend(self, count: int) -> None:
        self._low -= count
        self._high -= count


@lru_cache(maxsize=1024)
def _totals(counts: tuple[tuple[int, ...], ...], budget: int) -> tuple[int, ...]:
    """For each arm, which totals the arms from it on can reach within the budget, and at the end "no arms left": {0}.

    A set of totals is written as an integer in which bit t stands for total t: adding a count to all is one shift."""
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
