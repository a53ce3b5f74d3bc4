"""Drawing a count from a distribution with a generator that anyone can repeat from the log.

Every draw depends on the decision's seed and the arm's name alone: not on the order of calls, the process, the platform
or the Python version, so that a logged decision can be drawn again and must come out the same.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from hashlib import blake2b

Distribution = tuple[tuple[int, float], ...]
"""(count, probability) over all counts of an arm, ascending by count; probabilities sum to 1."""

EXPLORATION_DECAY, EXPLORATION_FLOOR = 0.5, 0.1
"""Exploration: weight of an allowed count relative to its neighbour one step nearer to the preferred count, and the
minimum weight of any count; the preferred one has weight 1."""
_SEED_BYTES = 16
_MANTISSA_BITS = 53


def uniform(seed: int, arm: str) -> float:
    """A number in [0, 1) for this seed and arm: the first 53 bits of BLAKE2b-64 (RFC 7693) over the seed (16 bytes,
    big-endian, two's complement) and the arm's name (UTF-8). Raises OverflowError for seeds beyond 128 bits."""
    digest = blake2b(seed.to_bytes(_SEED_BYTES, "big", signed=True) + arm.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _MANTISSA_BITS)) * 2.0**-_MANTISSA_BITS


def draw(seed: int, arm: str, distribution: Distribution) -> int:
    """The count whose slice of the cumulated distribution holds `uniform(seed, arm)`; never one of probability 0.

    Raises ValueError when no count has a probability above 0.
    """
    point = uniform(seed, arm)
    reached = 0.0
    drawn = None
    for count, probability in distribution:
        if probability > 0.0:
            drawn = count  # the last one is also the answer when rounding leaves the sum just below 1
            reached += probability
            if point < reached:
                break
    if drawn is None:
        raise ValueError(f"no count of arm {arm!r} has a probability above 0")
    return drawn


@lru_cache(maxsize=256)
def nearby(place: int, size: int) -> tuple[float, ...]:
    """Exploration probabilities of `size` allowed counts around the one at `place`; they sum to 1. Counts far from the
    preferred one, above all leaving out the arm, are tried least: they seldom do as well."""
    weights = [max(EXPLORATION_DECAY ** abs(other - place), EXPLORATION_FLOOR) for other in range(size)]
    return tuple(weight / sum(weights) for weight in weights)


def mask(distribution: Distribution, allowed: Collection[int]) -> Distribution:
    """`distribution` given that the count is one of `allowed`: the others get probability 0, the rest are renormalised.

    Raises ValueError when the allowed counts have no probability at all.
    """
    total = sum(probability for count, probability in distribution if count in allowed)
    if not total > 0.0:
        raise ValueError("no allowed count has a probability above 0")
    return tuple((count, probability / total if count in allowed else 0.0) for count, probability in distribution)


def certain(counts: Collection[int], chosen: int) -> Distribution:
    """All probability on one of the counts."""
    return tuple((count, float(count == chosen)) for count in counts)
