"""What a simulation found: results.json, table.md and plots, from the files of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.simulation.runs import FORGETFUL, LEARNED, STATIC, UNHARMED, Asked, Row, stem, without
from services.evaluation.compare import table
from services.simulation.learning_table import Run, curve, lines, markdown, windows
from services.simulation.recovery import Recovery, recovery, share_of_best
from services.simulation.repeats import AFTER, GOAL, GOAL_AFTER, repeated

POINTS = 30
"""Of a curve."""
SPANS = (500, 1000, 2000)
"""Impressions after a change of which the table of changes tells."""
GOALS = {True: 1000, False: 2000}
"""Impressions in which a policy should be back after an arm died (True), and after it returned."""
Runs = Mapping[str, Sequence[Run]]


def report(asked: Asked, rows: Sequence[Row], seeds: Sequence[int]) -> tuple[dict[str, Any], str]:
    """(results, the same as text); both written, and plots beside them."""
    by_row = {row.name: [_read(asked, row, seed) for seed in seeds] for row in rows}
    results: dict[str, Any] = {
        "impressions": asked.impressions,
        "seeds": list(seeds),
        "clicks": asked.click_model,
        "noise": asked.noise,
        "spread": {f"{run.row}, seed {run.seed}": run.spread for runs in by_row.values() for run in runs},
    }
    text = [f"{asked.impressions} impressions a run, seeds {', '.join(map(str, seeds))}."]
    sections = (_repeats,) if asked.repeats else (_table, _frontier, _surveys, _windows, _recoveries, _changes)
    for section in sections:
        told, said = section(asked, by_row)
        results |= told
        text += said
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "results.json").write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
    (asked.out / "table.md").write_text("\n\n".join(text) + "\n")
    _plot(asked, by_row)
    return results, "\n\n".join(text)


def _table(asked: Asked, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    found = lines([run for runs in by_row.values() for run in runs], STATIC)
    text = [markdown(found)]
    for part in sorted({line.part for line in found} - {"all"}):
        text += [f"### {part}", markdown(found, part)]
    return {"lines": [asdict(line) for line in found]}, text


def _frontier(asked: Asked, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    """What is found for how many candidates; means of the seeds."""
    points = [run.frontier for run in by_row.get(LEARNED, ()) if run.frontier]
    if not points:
        return {}, []
    told, shown = [], [["budget", "counts by", "capped recall@10", "candidates a request"]]
    for lines_of_seeds in zip(*points, strict=True):
        recall, candidates = (float(np.mean([p[what] for p in lines_of_seeds])) for what in ("recall", "candidates"))
        budget, by = lines_of_seeds[0]["budget"], lines_of_seeds[0]["by"]
        told.append({"budget": budget, "by": by, "recall": recall, "candidates": candidates})
        shown.append(["" if budget is None else str(budget), by, f"{recall:.4f}", f"{candidates:.1f}"])
    return {"frontier": told}, ["### recall for candidates", table(shown)]


def _surveys(asked: Asked, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    """What learning costs beside the candidates of answers."""
    runs = by_row.get(LEARNED, ())
    surveyed = [run.arrays["surveyed"] for run in runs]
    if not any(one.any() for one in surveyed):
        return {}, []
    spans = [one[: max(1, len(one) // 4)] for one in surveyed], [one[-max(1, len(one) // 4) :] for one in surveyed]
    first, last = (float(np.mean([part.mean() for part in parts])) for parts in spans)
    shares = [float(np.mean([(part > 0).mean() for part in parts])) for parts in spans]
    said = (
        f"Surveys, after answers had left: {shares[0]:.1%} of the answers in the first quarter, {shares[1]:.1%} in the"
        f" last; {first:.1f} and {last:.1f} candidates a request, which are not in the tables."
    )
    return {"surveyed": {"first quarter": first, "last quarter": last}}, [said]


def _repeats(asked: Asked, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    tables, slices = rounds(by_row[LEARNED]), by_row[LEARNED][0].arrays["slices"]
    forgetful = rounds(by_row[FORGETFUL])
    found = repeated(tables, forgetful, slices[: tables.shape[1]].tolist())
    shown = [["queries", "after", "NDCG@10 remembering", "without memory", "share of the gap closed"]]
    for line in found:
        figures = map(str, (line.remembering, line.forgetful, line.closed))
        shown.append([f"{line.part} ({line.queries})", str(line.after), *figures])
    (whole,) = (line.closed for line in found if (line.part, line.after) == ("all", GOAL_AFTER))
    verdict = "met" if whole.mean >= GOAL else "missed"
    said = f"After {GOAL_AFTER} impressions a query {whole.mean:.1%} of the gap is closed (goal {GOAL:.0%}: {verdict})."
    return {"repeats": [asdict(line) for line in found]}, [table(shown), said]


def rounds(runs: Sequence[Run]) -> NDArray[np.float64]:
    """NDCG@10 [rounds, queries], mean over the seeds."""
    mean: NDArray[np.float64] = np.mean([run.arrays["ndcg"] for run in runs], axis=0)
    return mean.reshape(AFTER[-1] + 1, -1)


def _windows(asked: Asked, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    if STATIC not in by_row or LEARNED not in by_row:
        return {}, []
    compared = windows(by_row[LEARNED], by_row[STATIC])
    worst = min(compared, key=lambda window: window.gain.high)
    said = (
        f"Windows of impressions in which {LEARNED} earned less than the static mix by more than 2 %, its interval "
        f"wholly below: {sum(window.worse for window in compared)} of {len(compared)} (lowest: {worst.gain})."
    )
    return {"windows": [asdict(window) for window in compared]}, [said]


def _recoveries(asked: Asked, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    """Of each outage: against a policy that never had the arm while it is dead, against one whose arms do not die
    afterwards."""
    told, rows = [], [["change", "measured against", "back within 2 % after", "goal", "expected reward - that, by 500"]]
    for outage in asked.changes.outages:
        for dies, reference, first, last in (
            (True, without(outage.arm).name, outage.start, outage.end),
            (False, UNHARMED.name, outage.end, asked.impressions),
        ):
            last = min(last, asked.impressions)
            if LEARNED not in by_row or reference not in by_row or first >= last:
                continue
            found = recovery(by_row[LEARNED], by_row[reference], first, last)
            goal = GOALS[dies]
            told.append({"arm": outage.arm, "dies": dies, "goal": goal, **asdict(found)})
            rows.append([f"{outage.arm} {'dies' if dies else 'returns'} at {first}", reference, *_said(found, goal)])
    return ({"recoveries": told}, ["### arms that die", table(rows)]) if told else ({}, [])


def _said(found: Recovery, goal: int) -> tuple[str, str, str]:
    after = f"not within {found.windows[-1].last - found.at}" if found.back_after is None else str(found.back_after)
    met = found.back_after is not None and found.back_after <= goal
    gains = " ".join(f"{window.gain.mean:+.1%}" for window in found.windows[:8])
    return after, f"{goal}: {'met' if met else 'missed'}", gains


def _changes(asked: Asked, by_row: Runs) -> tuple[dict[str, Any], list[str]]:
    """What was earned of what could have been, before and after each moment at which anything changed."""
    told: dict[str, dict[str, dict[str, float]]] = {}
    head = ["change at", "row", f"{SPANS[0]} before", *(f"first {span} after" for span in SPANS)]
    rows = [head]
    for moment in asked.changes.moments(asked.impressions):
        for name, runs in by_row.items():
            before = (max(0, moment - SPANS[0]), moment)
            spans = {head[2]: before} | {f"first {span} after": (moment, moment + span) for span in SPANS}
            shares = {what: share_of_best(runs, *span) for what, span in spans.items()}
            told.setdefault(str(moment), {})[name] = {what: s for what, s in shares.items() if s == s}
            rows.append([str(moment), name, *(f"{share:.3f}" for share in shares.values())])
    if not told:
        return {}, []
    return {"changes": told}, ["### expected reward as a share of the best there is, around changes", table(rows)]


def _plot(asked: Asked, by_row: Runs) -> None:
    try:
        from services.evaluation.plots import Curve, curves
    except ImportError:
        return
    if asked.repeats:
        every = list(range(AFTER[-1] + 1))
        drawn = {
            row: Curve([float(k) for k in every], rounds(runs).mean(axis=1).tolist()) for row, runs in by_row.items()
        }
        curves(asked.out / "repeats.svg", "queries asked again and again", "impressions a query", "NDCG@10", drawn)
        return
    size = max(1, asked.impressions // POINTS)
    for name, y_label in (("reward", "expected reward"), ("regret", "regret"), ("candidates", "candidates a request")):
        series = {row: Curve(*curve(runs, name, size)) for row, runs in by_row.items()}
        curves(asked.out / f"{name}.svg", y_label, "impressions", y_label, series)


def _read(asked: Asked, row: Row, seed: int) -> Run:
    path = stem(asked, row.name, seed)
    facts = orjson.loads(path.with_suffix(".json").read_bytes())
    with np.load(path.with_suffix(".npz")) as arrays:
        return Run(row.name, seed, facts["impressions"], dict(arrays), facts["spread"], facts["frontier"])
