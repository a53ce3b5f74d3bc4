"""AnswerGroups to the same query put together: how often each item was looked at, by expectation, and what it earned. Pure.

One answer says little: most of what is wanted is not clicked, and some of what is clicked is not wanted. Clicks over
examinations, summed over answers, come to what an item is worth once it is looked at, whatever place it stood at: the inverse
propensity estimate (Joachims et al., "Unbiased learning-to-rank with biased feedback", WSDM 2017), self-normalised.

What is learned at an item's row must have happened after the row was computed: memory counts clicks, too, and a row of
today beside the clicks of yesterday would be told the answer. So a group begins anew whenever the answers to its query
have doubled in number, and keeps each item's row as it was first shown in it. AnswerGroups to one person stay in one group:
begun anew, its rows would have what they wanted as seen before, and what is left as new and not wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.rewards.rewards import examination


@dataclass(slots=True)
class ItemStats:
    """One item of a group."""

    row: NDArray[np.float32]
    examinations: float = 0.0
    worth: float = 0.0
    places: int = 0
    times: int = 0


@dataclass(slots=True)
class QueryGroup:
    """AnswerGroups to one query. `items`: object_id -> its showings, in the order of first appearance."""

    key: str
    items: dict[str, ItemStats] = field(default_factory=dict)

    def earn(self, object_id: str, worth: float) -> None:
        """One of the answers' items earned `worth`; an item that none of them showed earns nothing."""
        if object_id in self.items:
            self.items[object_id].worth += worth

    def ids(self) -> tuple[str, ...]:
        """Object ids, in the order of first appearance."""
        return tuple(self.items)

    def rows(self) -> NDArray[np.float32]:
        """[items, features]"""
        return np.stack([showing.row for showing in self.items.values()])

    def worth(self) -> NDArray[np.float64]:
        """[items], >= 0: what was disliked on the whole is worth nothing."""
        return np.array([max(showing.worth, 0.0) for showing in self.items.values()])

    def examinations(self) -> NDArray[np.float64]:
        """[items], > 0"""
        return np.array([showing.examinations for showing in self.items.values()])

    def places(self) -> NDArray[np.float64]:
        """[items]: mean position, from 1."""
        return np.array([showing.places / showing.times for showing in self.items.values()])


class AnswerGroups:
    """Collects answers in the order of time. `curve`: probability, above 0, that a position (from 1) is looked at."""

    def __init__(self, curve: Callable[[int], float] = examination) -> None:
        self._curve = curve
        self._found: list[QueryGroup] = []
        self._current: dict[tuple[str, str], tuple[int, QueryGroup]] = {}

    def add(
        self, key: str, ids: Sequence[str], rows: NDArray[np.float32], first: int = 1, person: str = ""
    ) -> QueryGroup:
        """An answer to the query `key` that showed `ids`, the first at position `first`, with their feature rows
        [len(ids), features]: the answers that it is put together with. Those of different persons are kept apart, so
        `person` is to be given where the rows depend on who asks."""
        number, together = self._current.get((key, person), (0, QueryGroup(key)))
        number += 1
        doubled = number & (number - 1) == 0  # 1, 2, 4, 8 …
        if number == 1 or (doubled and not person):
            together = QueryGroup(key)
            self._found.append(together)
        self._current[key, person] = number, together
        for place, object_id in enumerate(ids):
            showing = together.items.get(object_id)
            if showing is None:
                showing = together.items[object_id] = ItemStats(rows[place].copy())
            showing.examinations += self._curve(first + place)
            showing.places += first + place
            showing.times += 1
        return together

    def rewarded(self) -> list[QueryGroup]:
        """Those with an item that earned something, in the order of their first answer."""
        return [together for together in self._found if any(showing.worth > 0 for showing in together.items.values())]
