"""The learning table: what each row of a simulation reached, over its seeds, and whether learning was ever worse than
the static mix on the way. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.evaluation.compare import table
from services.evaluation.intervals import Interval, bootstrap

Arrays = Mapping[str, NDArray[Any]]
WINDOW = 2000
"""Impressions of a window in which learned and static are compared."""
TOLERATED = 0.02
"""Share of the static reward that a window may lie below it."""
NDCG, RECALL, CANDIDATES = 0, 1, 2
"""Columns of what was measured on judged queries."""


@dataclass(frozen=True, slots=True)
class Run:
    """One row with one seed; arrays as app/simulation/runs.py writes them."""

    row: str
    seed: int
    impressions: int
    arrays: Arrays
    spread: Mapping[str, Mapping[str, float]]
    frontier: Sequence[Mapping[str, Any]] = ()
    """What is found for how many candidates, as app/simulation/frontier.py has it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table, on judged queries that were never asked before."""

    row: str
    policy: str
    """serving | greedy"""
    part: str
    """A slice, or `all` in the traffic mix."""
    ndcg: Interval
    recall: Interval
    candidates: float
    difference: Interval | None
    """NDCG@10 - that of the static row, paired by query; None for the static row."""


@dataclass(frozen=True, slots=True)
class Window:
    """Impressions first..last - 1: how much more was earned than by the static mix, as a share of what that earned."""

    first: int
    last: int
    gain: Interval

    @property
    def worse(self) -> bool:
        """Whether its interval lies wholly below -TOLERATED."""
        return self.gain.high < -TOLERATED


def lines(runs: Sequence[Run], static: str) -> list[Line]:
    """Rows in order of appearance; each query's value is its mean over the seeds, intervals are over queries."""
    names = list(dict.fromkeys(run.row for run in runs))
    baseline = _measured([run for run in runs if run.row == static], "serving")
    found = []
    for name in names:
        own = [run for run in runs if run.row == name]
        for policy in ("serving", "greedy"):
            if f"test_{policy}_{own[0].impressions}" not in own[0].arrays:
                continue
            values = _measured(own, policy)
            slices, weights = _queries(own[0])
            for part in ("all", *sorted(set(slices.tolist()) - {""})):
                inside = np.ones(len(slices), bool) if part == "all" else slices == part
                weight = weights[inside].tolist()
                difference = None
                if name != static and baseline is not None and len(baseline) == len(values):
                    difference = bootstrap((values[inside, NDCG] - baseline[inside, NDCG]).tolist(), weight)
                found.append(
                    Line(
                        name,
                        policy,
                        part,
                        bootstrap(values[inside, NDCG].tolist(), weight),
                        bootstrap(values[inside, RECALL].tolist(), weight),
                        float(np.average(values[inside, CANDIDATES], weights=weights[inside])),
                        difference,
                    )
                )
    return found


def windows(
    learned: Sequence[Run], static: Sequence[Run], size: int = WINDOW, first: int = 0, last: int | None = None
) -> list[Window]:
    """Expected reward of both on the same searches, by window, from search `first` up to `last` (default: the end);
    means over the seeds that both have, intervals over searches. Raises ValueError when they share no seed."""
    pairs = [(a, b) for a in learned for b in static if a.seed == b.seed]
    if not pairs:
        raise ValueError("the rows share no seed")
    length = min(min(a.impressions, b.impressions) for a, b in pairs)
    length = length if last is None else min(length, last)
    found = []
    for start in range(first, length, size):
        end = min(start + size, length)
        ours = np.concatenate([a.arrays["reward"][start:end] for a, _ in pairs])
        theirs = np.concatenate([b.arrays["reward"][start:end] for _, b in pairs])
        gain = bootstrap(((ours - theirs) / theirs.mean()).tolist(), resamples=1000)
        found.append(Window(start, end, gain))
    return found


def curve(runs: Sequence[Run], what: str, size: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """(impressions, mean, low, high) of `what` by windows of `size`: the mean over the seeds, the least and the most of
    any seed."""
    length = min(run.impressions for run in runs)
    values = [run.arrays["best"] - run.arrays["reward"] if what == "regret" else run.arrays[what] for run in runs]
    edges = range(0, length, size)
    means = np.array([[float(np.mean(v[first : first + size])) for first in edges] for v in values])
    ends = [float(min(first + size, length)) for first in edges]
    return ends, means.mean(axis=0).tolist(), means.min(axis=0).tolist(), means.max(axis=0).tolist()


def markdown(found: Sequence[Line], part: str = "all") -> str:
    shown = [["row", "policy", "NDCG@10", "NDCG@10 - static", "capped recall of the pool", "candidates a request"]]
    for line in found:
        if line.part == part:
            difference = "" if line.difference is None else _signed(line.difference)
            shown.append(
                [line.row, line.policy, str(line.ndcg), difference, str(line.recall), f"{line.candidates:.1f}"]
            )
    return table(shown)


def _measured(runs: Sequence[Run], policy: str) -> NDArray[np.float64]:
    """[queries, columns]: the mean over seeds."""
    if not runs:
        return np.zeros((0, CANDIDATES + 1))
    stacked = np.stack([run.arrays[f"test_{policy}_{run.impressions}"] for run in runs])
    mean: NDArray[np.float64] = stacked.mean(axis=0)
    return mean


def _queries(run: Run) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    return run.arrays[f"test_slices_{run.impressions}"], run.arrays[f"test_weights_{run.impressions}"]


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
