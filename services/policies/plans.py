"""Plans: how many candidates to take from each arm, for all arms at once; the share of the wanted items that each plan
finds, and how well it orders the first page.

Two arms together find a given share of the wanted items with hardly more candidates than any number of arms (films,
given the slice: capped recall within .001 of the best of all 7,776 combinations), so the library has the plans with one
or two arms in use, and the static mix beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from services.rankers.fusion import shortened
from services.rewards.rewards import examination
from services.types import CANDIDATE_COUNTS

IN_USE = 2
"""Maximum number of arms that a plan uses."""
STATIC = -1
"""Index of the static mix among the plans."""
PAGE = 10
"""Wanted items that fill a page: finding more of them is worth nothing (capped recall)."""

_STEPS = np.array(CANDIDATE_COUNTS[1:])
_DISCOUNTS = np.array([examination(position) for position in range(1, PAGE + 1)])
_TIE_STEP = 1e-9
"""Score difference that breaks ties in favour of the item that stands first in the union."""


def library(arms: int) -> NDArray[np.int32]:
    """[plans, arms]: every combination of counts with one or two arms in use, in ascending order."""
    plans = (
        dict(zip(used, counts, strict=True))
        for size in range(1, IN_USE + 1)
        for used in combinations(range(arms), size)
        for counts in product(CANDIDATE_COUNTS[1:], repeat=size)
    )
    return np.array(sorted([plan.get(arm, 0) for arm in range(arms)] for plan in plans), dtype=np.int32)


class Plans:
    """The library of plans, with the static mix last."""

    def __init__(self, arms: Sequence[str], static: Sequence[int]) -> None:
        """`arms`: the arms that plans use; `static`: the static mix, a count for each of them."""
        self.arms = tuple(arms)
        self.counts: NDArray[np.int32] = np.vstack([library(len(arms)), np.array([static], dtype=np.int32)])
        """[plans, arms]."""
        places = np.searchsorted(_STEPS, self.counts[:STATIC]) + len(_STEPS) * np.arange(len(arms))
        used = self.counts[:STATIC] > 0
        self._first = places[np.arange(len(places)), used.argmax(axis=1)]
        self._second = places[np.arange(len(places)), len(arms) - 1 - used[:, ::-1].argmax(axis=1)]

    def __len__(self) -> int:
        return len(self.counts)

    def found(self, ranks: NDArray[np.int32], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Capped share of the wanted items that each plan finds, [plans], 0..1: the sum of `wanted` over the items that
        stand in some arm's list within its count, over the sum of all, neither above PAGE.

        ranks: [items, arms], an item's rank in the arm's full list, from 1, 0 where it is not in it; wanted: [items],
        how likely each is wanted.
        """
        held = ranks > 0
        within = (
            (held[:, :, None] & (ranks[:, :, None] <= _STEPS))
            .reshape(len(ranks), len(self.arms) * len(_STEPS))
            .astype(np.float64)
        )
        # [arm and count, arm and count]: found by both. Not `@`, whose last bits depend on the number of threads.
        both = np.einsum("ij,ik->jk", within, within * wanted[:, None])
        alone = both.diagonal()
        pairs = alone[self._first] + alone[self._second] - both[self._first, self._second]
        static = wanted[(held & (ranks <= self.counts[STATIC])).any(axis=1)].sum()
        sums = np.append(pairs, static)
        found: NDArray[np.float64] = np.minimum(sums, PAGE) / max(1.0, min(float(wanted.sum()), PAGE))
        return np.minimum(found, 1.0)  # sums of the same numbers in another order

    def pages(
        self, ranks: NDArray[np.int32], wanted: NDArray[np.float64], parts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """DCG of the first page of each plan in the fused order, over that of the best page there is, [plans], 0..1.

        ranks, wanted: as for `found`, items in the order of the whole union; parts: [items, arms], contributions of the
        arms' full lists to the fused scores. Leaving out an arm that finds no wanted item of its own can still hurt,
        because it knew which of the other arms' items were wanted.
        """
        best = float(np.einsum("i,i->", np.sort(wanted)[::-1][:PAGE], _DISCOUNTS[: len(wanted)]))
        if best <= 0.0:
            return np.zeros(len(self))

        def listed(a: int, count: int) -> NDArray[np.float64]:
            return shortened(self.arms[a], parts[:, a], (ranks[:, a] > 0) & (ranks[:, a] <= count))

        lists = np.stack([listed(a, count) for a in range(len(self.arms)) for count in _STEPS.tolist()])
        pairs = lists[self._first] + np.where((self._first == self._second)[:, None], 0.0, lists[self._second])
        static = np.sum([listed(a, count) for a, count in enumerate(self.counts[STATIC].tolist())], axis=0)
        scores = np.vstack([pairs, static])
        held = scores > 0.0
        scores -= _TIE_STEP * np.arange(scores.shape[1])
        scores[~held] = -np.inf
        top = np.argpartition(-scores, min(PAGE, scores.shape[1]) - 1, axis=1)[:, :PAGE]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)
        top = np.take_along_axis(top, order, axis=1)
        gains = np.where(np.take_along_axis(held, top, axis=1), wanted[top], 0.0)
        worth: NDArray[np.float64] = np.einsum("ij,j->i", gains, _DISCOUNTS[: top.shape[1]]) / best
        return np.minimum(worth, 1.0)
