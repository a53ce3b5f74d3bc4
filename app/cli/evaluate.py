"""`ltrr evaluate`: measure result quality on judged queries for each arm, for all arms together, and for the service.

Without --run, a temporary system is built from the data set folder (a running service is not touched) and every judged
query is searched. The table has a row per arm, one for all arms under reciprocal rank fusion, one for the static mix,
and rows for the active policy and ranker in LTRR_DATA_DIR, if any. With --run, TREC run files are measured instead, the
first one as the baseline.

Every figure is a mean over the queries with at least one relevant item, with its 95 % bootstrap interval; differences
from the baseline are paired by query. An unjudged item counts as irrelevant; judged@10 is the share of judged items.
Results are written to the folder --out: results.json and results.svg.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from app.cli.train import train_encoders
from app.offline.live_runs import LEARNED, STATIC, LiveRuns, LoadedModels, live_runs, load_models
from app.offline.sandbox import open_sandbox
from app.settings import Settings
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset
from services.errors import InvalidRequest, SettingsInvalid
from services.evaluation.compare import MEASURES, Comparison, JudgedQuery, compare, traffic_weights
from services.evaluation.measures import NAMES, named
from services.evaluation.runs import Run
from services.models.ranker.rows import Labelled, read_labels

DEFAULT_OUT = Path("evaluation")
RESULTS_FILE, PLOT_FILE = "results.json", "results.svg"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure result quality on judged queries",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="data set folder with judged queries")
    parser.add_argument("--split", default="test", metavar="NAME", help="split of the queries (default: test)")
    parser.add_argument("--queries", type=_count, metavar="N", help="use only N of them, spread evenly")
    parser.add_argument(
        "--run", type=Path, action="append", default=[], dest="runs", metavar="FILE", help="TREC run file; repeatable"
    )
    parser.add_argument(
        "--measures",
        type=_measures,
        default=MEASURES,
        metavar="LIST",
        help=f"comma-separated, of {', '.join(NAMES)}; the first is plotted (default: {','.join(MEASURES)})",
    )
    parser.add_argument(
        "--mix",
        type=_mix,
        metavar="LIST",
        help="share of each slice in the traffic, for example title=.7,typo=.3 (default: its share of the queries); "
        "within a slice, queries are weighted by their column `weight`",
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="FOLDER", help=f"default: ./{DEFAULT_OUT}")
    parser.add_argument(
        "--write-run", type=Path, metavar="FILE", help="write the last row as a TREC run file (.gz: compressed)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command. Raises SettingsInvalid for wrong options, InvalidRequest for unsuitable data."""
    settings = Settings.load()
    if not args.data.exists():
        raise SettingsInvalid(f"evaluate: no such folder {args.data}")
    if missing := [path for path in args.runs if not path.is_file()]:
        raise SettingsInvalid(f"evaluate: no such run file {missing[0]}")
    if args.runs and args.write_run:
        raise SettingsInvalid("evaluate: --write-run cannot be combined with --run")
    queries = _queries(args.data, args.split, args.queries)
    try:
        weights = traffic_weights([query.slice for query in queries], [query.weight for query in queries], args.mix)
    except InvalidRequest as error:
        raise SettingsInvalid(f"evaluate: --mix: {error}") from error
    for folder in [args.out, *([args.write_run.parent] if args.write_run else [])]:
        folder.mkdir(parents=True, exist_ok=True)  # before the long computation, whose results would be lost
    judged = [JudgedQuery(q.query_id, q.grades, q.slice, w) for q, w in zip(queries, weights, strict=True)]
    with Progress() as progress:
        if args.runs:
            models, found = LoadedModels(), LiveRuns(_read(args.runs, queries, progress))
        else:
            models = load_models(settings, progress)
            found = asyncio.run(_live(settings, args.data, queries, models, progress))
        _note_failures(found, progress)
        baseline = found.runs[0].name if args.runs else STATIC
        comparison = compare(found.runs, judged, args.measures, baseline)
        title = f"{args.data.resolve().name}, {args.split}: {len(queries)} queries"
        results = {
            "data": args.data.resolve().name,
            "split": args.split,
            "models": models.versions,
            "counts": {name: _json_keys(arms) for name, arms in found.counts.items()},
            "degraded": found.degraded,
            **comparison.values(),
        }
        (args.out / RESULTS_FILE).write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
        written = [args.out / RESULTS_FILE, *_plotted(args.out / PLOT_FILE, title, comparison, progress)]
        if args.write_run:
            found.runs[-1].write(args.write_run)
            written.append(args.write_run)
    print(orjson.dumps(results).decode() if args.json else _text(title, comparison, found, written))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _measures(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    try:
        for name in names:
            named(name)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


def _mix(text: str) -> dict[str, float]:
    try:
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        return {name.strip(): float(share) for name, share in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form title=.7,typo=.3") from error


def _queries(data: Path, split: str, limit: int | None) -> list[Labelled]:
    """The queries of the split with a relevant item, or `limit` of them, spread evenly."""
    queries = read_labels(data, (split,))
    if not queries:
        splits = sorted({query.split for query in Dataset.open(data).queries()})
        raise InvalidRequest(
            f"{data} has no query of the split {split!r} with a relevant item; its splits are {', '.join(splits)}"
        )
    if limit is None or limit >= len(queries):
        return queries
    return [queries[place * len(queries) // limit] for place in range(limit)]


def _read(paths: Sequence[Path], queries: Sequence[Labelled], progress: Progress) -> list[Run]:
    runs = [Run.read(path) for path in paths]
    if len({run.name for run in runs}) < len(runs):
        runs = [Run(str(path), run.lists) for path, run in zip(paths, runs, strict=True)]
    for path, run in zip(paths, runs, strict=True):
        missing = sum(query.query_id not in run.lists for query in queries)
        if missing == len(queries):
            raise InvalidRequest(f"{path} has none of the {missing} judged queries, such as {queries[0].query_id}")
        if missing:
            progress.note(f"{path} lacks {missing} of {len(queries)} queries, which count as empty results")
    return runs


async def _live(
    settings: Settings, data: Path, queries: Sequence[Labelled], models: LoadedModels, progress: Progress
) -> LiveRuns:
    async with open_sandbox(settings, data, train_encoders, progress, "evaluate") as system:
        return await live_runs(system, settings, queries, models, progress)


def _note_failures(found: LiveRuns, progress: Progress) -> None:
    for failure, times in sorted(found.degraded.items()):
        progress.note(f"{times} searches failed in part ({failure}): the figures of their rows are too low")


def _plotted(path: Path, title: str, comparison: Comparison, progress: Progress) -> list[Path]:
    try:
        from services.evaluation.plots import points
    except ImportError as error:
        progress.note(f"no plot: {error.name} is not installed; it comes with the extra `evaluate`")
        return []
    measure = comparison.measures[0]
    panels = {
        f"{part.name} ({part.queries})": {row.run: row.values[measure] for row in part.rows}
        for part in comparison.parts
    }
    points(path, title, f"{measure}, mean with 95 % interval", panels, comparison.baseline)
    return [path]


def _text(title: str, comparison: Comparison, found: LiveRuns, written: Sequence[Path]) -> str:
    lines = [title, "", comparison.markdown(), ""]
    if LEARNED in found.counts:
        lines += ["counts chosen by the learned policy:"]
        lines += [f"  {arm}: {_shares(counts)}" for arm, counts in found.counts[LEARNED].items()]
    return "\n".join([*lines, f"written: {', '.join(map(str, written))}"])


def _shares(counts: Mapping[int, float]) -> str:
    return ", ".join(f"{count} in {share:.0%}" for count, share in counts.items())


def _json_keys(arms: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, Any]]:
    """Convert counts to text, because JSON keys are never numbers."""
    return {arm: {str(count): share for count, share in counts.items()} for arm, counts in arms.items()}
