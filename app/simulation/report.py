"""The results of a simulation as results.json, table.md and plots, from the files of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.simulation.runs import LEARNED, NO_MEMORY, NO_OUTAGES, STATIC, Row, RunSpec, run_path, without
from services.evaluation.compare import table
from services.simulation.learning_table import FinishedRun, compare_windows, learning_curve, markdown_table, table_rows
from services.simulation.recovery import Recovery, recovery, share_of_best
from services.simulation.repeated_queries import GOAL_REPEATS, GOAL_SHARE, REPEAT_COUNTS, repeat_results

CURVE_POINTS = 30
"""Number of points of a plotted curve."""
SPANS = (500, 1000, 2000)
"""Impressions after a change that the table of changes reports."""
GOALS = {True: 1000, False: 2000}
"""Impressions within which a policy should recover after an arm fails (True), and after it returns (False)."""
Runs = Mapping[str, Sequence[FinishedRun]]


def report(spec: RunSpec, rows: Sequence[Row], seeds: Sequence[int]) -> tuple[dict[str, Any], str]:
    """(results for JSON, the same as Markdown text). Writes both, and plots beside them."""
    by_row = {row.name: [_read(spec, row, seed) for seed in seeds] for row in rows}
    results: dict[str, Any] = {
        "impressions": spec.impressions,
        "seeds": list(seeds),
        "clicks": spec.click_model,
        "noise": spec.noise,
        "spread": {f"{run.row}, seed {run.seed}": run.spread for runs in by_row.values() for run in runs},
    }
    text = [f"{spec.impressions} impressions per run, seeds {', '.join(map(str, seeds))}."]
    sections = (_repeats,) if spec.repeats else (_table, _frontier, _surveys, _windows, _recoveries, _changes)
    for section in sections:
        section_results, section_text = section(spec, by_row)
        results |= section_results
        text += section_text
    spec.out.mkdir(parents=True, exist_ok=True)
    (spec.out / "results.json").write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
    (spec.out / "table.md").write_text("\n\n".join(text) + "\n")
    _plot(spec, by_row)
    return results, "\n\n".join(text)


def _table(spec: RunSpec, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    found = table_rows([run for runs in by_row.values() for run in runs], STATIC)
    text = [markdown_table(found)]
    for part in sorted({line.part for line in found} - {"all"}):
        text += [f"### {part}", markdown_table(found, part)]
    return {"lines": [asdict(line) for line in found]}, text


def _frontier(spec: RunSpec, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    """Recall by candidate budget, means over seeds."""
    points = [run.frontier for run in by_row.get(LEARNED, ()) if run.frontier]
    if not points:
        return {}, []
    results, rows = [], [["budget", "counts by", "capped recall@10", "candidates per request"]]
    for lines_of_seeds in zip(*points, strict=True):
        recall, candidates = (float(np.mean([p[what] for p in lines_of_seeds])) for what in ("recall", "candidates"))
        budget, by = lines_of_seeds[0]["budget"], lines_of_seeds[0]["by"]
        results.append({"budget": budget, "by": by, "recall": recall, "candidates": candidates})
        rows.append(["" if budget is None else str(budget), by, f"{recall:.4f}", f"{candidates:.1f}"])
    return {"frontier": results}, ["### recall for candidates", table(rows)]


def _surveys(spec: RunSpec, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    """The candidates that surveys request in addition to those of the answers."""
    runs = by_row.get(LEARNED, ())
    surveyed = [run.arrays["surveyed"] for run in runs]
    if not any(one.any() for one in surveyed):
        return {}, []
    spans = [one[: max(1, len(one) // 4)] for one in surveyed], [one[-max(1, len(one) // 4) :] for one in surveyed]
    first, last = (float(np.mean([part.mean() for part in parts])) for parts in spans)
    shares = [float(np.mean([(part > 0).mean() for part in parts])) for parts in spans]
    summary = (
        f"Surveys after the response was sent: {shares[0]:.1%} of the answers in the first quarter, {shares[1]:.1%} in"
        f" the last; {first:.1f} and {last:.1f} candidates per request, which are not in the tables."
    )
    return {"surveyed": {"first quarter": first, "last quarter": last}}, [summary]


def _repeats(spec: RunSpec, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    tables, slices = rounds(by_row[LEARNED]), by_row[LEARNED][0].arrays["slices"]
    forgetful = rounds(by_row[NO_MEMORY])
    found = repeat_results(tables, forgetful, slices[: tables.shape[1]].tolist())
    rows = [["queries", "after", "NDCG@10 with memory", "without memory", "share of the gap closed"]]
    for line in found:
        figures = map(str, (line.remembering, line.forgetful, line.closed))
        rows.append([f"{line.part} ({line.queries})", str(line.after), *figures])
    (whole,) = (line.closed for line in found if (line.part, line.after) == ("all", GOAL_REPEATS))
    verdict = "met" if whole.mean >= GOAL_SHARE else "missed"
    summary = (
        f"After {GOAL_REPEATS} impressions per query {whole.mean:.1%} of the gap is closed"
        f" (goal {GOAL_SHARE:.0%}: {verdict})."
    )
    return {"repeats": [asdict(line) for line in found]}, [table(rows), summary]


def rounds(runs: Sequence[FinishedRun]) -> NDArray[np.float64]:
    """NDCG@10 [rounds, queries], mean over seeds."""
    mean: NDArray[np.float64] = np.mean([run.arrays["ndcg"] for run in runs], axis=0)
    return mean.reshape(REPEAT_COUNTS[-1] + 1, -1)


def _windows(spec: RunSpec, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    if STATIC not in by_row or LEARNED not in by_row:
        return {}, []
    compared = compare_windows(by_row[LEARNED], by_row[STATIC])
    worst = min(compared, key=lambda window: window.gain.high)
    worse = sum(window.significantly_worse for window in compared)
    summary = (
        f"Windows of impressions in which {LEARNED} earned over 2 % less than the static mix, with the whole interval "
        f"below that: {worse} of {len(compared)} (lowest: {worst.gain})."
    )
    return {"windows": [asdict(window) for window in compared]}, [summary]


def _recoveries(spec: RunSpec, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    """Recovery from each outage: compared with a policy that never had the arm during it, and with a policy without the
    outage afterwards."""
    results, rows = [], [["change", "reference", "within 2 % after", "goal", "expected reward - reference, by 500"]]
    for outage in spec.changes.outages:
        for fails, reference, first, last in (
            (True, without(outage.arm).name, outage.start, outage.end),
            (False, NO_OUTAGES.name, outage.end, spec.impressions),
        ):
            last = min(last, spec.impressions)
            if LEARNED not in by_row or reference not in by_row or first >= last:
                continue
            found = recovery(by_row[LEARNED], by_row[reference], first, last)
            goal = GOALS[fails]
            results.append({"arm": outage.arm, "dies": fails, "goal": goal, **asdict(found)})
            rows.append([f"{outage.arm} {'fails' if fails else 'returns'} at {first}", reference, *_cells(found, goal)])
    return ({"recoveries": results}, ["### outages", table(rows)]) if results else ({}, [])


def _cells(found: Recovery, goal: int) -> tuple[str, str, str]:
    after = f"not within {found.windows[-1].last - found.at}" if found.back_after is None else str(found.back_after)
    met = found.back_after is not None and found.back_after <= goal
    gains = " ".join(f"{window.gain.mean:+.1%}" for window in found.windows[:8])
    return after, f"{goal}: {'met' if met else 'missed'}", gains


def _changes(spec: RunSpec, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    """Reward as a share of the best possible, before and after each change."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    head = ["change at", "row", f"{SPANS[0]} before", *(f"first {span} after" for span in SPANS)]
    rows = [head]
    for moment in spec.changes.moments(spec.impressions):
        for name, runs in by_row.items():
            before = (max(0, moment - SPANS[0]), moment)
            spans = {head[2]: before} | {f"first {span} after": (moment, moment + span) for span in SPANS}
            shares = {what: share_of_best(runs, *span) for what, span in spans.items()}
            results.setdefault(str(moment), {})[name] = {what: s for what, s in shares.items() if s == s}
            rows.append([str(moment), name, *(f"{share:.3f}" for share in shares.values())])
    if not results:
        return {}, []
    return {"changes": results}, ["### expected reward as a share of the best possible, around changes", table(rows)]


def _plot(spec: RunSpec, by_row: Runs) -> None:
    try:
        from services.evaluation.plots import Curve, curves
    except ImportError:
        return
    if spec.repeats:
        every = list(range(REPEAT_COUNTS[-1] + 1))
        drawn = {
            row: Curve([float(k) for k in every], rounds(runs).mean(axis=1).tolist()) for row, runs in by_row.items()
        }
        curves(spec.out / "repeats.svg", "repeated queries", "impressions per query", "NDCG@10", drawn)
        return
    size = max(1, spec.impressions // CURVE_POINTS)
    for name, y_label in (
        ("reward", "expected reward"),
        ("regret", "regret"),
        ("candidates", "candidates per request"),
    ):
        series = {row: Curve(*learning_curve(runs, name, size)) for row, runs in by_row.items()}
        curves(spec.out / f"{name}.svg", y_label, "impressions", y_label, series)


def _read(spec: RunSpec, row: Row, seed: int) -> FinishedRun:
    path = run_path(spec, row.name, seed)
    facts = orjson.loads(path.with_suffix(".json").read_bytes())
    with np.load(path.with_suffix(".npz")) as arrays:
        return FinishedRun(row.name, seed, facts["impressions"], dict(arrays), facts["spread"], facts["frontier"])
