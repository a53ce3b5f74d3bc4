"""`ltrr simulate`: let the service learn from simulated users, and measure what it learned.

The real service runs in this process with a virtual clock: simulated users search the data set's train queries and
click according to a click model on its judgments, and the service learns from the clicks alone. Each row (the static
mix, the service with default settings, ablations) processes the same searches. Then judged test queries that did not
occur in the traffic are searched, with and without exploration.

Results are written to the folder --out: results.json, table.md, plots, and a file per finished run. An interrupted
command continues from there when repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import orjson

from app.cli.train import SEED, train_encoders, train_model
from app.settings import Settings
from app.simulation.changes import Changes
from app.simulation.in_process import prepare
from app.simulation.ranker_training import ANSWERED_BY, with_ranker
from app.simulation.report import report
from app.simulation.runs import (
    BASELINES,
    DEFAULT_ROWS,
    LEARNED,
    NO_MEMORY,
    STATIC,
    Row,
    RunSpec,
    check,
    is_finished,
    with_repeat_impressions,
)
from app.simulation.runs import run as run_row
from app.system.model_kinds import RANKER
from app.telemetry.progress import Progress
from services.errors import InvalidRequest, SettingsInvalid
from services.policies.fixed import FIXED_COUNTS
from services.simulation.drift import Outage

OUT = Path("simulation")
ALL_ROWS = (*DEFAULT_ROWS, *BASELINES)
NAME_WIDTH = max(len(row.name) for row in ALL_ROWS)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "simulate",
        help="learn from simulated users, and measure what was learned",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="rows:\n" + "\n".join(f"  {row.name:{NAME_WIDTH}} {row.help}" for row in ALL_ROWS),
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="data set folder with judged queries")
    parser.add_argument(
        "--impressions", type=int, default=30_000, metavar="N", help="searches per run (default: 30000)"
    )
    parser.add_argument(
        "--seeds", type=seeds, default=(1,), metavar="LIST", help="comma-separated, for example 1,2,3 (default: 1)"
    )
    parser.add_argument(
        "--rows",
        type=_rows,
        default=DEFAULT_ROWS,
        metavar="LIST",
        help=f"comma-separated rows listed below, or all (default: {', '.join(row.name for row in DEFAULT_ROWS)})",
    )
    parser.add_argument(
        "--clicks", choices=("position", "cascade", "dbn"), default="position", help="click model (default: position)"
    )
    parser.add_argument(
        "--noise", type=float, default=0.1, help="click probability of an irrelevant item (default: 0.1)"
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="measure every N-th test query (default: all)"
    )
    parser.add_argument(
        "--kill",
        type=_outage,
        action="append",
        default=[],
        metavar="ARM:FROM:TO",
        help="simulate an outage of the arm between these two searches; repeatable. Two more rows serve as references: "
        "one that never had the arm, one without outages",
    )
    parser.add_argument(
        "--new-items",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the catalogue that arrives in four waves",
    )
    parser.add_argument(
        "--taste-change", type=int, metavar="N", help="from the N-th search on users want what others wanted before"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=0,
        metavar="N",
        help="instead, repeat N queries of each of the slices title, typo and topic over and over, and show what the "
        "click memory gains: --impressions and --rows are ignored then",
    )
    parser.add_argument(
        "--ranker",
        type=int,
        default=0,
        metavar="N",
        help="first train a ranker on the clicks of N searches; every row uses it",
    )
    parser.add_argument(
        "--ranker-by",
        choices=tuple(ANSWERED_BY),
        default="both",
        help="who answers those searches: LTRR, the static mix, or both in turn, as in an A/B test (default: both)",
    )
    parser.add_argument(
        "--http",
        action="store_true",
        help="send searches and clicks to a serving process with a real clock; only rows static and LTRR",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="parallel runs (default: 1)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default: ./{OUT}")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="scratch folder (default: in --out); one in memory, such as /dev/shm/ltrr, avoids disk I/O",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command. Raises SettingsInvalid for wrong options, InvalidRequest for unsuitable data."""
    settings = Settings.load()
    if not args.data.is_dir():
        raise SettingsInvalid(f"simulate: no such folder {args.data}")
    if args.impressions < 1 or args.every < 1 or args.jobs < 1:
        raise SettingsInvalid("simulate: --impressions, --every and --jobs must be at least 1")
    if args.http and (args.kill or args.new_items or args.taste_change is not None or args.repeats):
        raise SettingsInvalid(
            "simulate: --http cannot be combined with --kill, --new-items, --taste-change or --repeats"
        )
    if args.http:
        args.rows = tuple(row for row in DEFAULT_ROWS if row.name in (STATIC, LEARNED))
    if args.ranker < 0 or (args.ranker and args.http):
        raise SettingsInvalid("simulate: --ranker must be a number from 1, and cannot be combined with --http")
    if args.repeats < 0 or (args.repeats and (args.kill or args.new_items or args.taste_change is not None)):
        raise SettingsInvalid(
            "simulate: --repeats must be a number from 1, without --kill, --new-items or --taste-change"
        )
    if not 0.0 <= args.new_items < 1.0:
        raise SettingsInvalid("simulate: --new-items must be a share from 0 to below 1")
    work = args.work or args.out / "work"
    spec = RunSpec(
        data=args.data,
        prepared=work / "prepared",
        work=work,
        out=args.out,
        impressions=args.impressions,
        click_model=args.clicks,
        noise=args.noise,
        every=args.every,
        changes=Changes(tuple(args.kill), args.new_items, args.taste_change),
        repeats=args.repeats,
        ranker=args.ranker,
        ranker_by=args.ranker_by,
        http=args.http,
    )
    if spec.repeats:
        spec = with_repeat_impressions(spec)
        args.rows = tuple(row for row in DEFAULT_ROWS if row.name in (LEARNED, NO_MEMORY))
    rows = (*args.rows, *(row for row in spec.rows if row not in ALL_ROWS))
    check(spec)
    pairs = [(row.name, seed) for seed in args.seeds for row in rows]
    with Progress() as progress:
        asyncio.run(prepare(settings, args.data, spec.prepared, train_encoders, progress))
        if spec.ranker:
            spec = replace(spec, prepared=asyncio.run(_with_ranker(settings, spec, progress)))
        missing = [pair for pair in pairs if not is_finished(spec, *pair)]
        progress.done("runs", len(pairs) - len(missing))
        if args.jobs == 1:
            for number, (row, seed) in enumerate(missing, len(pairs) - len(missing) + 1):
                run_row(settings, spec, row, seed, partial(progress.done, f"{row}, seed {seed}"))
                progress.done("runs", number)
        else:
            with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
                tasks = [pool.submit(run_row, settings, spec, row, seed) for row, seed in missing]
                for number, task in enumerate(as_completed(tasks), len(pairs) - len(missing) + 1):
                    task.result()
                    progress.done("runs", number)
    if args.work is None:
        shutil.rmtree(work, ignore_errors=True)
    results, text = report(spec, rows, args.seeds)
    print(orjson.dumps(results).decode() if args.json else text)


