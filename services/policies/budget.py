"""The rules that every policy shares: what a whole decision may spend, and what it must reach.

Arms are drawn in the order given. Before an arm is drawn, the counts that would break the budget or make the floor
unreachable are masked, and the masked distribution is what is drawn from and logged: trimming a count after the draw
would make the logged propensity a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from services.policies.sampling import Distribution, draw
from services.types import ArmChoice, ArmOption

BUDGET = 200
"""Most candidates that all arms together may return."""
FLOOR = 10
"""Fewest candidates that all arms together are asked for, so that exploring never empties a page."""

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
    later = _totals(tuple(option.counts for option in options), budget)
    floor = min(floor, later[0].bit_length() - 1)
    choices: dict[str, ArmChoice] = {}
    spent = 0
    for option, reachable in zip(options, later[1:], strict=True):
        allowed = tuple(c for c in option.counts if _fits(reachable, floor - spent - c, budget - spent - c))
        distribution = distribute(option, allowed)
        count = draw(seed, option.name, distribution)
        choices[option.name] = ArmChoice(count, dict(distribution)[count], distribution)
        spent += count
    return choices


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
