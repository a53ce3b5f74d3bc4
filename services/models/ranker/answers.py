"""Groups of answers to the same query, with each item's expected examinations and total gain. Pure.

One answer is weak evidence: most wanted items are not clicked, and some clicked ones are not wanted. Summed over
answers, clicks over examinations estimate an item's worth once examined, whatever its position: the inverse propensity
estimate (Joachims et al., "Unbiased learning-to-rank with biased feedback", WSDM 2017), self-normalised.

An item's row must be older than the clicks learned with it: memory counts clicks too, so that a row computed after the
clicks would leak the label. A new group therefore starts whenever the number of answers to its query has doubled, and
it keeps each item's row as first shown in it. Answers to one user stay in one group: in a second one, the rows would
mark wanted items as seen, and the remaining ones would look new and unwanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.rewards.rewards import examination


@dataclass(slots=True)
class ItemStats:
    """Totals of one item over the answers of a group."""

    row: NDArray[np.float32]
    examinations: float = 0.0
    worth: float = 0.0
    positions: int = 0
    """Sum of its positions, each from 1."""
    times: int = 0
    """Answers that showed it."""


@dataclass(slots=True)
class QueryGroup:
    """Answers to one query. `items`: object id -> its totals, in the order of first appearance."""

    key: str
    items: dict[str, ItemStats] = field(default_factory=dict)

    def earn(self, object_id: str, worth: float) -> None:
        """Add `worth` to an item; items that none of the answers showed are ignored."""
        if object_id in self.items:
            self.items[object_id].worth += worth

    def ids(self) -> tuple[str, ...]:
        """Object ids, in the order of first appearance."""
        return tuple(self.items)

    def rows(self) -> NDArray[np.float32]:
        """Feature rows, float32 [items, features]."""
        return np.stack([stats.row for stats in self.items.values()])

    def worth(self) -> NDArray[np.float64]:
        """Total gain of each item, [items], clipped at 0 from below."""
        return np.array([max(stats.worth, 0.0) for stats in self.items.values()])

    def examinations(self) -> NDArray[np.float64]:
        """Expected examinations, [items], > 0."""
        return np.array([stats.examinations for stats in self.items.values()])

    def mean_positions(self) -> NDArray[np.float64]:
        """Mean position of each item, [items], from 1."""
        return np.array([stats.positions / stats.times for stats in self.items.values()])


class AnswerGroups:
    """Groups answers as they arrive in log order. `curve`: position (from 1) -> probability > 0 that it is examined."""

    def __init__(self, curve: Callable[[int], float] = examination) -> None:
        self._curve = curve
        self._groups: list[QueryGroup] = []
        self._current: dict[tuple[str, str], tuple[int, QueryGroup]] = {}

    def add(
        self, key: str, ids: Sequence[str], rows: NDArray[np.float32], first: int = 1, person: str = ""
    ) -> QueryGroup:
        """Add an answer to the query `key` that showed `ids`, the first of them at position `first`, with feature rows
        [len(ids), features]; returns its group. Each `person` has groups of their own; "" where the rows do not depend
        on the user."""
        number, group = self._current.get((key, person), (0, QueryGroup(key)))
        number += 1
        doubled = number & (number - 1) == 0  # 1, 2, 4, 8 …
        if number == 1 or (doubled and not person):
            group = QueryGroup(key)
            self._groups.append(group)
        self._current[key, person] = number, group
        for place, object_id in enumerate(ids):
            stats = group.items.get(object_id)
            if stats is None:
                stats = group.items[object_id] = ItemStats(rows[place].copy())
            stats.examinations += self._curve(first + place)
            stats.positions += first + place
            stats.times += 1
        return group

    def rewarded(self) -> list[QueryGroup]:
        """Groups with at least one item that earned something, in the order of their first answer."""
        return [group for group in self._groups if any(stats.worth > 0 for stats in group.items.values())]
