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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import orjson

from app.cli.progress import Progress
from app.cli.train import train_encoders
from app.settings import Settings
from app.simulated_runs import LEARNED, ROWS, STATIC, Asked, Row, check, finished, stem
from app.simulated_runs import run as run_row
from app.simulation import prepare
from services.errors import SettingsInvalid
from services.evaluation.learning_table import Run, curve, lines, markdown, windows

OUT = Path("simulation")
NAMES = tuple(row.name for row in ROWS)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="learn from simulated people, and measure it",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="rows:\n" + "\n".join(f"  {row.name:16} {row.help}" for row in ROWS),
    )
    parser.add_argument("--data", type=Path, metavar="DIR", required=True, help="data set folder with judged queries")
    parser.add_argument("--impressions", type=int, default=30_000, metavar="N", help="searches a run (default: 30000)")
    parser.add_argument("--seeds", type=_seeds, default=(1,), metavar="LIST", help="as 1,2,3 (default: 1)")
    parser.add_argument(
        "--rows", type=_rows, default=ROWS, metavar="LIST", help=f"of {', '.join(NAMES)} (default: all)"
    )
    parser.add_argument(
        "--clicks", choices=("position", "cascade", "dbn"), default="position", help="click model (default: position)"
    )
    parser.add_argument("--noise", type=float, default=0.1, help="chance of a click on an unwanted item (default: 0.1)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="ask every N-th test query (default: all)")
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
    )
    check(what)
    pairs = [(row.name, seed) for seed in asked.seeds for row in asked.rows]
    with Progress() as progress:
        asyncio.run(prepare(settings, asked.data, what.prepared, train_encoders, progress))
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
    _tell(what, asked.rows, asked.seeds, asked.json)


def _tell(what: Asked, rows: Sequence[Row], seeds: Sequence[int], as_json: bool) -> None:
    runs = [_read(what, row, seed) for row in rows for seed in seeds]
    found = lines(runs, STATIC)
    by_row = {row.name: [run for run in runs if run.row == row.name] for row in rows}
    results = {
        "impressions": what.impressions,
        "seeds": list(seeds),
        "clicks": what.click_model,
        "noise": what.noise,
        "lines": [asdict(line) for line in found],
        "spread": {f"{run.row}, seed {run.seed}": run.spread for run in runs},
    }
    text = [markdown(found)]
    for part in sorted({line.part for line in found} - {"all"}):
        text += [f"### {part}", markdown(found, part)]
    if STATIC in by_row and LEARNED in by_row:
        compared = windows(by_row[LEARNED], by_row[STATIC])
        results["windows"] = [asdict(window) for window in compared]
        worst = min(compared, key=lambda window: window.gain.high)
        text.append(
            f"Windows of impressions in which {LEARNED} earned less than the static mix by more than 2 %, its interval "
            f"wholly below: {sum(window.worse for window in compared)} of {len(compared)} (lowest: {worst.gain})."
        )
    what.out.mkdir(parents=True, exist_ok=True)
    (what.out / "results.json").write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
    (what.out / "table.md").write_text("\n\n".join(text) + "\n")
    _plot(what, by_row)
    print(orjson.dumps(results).decode() if as_json else "\n\n".join(text))


def _plot(what: Asked, by_row: dict[str, list[Run]]) -> None:
    try:
        from services.evaluation.plots import Curve, curves
    except ImportError:
        return
    size = max(1, what.impressions // 30)
    for name, y_label in (("reward", "expected reward"), ("regret", "regret"), ("candidates", "candidates a request")):
        series = {row: Curve(*curve(runs, name, size)) for row, runs in by_row.items()}
        curves(what.out / f"{name}.svg", y_label, "impressions", y_label, series)


def _read(what: Asked, row: Row, seed: int) -> Run:
    path = stem(what, row.name, seed)
    facts = orjson.loads(path.with_suffix(".json").read_bytes())
    with np.load(path.with_suffix(".npz")) as arrays:
        return Run(row.name, seed, facts["impressions"], dict(arrays), facts["spread"])


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError("whole numbers, comma between, as 1,2,3") from None


def _rows(text: str) -> tuple[Row, ...]:
    known = {row.name: row for row in ROWS}
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]!r}; rows are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))
