"""Several runs over the same judged queries, side by side: means with 95 % intervals, by slice and over all, and the
paired differences from one of them. Pure.

Means are over the queries that have something relevant; one that a run does not have counts as empty there. A slice's
figures weigh its own queries only.
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
"""The part that holds every query."""
NONE = "none"
"""The part of queries without a slice, where others have one."""


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    query_id: str
    grades: Mapping[str, float]
    slice: str = ""
    weight: float = 1.0
    """How much it counts in a mean, relative to the others: its share of the traffic (see `traffic`)."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one run reached on one part of the queries, each by measure."""

    run: str
    values: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    """This run - baseline, paired by query; empty for the baseline itself and where there is none."""
    missing: int = 0
    """Queries of the part that the run does not have."""


@dataclass(frozen=True, slots=True)
class Part:
    """A slice, or ALL."""

    name: str
    queries: int
    share: float
    """Of the whole weight, 0..1."""
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    measures: tuple[str, ...]
    baseline: str | None
    parts: tuple[Part, ...]
    """ALL, then the slices by name when there are several."""
    left_out: int
    """Queries with nothing relevant."""
    resamples: int
    seed: int

    def part(self, name: str = ALL) -> Part:
        """Raises KeyError when there is no such part."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    def values(self) -> dict[str, Any]:
        """For JSON: names, numbers, lists and objects alone."""
        return asdict(self)

    def markdown(self) -> str:
        """One table, a line per part and run; each difference is that of the first measure."""
        head = ["queries", "run", *self.measures]
        if self.baseline is not None:
            head.append(f"{self.measures[0]} - {self.baseline}")
        lines = [head]
        for part in self.parts:
            for row in part.rows:
                line = [f"{part.name} ({part.queries})", row.run, *(_shown(row.values[name]) for name in self.measures)]
                if self.baseline is not None:
                    difference = row.differences.get(self.measures[0])
                    line.append("" if difference is None else _shown(difference, "+"))
                lines.append(line)
        return table(lines)


def traffic(
    slices: Sequence[str], weights: Sequence[float] | None = None, mix: Mapping[str, float] | None = None
) -> list[float]:
    """What each query weighs when its slice has the share `mix` of the traffic (default: its share of the queries),
    split within the slice by `weights` (default: all the same). The weights returned have mean 1.

    slices, weights: one a query. Raises InvalidRequest when `mix` names a slice that no query is of, or lacks one, or
    holds a number below 0; or when what is to be shared out within a slice is nothing.
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
            f"the mix names {_listed(mix)}, and the slices are {_listed(counts)}: it must give each of them its share"
        )
    if any(not 0.0 <= share < float("inf") for share in mix.values()) or not sum(mix.values()) > 0.0:
        raise InvalidRequest("the shares of a mix are numbers from 0, and not all 0")
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
    """`measures` by the names of services.evaluation.measures.named; `baseline` is the name of one of the runs. All
    figures of a part come from the same resamples of its queries, drawn with `seed`.

    Raises InvalidRequest for an unknown measure, runs of the same name or none, a baseline that is not among them, and
    when no query has something relevant and a weight above 0.
    """
    functions = {name: named(name) for name in measures}
    names = [run.name for run in runs]
    if not functions:
        raise InvalidRequest("no measure is named")
    if not names or len(set(names)) < len(names):
        raise InvalidRequest(f"runs to compare must have names of their own, not {_listed(names)}")
    if baseline is not None and baseline not in names:
        raise InvalidRequest(f"no run {baseline!r} to compare with; there are {_listed(names)}")
    relevant = [query for query in queries if any(grade > 0.0 for grade in query.grades.values())]
    whole = sum(query.weight for query in relevant)
    if not whole > 0.0:
        raise InvalidRequest("no query has something relevant and a weight above 0: there is nothing to measure by")
    scores = np.array([[_scores(run, query, functions) for run in runs] for query in relevant])
    base = None if baseline is None else names.index(baseline)
    parts = []
    for name, places in _members(relevant):
        members = [relevant[place] for place in places]
        weights = [query.weight for query in members]
        if not sum(weights) > 0.0:
            continue
        values, differences = _intervals(scores[places], base, weights, tuple(functions), resamples, seed)
        rows = tuple(
            Row(run.name, values[i], differences[i], sum(query.query_id not in run.lists for query in members))
            for i, run in enumerate(runs)
        )
        parts.append(Part(name, len(members), sum(weights) / whole, rows))
    return Comparison(tuple(functions), baseline, tuple(parts), len(queries) - len(relevant), resamples, seed)


def _scores(run: Run, query: JudgedQuery, functions: Mapping[str, Measure]) -> list[float]:
    ranked = run.ids(query.query_id)
    return [function(ranked, query.grades) for function in functions.values()]


def _members(queries: Sequence[JudgedQuery]) -> list[tuple[str, list[int]]]:
    """(part, places of its queries)."""
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
    """(values, differences from run `base`) by measure, of each run. `scores`: [queries, runs, measures]."""
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
    """A Markdown table, the first line its head, with columns that are aligned as plain text, too."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]])


def _shown(interval: Interval, sign: str = "") -> str:
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
