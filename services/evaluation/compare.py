"""Comparison of several runs over the same judged queries: means with 95 % intervals, overall and by slice, and paired
differences from a baseline run. Pure.

Means are over the queries with at least one relevant item; a query missing from a run counts as an empty result there.
The figures of a slice are weighted within that slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import InvalidRequest
from services.evaluation.intervals import Interval, bootstraps
from services.evaluation.measures import Measure, named
from services.evaluation.runs import Run

MEASURES = ("ndcg@10", "mrr@10", "map@100", "recall@100", "judged@10")
ALL = "all"
"""Name of the part with every query."""
NONE = "none"
"""Name of the part with the queries that have no slice, where others have one."""


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query with the grades of its judged items, object_id -> grade."""

    query_id: str
    grades: Mapping[str, float]
    slice: str = ""
    weight: float = 1.0
    """Relative weight in means: its share of the traffic (see `traffic_weights`)."""


@dataclass(frozen=True, slots=True)
class Row:
    """Results of one run on one part of the queries, by measure."""

    run: str
    values: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    """This run minus the baseline, paired by query; empty for the baseline itself and when there is none."""
    missing: int = 0
    """Number of queries of the part that are missing from the run."""


@dataclass(frozen=True, slots=True)
class Part:
    """A slice, or ALL."""

    name: str
    queries: int
    share: float
    """Share of the total weight, 0..1."""
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of `compare`."""

    measures: tuple[str, ...]
    baseline: str | None
    parts: tuple[Part, ...]
    """ALL, then, if there are several slices, the slices by name."""
    left_out: int
    """Number of queries without a relevant item."""
    resamples: int
    seed: int

    def values(self) -> dict[str, Any]:
        """The comparison as JSON-serialisable values."""
        return asdict(self)

    def markdown(self) -> str:
        """A Markdown table with a line per part and run; differences are those of the first measure."""
        head = ["queries", "run", *self.measures]
        if self.baseline is not None:
            head.append(f"{self.measures[0]} - {self.baseline}")
        lines = [head]
        for part in self.parts:
            for row in part.rows:
                line = [
                    f"{part.name} ({part.queries})",
                    row.run,
                    *(_format(row.values[name]) for name in self.measures),
                ]
                if self.baseline is not None:
                    difference = row.differences.get(self.measures[0])
                    line.append("" if difference is None else _format(difference, "+"))
                lines.append(line)
        return table(lines)


def traffic_weights(
    slices: Sequence[str], weights: Sequence[float] | None = None, mix: Mapping[str, float] | None = None
) -> list[float]:
    """Weight of each query, [queries], when its slice has the share `mix` of the traffic (default: its share of the
    queries), distributed within the slice by `weights` (default: equally). The weights returned have mean 1.

    slices, weights: one per query. Raises InvalidRequest unless `mix` has a non-negative share for exactly the slices
    that occur, or when the weights within a slice are all 0.
    """
    weights = [1.0] * len(slices) if weights is None else weights
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    for name, weight in zip(slices, weights, strict=True):
        totals[name] = totals.get(name, 0.0) + weight
        counts[name] = counts.get(name, 0.0) + 1.0
    mix = counts if mix is None else mix
    if set(mix) != set(counts):
        raise InvalidRequest(
            f"the mix names {_listed(mix)}, but the slices are {_listed(counts)}: each slice needs exactly one share"
        )
    if any(not 0.0 <= share < float("inf") for share in mix.values()) or not sum(mix.values()) > 0.0:
        raise InvalidRequest("the shares of a mix must be numbers from 0, and not all 0")
    if empty := [name for name, share in mix.items() if share > 0.0 and totals[name] <= 0.0]:
        raise InvalidRequest(f"no query of the slice {empty[0]!r} has a weight above 0")
    whole = sum(mix.values())
    return [
        weight / totals[name] * mix[name] / whole * len(slices) if mix[name] else 0.0
        for name, weight in zip(slices, weights, strict=True)
    ]


def compare(
    runs: Sequence[Run],
    queries: Sequence[JudgedQuery],
    measures: Sequence[str] = MEASURES,
    baseline: str | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare runs by `measures`, named as for services.evaluation.measures.named; `baseline` is the name of one of the
    runs. All figures of a part come from the same bootstrap resamples of its queries, drawn with `seed`.

    Raises InvalidRequest for an unknown measure, no runs or runs with equal names, a baseline that is not among them,
    and when no query has both a relevant item and a weight above 0."""
    functions = {name: named(name) for name in measures}
    names = [run.name for run in runs]
    if not functions:
        raise InvalidRequest("no measure is given")
    if not names or len(set(names)) < len(names):
        raise InvalidRequest(f"runs to compare must have distinct names, not {_listed(names)}")
    if baseline is not None and baseline not in names:
        raise InvalidRequest(f"no run {baseline!r} to compare with; the runs are {_listed(names)}")
    relevant = [query for query in queries if any(grade > 0.0 for grade in query.grades.values())]
    whole = sum(query.weight for query in relevant)
    if not whole > 0.0:
        raise InvalidRequest("no query has both a relevant item and a weight above 0: there is nothing to measure")
    scores = np.array([[_scores(run, query, functions) for run in runs] for query in relevant])
    base = None if baseline is None else names.index(baseline)
    parts = []
    for name, indices in _parts(relevant):
        members = [relevant[place] for place in indices]
        weights = [query.weight for query in members]
        if not sum(weights) > 0.0:
            continue
        values, differences = _intervals(scores[indices], base, weights, tuple(functions), resamples, seed)
        rows = tuple(
            Row(run.name, values[i], differences[i], sum(query.query_id not in run.lists for query in members))
            for i, run in enumerate(runs)
        )
        parts.append(Part(name, len(members), sum(weights) / whole, rows))
    return Comparison(tuple(functions), baseline, tuple(parts), len(queries) - len(relevant), resamples, seed)


def _scores(run: Run, query: JudgedQuery, functions: Mapping[str, Measure]) -> list[float]:
    ranked = run.ids(query.query_id)
    return [function(ranked, query.grades) for function in functions.values()]


def _parts(queries: Sequence[JudgedQuery]) -> list[tuple[str, list[int]]]:
    """(part, indices of its queries)."""
    slices = sorted({query.slice for query in queries})
    parts = [(ALL, list(range(len(queries))))]
    if len(slices) > 1:
        parts += [(name or NONE, [i for i, query in enumerate(queries) if query.slice == name]) for name in slices]
    return parts


def _intervals(
    scores: NDArray[np.float64],
    base: int | None,
    weights: Sequence[float],
    measures: Sequence[str],
    resamples: int,
    seed: int,
) -> tuple[list[dict[str, Interval]], list[dict[str, Interval]]]:
    """(values, differences from run `base`) of each run, by measure. `scores`: [queries, runs, measures]."""
    runs = scores.shape[1]
    if base is not None:
        scores = np.concatenate([scores, scores - scores[:, [base]]], axis=1)
    found = iter(bootstraps(scores.reshape(len(scores), -1), weights, resamples=resamples, seed=seed))
    each = [{name: next(found) for name in measures} for _ in range(scores.shape[1])]
    differences = each[runs:] or [{} for _ in range(runs)]
    if base is not None:
        differences[base] = {}
    return each[:runs], differences


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first line is the header; columns are also aligned as plain text."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]])


def _format(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
