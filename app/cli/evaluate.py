"""`ltrr evaluate`: how well judged queries are answered, by each arm alone, by all of them, and by what is served.

Without --run a system of its own is made from the data set folder (nothing that serves is touched) and every judged
query is searched. The table has a row per arm alone, one for all arms under reciprocal rank fusion, one for the static
mix, and rows for the policy and the ranker that are in force in LTRR_DATA_DIR, where there are any. With --run,
TREC run files are measured instead, the first one as the baseline.

Every figure is a mean over the queries that have something relevant, with its 95 % bootstrap interval; differences from
the baseline are paired by query. An item that nobody judged counts as irrelevant: judged@10 says how many such there
are. The folder --out gets results.json and results.svg.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from app.cli.train import train_encoders
from app.offline.live_runs import LEARNED, STATIC, Found, Served, live_runs, served
from app.offline.sandbox import indexed_apart
from app.settings import Settings
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset
from services.errors import InvalidRequest, SettingsInvalid
from services.evaluation.compare import MEASURES, Comparison, JudgedQuery, compare, traffic
from services.evaluation.measures import NAMES, named
from services.evaluation.runs import Run
from services.models.ranker.rows import Labelled, read_labels

OUT = Path("evaluation")
RESULTS, PLOT = "results.json", "results.svg"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure what judged queries find",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="data set folder with judged queries")
    parser.add_argument("--split", default="test", metavar="NAME", help="which of its queries (default: test)")
    parser.add_argument("--queries", type=_count, metavar="N", help="only so many of them, spread evenly")
    parser.add_argument(
        "--run", type=Path, action="append", default=[], dest="runs", metavar="FILE", help="TREC run file; repeatable"
    )
    parser.add_argument(
        "--measures",
        type=_measures,
        default=MEASURES,
        metavar="LIST",
        help=f"{', '.join(NAMES)}, comma between; the first is plotted (default: {','.join(MEASURES)})",
    )
    parser.add_argument(
        "--mix",
        type=_mix,
        metavar="LIST",
        help="share of each slice in the traffic, as title=.7,typo=.3 (default: its share of the queries); within a "
        "slice queries count by their column `weight`",
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default: ./{OUT}")
    parser.add_argument(
        "--write-run", type=Path, metavar="FILE", help="write what the last row found as a TREC run file (.gz or not)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    if not asked.data.exists():
        raise SettingsInvalid(f"evaluate: no such folder {asked.data}")
    if missing := [path for path in asked.runs if not path.is_file()]:
        raise SettingsInvalid(f"evaluate: no such run file {missing[0]}")
    if asked.runs and asked.write_run:
        raise SettingsInvalid("evaluate: --write-run writes what the service finds; leave it out, or leave out --run")
    queries = _queries(asked.data, asked.split, asked.queries)
    try:
        weights = traffic([query.slice for query in queries], [query.weight for query in queries], asked.mix)
    except InvalidRequest as error:
        raise SettingsInvalid(f"evaluate: --mix: {error}") from error
    for folder in [asked.out, *([asked.write_run.parent] if asked.write_run else [])]:
        folder.mkdir(parents=True, exist_ok=True)  # before the long work, which would be lost
    judged = [JudgedQuery(q.query_id, q.grades, q.slice, w) for q, w in zip(queries, weights, strict=True)]
    with Progress() as progress:
        if asked.runs:
            models, found = Served(), Found(_read(asked.runs, queries, progress))
        else:
            models = served(settings, progress)
            found = asyncio.run(_live(settings, asked.data, queries, models, progress))
        _tell(found, progress)
        baseline = found.runs[0].name if asked.runs else STATIC
        comparison = compare(found.runs, judged, asked.measures, baseline)
        title = f"{asked.data.resolve().name}, {asked.split}: {len(queries)} queries"
        results = {
            "data": asked.data.resolve().name,
            "split": asked.split,
            "models": models.versions,
            "counts": {name: _named(arms) for name, arms in found.counts.items()},
            "degraded": found.degraded,
            **comparison.values(),
        }
        (asked.out / RESULTS).write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
        written = [asked.out / RESULTS, *_plotted(asked.out / PLOT, title, comparison, progress)]
        if asked.write_run:
            found.runs[-1].write(asked.write_run)
            written.append(asked.write_run)
    print(orjson.dumps(results).decode() if asked.json else _text(title, comparison, found, written))


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


def _queries(data: Path, split: str, most: int | None) -> list[Labelled]:
    """Those of the split that have something relevant, or `most` of them, spread evenly."""
    queries = read_labels(data, (split,))
    if not queries:
        splits = sorted({query.split for query in Dataset.open(data).queries()})
        raise InvalidRequest(
            f"{data} has no query of the split {split!r} with something relevant; its splits are {', '.join(splits)}"
        )
    if most is None or most >= len(queries):
        return queries
    return [queries[place * len(queries) // most] for place in range(most)]


def _read(paths: Sequence[Path], queries: Sequence[Labelled], progress: Progress) -> list[Run]:
    runs = [Run.read(path) for path in paths]
    if len({run.name for run in runs}) < len(runs):
        runs = [Run(str(path), run.lists) for path, run in zip(paths, runs, strict=True)]
    for path, run in zip(paths, runs, strict=True):
        missing = sum(query.query_id not in run.lists for query in queries)
        if missing == len(queries):
            raise InvalidRequest(f"{path} has none of the {missing} judged queries, such as {queries[0].query_id}")
        if missing:
            progress.note(f"{path} lacks {missing} of {len(queries)} queries, which count as answered with nothing")
    return runs


async def _live(
    settings: Settings, data: Path, queries: Sequence[Labelled], models: Served, progress: Progress
) -> Found:
    async with indexed_apart(settings, data, train_encoders, progress, "evaluate") as system:
        return await live_runs(system, settings, queries, models, progress)


def _tell(found: Found, progress: Progress) -> None:
    for lack, times in sorted(found.degraded.items()):
        progress.note(f"{times} searches lacked {lack}: figures of their rows are too low")


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


def _text(title: str, comparison: Comparison, found: Found, written: Sequence[Path]) -> str:
    lines = [title, "", comparison.markdown(), ""]
    if LEARNED in found.counts:
        lines += ["counts chosen by the learned policy:"]
        lines += [f"  {arm}: {_shares(counts)}" for arm, counts in found.counts[LEARNED].items()]
    return "\n".join([*lines, f"written: {', '.join(map(str, written))}"])


def _shares(counts: Mapping[int, float]) -> str:
    return ", ".join(f"{count} in {share:.0%}" for count, share in counts.items())


def _named(arms: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, Any]]:
    """JSON has no numbers for keys."""
    return {arm: {str(count): share for count, share in counts.items()} for arm, counts in arms.items()}