async def _with_ranker(settings: Settings, spec: RunSpec, progress: Progress) -> Path:
    async def train(own: Settings) -> str | None:
        progress.note("training the ranker on the clicks")
        outcome = await train_model(RANKER, own, None, SEED, promote=True)
        progress.note(f"ranker {outcome.version}: {outcome.reason}")
        return None if outcome.promoted else outcome.reason

    return await with_ranker(settings, spec, train, partial(progress.done, "searches for the ranker"))


def seeds(text: str) -> tuple[int, ...]:
    """Seeds from a comma-separated list, without repetitions. Raises ArgumentTypeError."""
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError("expected comma-separated whole numbers, for example 1,2,3") from None


def _rows(text: str) -> tuple[Row, ...]:
    known = {row.name: row for row in ALL_ROWS}
    if text == "all":
        return ALL_ROWS
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]!r}; the rows are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def _outage(text: str) -> Outage:
    arm, *bounds = text.split(":")
    if arm not in FIXED_COUNTS:
        raise argparse.ArgumentTypeError(f"no arm {arm!r}; the arms are {', '.join(FIXED_COUNTS)}")
    try:
        start, end = map(int, bounds)
        return Outage(arm, start, end)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "expected an arm and two whole numbers, for example lexical:5000:10000"
        ) from None
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error
