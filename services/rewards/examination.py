"""Position bias: how likely each position is to be examined, estimated from clicks on items shown at several positions.

The same item for the same query is equally attractive wherever it stands, so any difference in its click rate between
two positions is position bias. Positions differ where answers were randomised (two items swapped by chance, Joachims et
al., WSDM 2017), and where the service itself explores or learns: all pairs of positions at which an item was shown are
used, as intervention harvesting does (Agarwal et al., "Estimating position bias without intrusive interventions", WSDM
2019).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MIN_EXAMINATION = 0.02
"""Smallest estimate: no click may count more than fifty times."""


class ClickCounts:
    """Times shown and clicked, by (query, item) and position."""

    def __init__(self, positions: int) -> None:
        self._positions = positions
        self._counts: defaultdict[tuple[str, str], dict[int, list[int]]] = defaultdict(dict)

    def add(self, key: str, ids: Sequence[str], clicked: Iterable[int]) -> None:
        """Count an answer to the query `key`; `clicked`: indices into `ids`, from 0."""
        places = set(clicked)
        for place, object_id in enumerate(ids[: self._positions]):
            counts = self._counts[key, object_id].setdefault(place, [0, 0])
            counts[0] += 1
            counts[1] += place in places

    def curve(self) -> NDArray[np.float64]:
        """[positions]: probability of examination relative to the first position, MIN_EXAMINATION..1.

        For two positions, the items shown at both have the same attractiveness at either, so the ratio of their click
        rates (each item with the same weight at both) is the ratio of the examinations. The curve follows from all
        ratios, each weighted by the clicks it rests on, by least squares of their logarithms. A position without such
        items gets the estimate of the one before.
        """
        rates, clicks = self._pairs()
        size = self._positions
        known = (rates > 0) & (rates.T > 0)
        ratios = np.log(np.where(known, rates, 1.0)) - np.log(np.where(known, rates.T, 1.0))
        weight = np.where(known, 1.0 / (1.0 / np.maximum(clicks, 1.0) + 1.0 / np.maximum(clicks.T, 1.0)), 0.0)
        laplacian = np.diag(weight.sum(axis=1)) - weight  # of log(examination) = differences as measured
        logs = np.linalg.pinv(laplacian) @ (weight * ratios).sum(axis=1)
        examination = np.exp(logs - logs[0])
        for position in range(1, size):
            if not weight[position].any():
                examination[position] = examination[position - 1]
        clipped: NDArray[np.float64] = np.clip(examination, MIN_EXAMINATION, 1.0)
        return clipped

    def _pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """[k, l]: weighted click rate at k, and clicks there, of the items that were shown at k and at l."""
        rates, clicks = np.zeros((2, self._positions, self._positions))
        for places in self._counts.values():
            for k, (shown, clicked) in places.items():
                for other, (times, _) in places.items():
                    if other != k:
                        rates[k, other] += clicked / shown * (shown * times / (shown + times))
                        clicks[k, other] += clicked
        return rates, clicks


def by_position(values: NDArray[np.float64]) -> Callable[[int], float]:
    """The curve as a function of the position, from 1; beyond its end as at its end."""
    return lambda position: float(values[min(max(position, 1), len(values)) - 1])
