"""`ltrr simulate`: let the service learn from simulated people, and measure what it learned.

The service is the real one, in this process, with a virtual clock: people of simulated traffic search the data set's
train queries, click by a click model on its judgments, and the service learns from the clicks alone. Each row (the
static mix, the service as it comes, ablations) lives through the same searches. Then judged test queries that nobody
asked before are searched, with and without exploration.

The folder --out gets results.json, table.md, plots, and a file for each finished run: the same command goes on where it
was broken off.
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
from app.simulation.ranker import ANSWERED_BY, with_ranker
from app.simulation.report import report
from app.simulation.runs import BASELINES, FORGETFUL, LEARNED, ROWS, STATIC, Asked, Row, check, finished, repeating
from app.simulation.runs import run as run_row
from app.simulation.world import prepare
from app.system.model_kinds import RANKER
from app.telemetry.progress import Progress
from services.errors import InvalidRequest, SettingsInvalid
from services.policies.fixed import FIXED_COUNTS
from services.simulation.drift import Outage

OUT = Path("simulation")
CHOICE = (*ROWS, *BASELINES)
WIDTH = max(len(row.name) for row in CHOICE)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="learn from simulated people, and measure it",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="rows:\n" + "\n".join(f"  {row.name:{WIDTH}} {row.help}" for row in CHOICE),
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="data set folder with judged queries")
    parser.add_argument("--impressions", type=int, default=30_000, metavar="N", help="searches a run (default: 30000)")
    parser.add_argument("--seeds", type=seeds, default=(1,), metavar="LIST", help="as 1,2,3 (default: 1)")
    parser.add_argument(
        "--rows",
        type=_rows,
        default=ROWS,
        metavar="LIST",
        help=f"of those below, comma between; all (default: {', '.join(row.name for row in ROWS)})",
    )
    parser.add_argument(
        "--clicks", choices=("position", "cascade", "dbn"), default="position", help="click model (default: position)"
    )
    parser.add_argument("--noise", type=float, default=0.1, help="chance of a click on an unwanted item (default: 0.1)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="ask every N-th test query (default: all)")
    parser.add_argument(
        "--kill",
        type=_outage,
        action="append",
        default=[],
        metavar="ARM:FROM:TO",
        help="the arm fails from that search on until the other one; repeatable. Two rows more show where LTRR should "
        "be: one that never had the arm, one whose arms do not die",
    )
    parser.add_argument(
        "--new-items", type=float, default=0.0, metavar="SHARE", help="of the catalogue arrives in four waves"
    )
    parser.add_argument(
        "--taste-change", type=int, metavar="N", help="from the N-th search on people want what others wanted before"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=0,
        metavar="N",
        help="instead of all this ask N queries each of the slices title, typo and topic over and over, and show what "
        "memory makes of it: --impressions and --rows do not matter then",
    )
    parser.add_argument(
        "--ranker",
        type=int,
        default=0,
        metavar="N",
        help="first train a ranker on the clicks of N searches; every row has it then",
    )
    parser.add_argument(
        "--ranker-by",
        choices=tuple(ANSWERED_BY),
        default="both",
        help="who answers those: LTRR, the static mix, or both in turn, as in an A/B test (default: both)",
    )
    parser.add_argument(
        "--http",
        action="store_true",
        help="searches and clicks go to a process that serves, by its real clock: static and LTRR, some 10 ms a search",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default: ./{OUT}")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="scratch folder (default: in --out); one in memory, as /dev/shm/ltrr, spares waiting for disks",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> None:
    settings = Settings.load()
    if not asked.data.is_dir():
        raise SettingsInvalid(f"simulate: no such folder {asked.data}")
    if asked.impressions < 1 or asked.every < 1 or asked.jobs < 1:
        raise SettingsInvalid("simulate: --impressions, --every and --jobs are at least 1")
    if asked.http and (asked.kill or asked.new_items or asked.taste_change is not None or asked.repeats):
        raise SettingsInvalid("simulate: with --http nothing changes and nothing is repeated")
    if asked.http:
        asked.rows = tuple(row for row in ROWS if row.name in (STATIC, LEARNED))
    if asked.ranker < 0 or (asked.ranker and asked.http):
        raise SettingsInvalid("simulate: --ranker is a number from 1, and not for --http")
    if asked.repeats < 0 or (asked.repeats and (asked.kill or asked.new_items or asked.taste_change is not None)):
        raise SettingsInvalid("simulate: --repeats is a number from 1, and nothing changes meanwhile")
    if not 0.0 <= asked.new_items < 1.0:
        raise SettingsInvalid("simulate: --new-items is a share from 0 to below 1")
    work = asked.work or asked.out / "work"
    what = Asked(
        data=asked.data,
        prepared=work / "prepared",
        work=work,
        out=asked.out,
        impressions=asked.impressions,
        click_model=asked.clicks,
        noise=asked.noise,
        every=asked.every,
        changes=Changes(tuple(asked.kill), asked.new_items, asked.taste_change),
        repeats=asked.repeats,
        ranker=asked.ranker,
        ranker_by=asked.ranker_by,
        http=asked.http,
    )
    if what.repeats:
        what = repeating(what)
        asked.rows = tuple(row for row in ROWS if row.name in (LEARNED, FORGETFUL))
    rows = (*asked.rows, *(row for row in what.rows if row not in CHOICE))
    check(what)
    pairs = [(row.name, seed) for seed in asked.seeds for row in rows]
    with Progress() as progress:
        asyncio.run(prepare(settings, asked.data, what.prepared, train_encoders, progress))
        if what.ranker:
            what = replace(what, prepared=asyncio.run(_ranked(settings, what, progress)))
        missing = [pair for pair in pairs if not finished(what, *pair)]
        progress.done("runs", len(pairs) - len(missing))
        if asked.jobs == 1:
            for number, (row, seed) in enumerate(missing, len(pairs) - len(missing) + 1):
                run_row(settings, what, row, seed, partial(progress.done, f"{row}, seed {seed}"))
                progress.done("runs", number)
        else:
            with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
                tasks = [pool.submit(run_row, settings, what, row, seed) for row, seed in missing]
                for number, task in enumerate(as_completed(tasks), len(pairs) - len(missing) + 1):
                    task.result()
                    progress.done("runs", number)
    if asked.work is None:
        shutil.rmtree(work, ignore_errors=True)
    results, text = report(what, rows, asked.seeds)
    print(orjson.dumps(results).decode() if asked.json else text)


async def _ranked(settings: Settings, what: Asked, progress: Progress) -> Path:
    async def train(own: Settings) -> str | None:
        progress.note("training the ranker on the clicks")
        outcome = await train_model(RANKER, own, None, SEED, promote=True)
        progress.note(f"ranker {outcome.version}: {outcome.reason}")
        return None if outcome.promoted else outcome.reason

    return await with_ranker(settings, what, train, partial(progress.done, "searches for the ranker"))


def seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError("whole numbers, comma between, as 1,2,3") from None


def _rows(text: str) -> tuple[Row, ...]:
    known = {row.name: row for row in CHOICE}
    if text == "all":
        return CHOICE
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]!r}; rows are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def _outage(text: str) -> Outage:
    arm, *bounds = text.split(":")
    if arm not in FIXED_COUNTS:
        raise argparse.ArgumentTypeError(f"no arm {arm!r}; arms are {', '.join(FIXED_COUNTS)}")
    try:
        start, end = map(int, bounds)
        return Outage(arm, start, end)
    except ValueError:
        raise argparse.ArgumentTypeError("an arm and two whole numbers, as lexical:5000:10000") from None
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error
