"""The learning table: results of each variant of a simulation over its seeds, and whether learning was ever worse than
the static mix along the way. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.evaluation.compare import table
from services.evaluation.intervals import Interval, bootstrap

Arrays = Mapping[str, NDArray[Any]]
WINDOW_SIZE = 2000
"""Impressions per window in which learned and static are compared."""
TOLERANCE = 0.02
"""Relative loss against the static reward that a window may have."""
NDCG_COLUMN, RECALL_COLUMN, CANDIDATES_COLUMN = 0, 1, 2
"""Columns of the arrays measured on judged queries."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One variant with one seed; arrays as written by app/simulation/runs.py."""

    row: str
    seed: int
    impressions: int
    arrays: Arrays
    spread: Mapping[str, Mapping[str, float]]
    """Arm -> count -> share of the impressions."""
    frontier: Sequence[Mapping[str, Any]] = ()
    """Recall by candidate budget, as returned by app/simulation/recall_frontier.py."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """Results of a variant on judged queries that did not occur in its traffic."""

    row: str
    policy: str
    """serving | greedy"""
    part: str
    """A slice, or `all`, weighted by the traffic mix."""
    ndcg: Interval
    recall: Interval
    candidates: float
    difference: Interval | None
    """NDCG@10 minus that of the static row, paired by query; None for the static row."""


@dataclass(frozen=True, slots=True)
class Window:
    """Reward gain over a reference run in impressions first..last - 1, as a share of the reference's reward."""

    first: int
    last: int
    gain: Interval

    @property
    def significantly_worse(self) -> bool:
        """Whether the whole interval is below -TOLERANCE."""
        return self.gain.high < -TOLERANCE


def table_rows(runs: Sequence[FinishedRun], static: str) -> list[TableRow]:
    """Rows in order of appearance. Each query's value is its mean over seeds; intervals are over queries."""
    names = list(dict.fromkeys(run.row for run in runs))
    baseline = _measured([run for run in runs if run.row == static], "serving")
    found = []
    for name in names:
        row_runs = [run for run in runs if run.row == name]
        for policy in ("serving", "greedy"):
            if f"test_{policy}_{row_runs[0].impressions}" not in row_runs[0].arrays:
                continue
            values = _measured(row_runs, policy)
            slices, weights = _queries(row_runs[0])
            for part in ("all", *sorted(set(slices.tolist()) - {""})):
                members = np.ones(len(slices), bool) if part == "all" else slices == part
                weight = weights[members].tolist()
                difference = None
                if name != static and baseline is not None and len(baseline) == len(values):
                    difference = bootstrap(
                        (values[members, NDCG_COLUMN] - baseline[members, NDCG_COLUMN]).tolist(), weight
                    )
                found.append(
                    TableRow(
                        name,
                        policy,
                        part,
                        bootstrap(values[members, NDCG_COLUMN].tolist(), weight),
                        bootstrap(values[members, RECALL_COLUMN].tolist(), weight),
                        float(np.average(values[members, CANDIDATES_COLUMN], weights=weights[members])),
                        difference,
                    )
                )
    return found


def compare_windows(
    learned: Sequence[FinishedRun],
    static: Sequence[FinishedRun],
    size: int = WINDOW_SIZE,
    first: int = 0,
    last: int | None = None,
) -> list[Window]:
    """Gain in expected reward of `learned` over `static` on the same searches, by window, from search `first` up to
    `last` (default: the end); means over the seeds that both have, intervals over searches. Raises ValueError when they
    share no seed."""
    pairs = [(a, b) for a in learned for b in static if a.seed == b.seed]
    if not pairs:
        raise ValueError("the rows share no seed")
    length = min(min(a.impressions, b.impressions) for a, b in pairs)
    length = length if last is None else min(length, last)
    found = []
    for start in range(first, length, size):
        end = min(start + size, length)
        learned_rewards = np.concatenate([a.arrays["reward"][start:end] for a, _ in pairs])
        static_rewards = np.concatenate([b.arrays["reward"][start:end] for _, b in pairs])
        gain = bootstrap(((learned_rewards - static_rewards) / static_rewards.mean()).tolist(), resamples=1000)
        found.append(Window(start, end, gain))
    return found


def learning_curve(
    runs: Sequence[FinishedRun], what: str, size: int
) -> tuple[list[float], list[float], list[float], list[float]]:
    """(impressions, mean, low, high) of the series `what` by windows of `size`: mean, minimum and maximum over
    seeds."""
    length = min(run.impressions for run in runs)
    values = [run.arrays["best"] - run.arrays["reward"] if what == "regret" else run.arrays[what] for run in runs]
    edges = range(0, length, size)
    means = np.array([[float(np.mean(v[first : first + size])) for first in edges] for v in values])
    window_ends = [float(min(first + size, length)) for first in edges]
    return window_ends, means.mean(axis=0).tolist(), means.min(axis=0).tolist(), means.max(axis=0).tolist()


def markdown_table(found: Sequence[TableRow], part: str = "all") -> str:
    """The rows of one part as a Markdown table."""
    lines = [["row", "policy", "NDCG@10", "NDCG@10 - static", "capped recall of the pool", "candidates per request"]]
    for line in found:
        if line.part == part:
            difference = "" if line.difference is None else _signed(line.difference)
            lines.append(
                [line.row, line.policy, str(line.ndcg), difference, str(line.recall), f"{line.candidates:.1f}"]
            )
    return table(lines)


def _measured(runs: Sequence[FinishedRun], policy: str) -> NDArray[np.float64]:
    """Means over seeds, [queries, columns]; [0, columns] without runs."""
    if not runs:
        return np.zeros((0, CANDIDATES_COLUMN + 1))
    stacked = np.stack([run.arrays[f"test_{policy}_{run.impressions}"] for run in runs])
    mean: NDArray[np.float64] = stacked.mean(axis=0)
    return mean


def _queries(run: FinishedRun) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    return run.arrays[f"test_slices_{run.impressions}"], run.arrays[f"test_weights_{run.impressions}"]


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"
