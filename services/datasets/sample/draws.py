"""Random draws that are the same on every platform and Python version: built on `random.Random.random` alone, the one
method whose sequence Python promises to keep, and on arithmetic that IEEE 754 defines exactly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """Draws from one stream. `name` separates the streams of one seed, so that more artists change no listener's
    taste."""

    def __init__(self, seed: int, name: int) -> None:
        self._random = random.Random(seed * 1_000 + name)  # noqa: S311 - a made-up catalogue, not a secret

    def chance(self, share: float) -> bool:
        """True in `share` of all draws."""
        return self._random.random() < share

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1."""
        return int(self._random.random() * limit)

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def pick(self, values: Sequence[T]) -> T:
        """One of `values`, all equally likely."""
        return values[self.below(len(values))]

    def weighted(self, values: Sequence[T], weights: Sequence[float]) -> T:
        """One of `values`, drawn in proportion to `weights`."""
        mark = self._random.random() * sum(weights)
        last = len(values) - 1
        return next((v for v, sum_ in zip(values, accumulate(weights), strict=True) if mark < sum_), values[last])

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """At most `count` of `values`, none twice, in the order drawn."""
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]

    def tail(self, longest: int) -> float:
        """1 for most draws, rarely up to `longest`: 1 / u for u uniform above 1 / longest (a cut Pareto tail)."""
        return 1.0 / (self._random.random() * (1.0 - 1.0 / longest) + 1.0 / longest)
