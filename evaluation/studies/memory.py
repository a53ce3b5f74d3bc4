"""The value of the click memory and of each of its parts: click scores, neighbouring queries, and queries predicted for
items that nobody has clicked yet.

The service runs under the static mix: simulated users search three quarters of the train queries and click according to
the position-based model. A query predictor is trained on that log. Then the same memory is used by five variants of the
service, from none of it to all of it, on three groups of queries: `asked before`, the queries of the traffic; `asked
otherwise`, the other quarter of the train queries, mostly for items that others searched with other words; and `never
asked`, the test queries, which are for other items. Figures are means over queries in the traffic mix and over seeds,
with 95 % bootstrap intervals; differences are paired by query.

    python -m evaluation.studies.memory --data DIR --impressions 8000 --seeds 1,2,3 --out FOLDER

Results are written to the folder --out: results.json, table.md and results.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.cli.simulate import seeds
from app.cli.train import SEED, train_encoders, train_model
from app.offline.sandbox import EMBEDDED, PolicySearch
from app.settings import Settings
from app.simulation.in_process import World, copy_prepared, open_existing, prepare
from app.system.model_kinds import QUERY_PREDICTOR
from app.system.policies import fixed_policy
from app.system.system import System
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset, DatasetQuery
from services.errors import LtrrError
from services.evaluation.compare import table, traffic_weights
from services.evaluation.intervals import Interval, bootstraps
from services.memory.keys import memory_key
from services.models.query_predictor.model import QueryPredictor
from services.policies.fixed import FIXED_COUNTS, FixedPolicy
from services.search.state import SearchState
from services.simulation.click_models import click_model
from services.simulation.judge import Judge
from services.simulation.loop import simulate
from services.simulation.traffic import Traffic, traffic_mix

HELD_OUT = 4
"""One in so many train queries is held out of the traffic."""
ASKED_BEFORE, ASKED_OTHERWISE, NEVER_ASKED = "asked before", "asked otherwise", "never asked"
NO_MEMORY, CLICKS, NEIGHBOURS = "no memory", "clicks", "and neighbours"
TITLES, PREDICTED = "and titles", "and predicted queries"
ROWS = (NO_MEMORY, CLICKS, NEIGHBOURS, TITLES, PREDICTED)
"""Variants. Each adds to the previous one, except for the last: it replaces titles by what the predictor learned."""
MIN_SLICE_QUERIES = 10
MEASURES = ("answer", "memory", "recall", "found")
"""NDCG@10 of the answer; NDCG@10 and capped recall@10 of the memory arm's own list; whether that list is not empty."""


@dataclass(slots=True)
class RankInversions:
    """Pairs of a clicked and a merely predicted item in the memory's lists of queries asked before, and how many of
    them have the predicted item first."""

    pairs: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Queries with the results of each row on them."""

    queries: Sequence[DatasetQuery]
    reached: Mapping[str, NDArray[np.float64]]
    """Row -> [queries, MEASURES]."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study by `arguments` (default: the command line's) and write its results."""
    parser = argparse.ArgumentParser(
        "python -m evaluation.studies.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set folder with judged queries")
    parser.add_argument("--impressions", type=int, default=8000, metavar="N", help="searches per seed (default: 8000)")
    parser.add_argument(
        "--seeds", type=seeds, default=(1,), metavar="LIST", help="comma-separated, for example 1,2,3 (default: 1)"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure every N-th query (default: all)")
    parser.add_argument(
        "--split",
        default="test",
        choices=("validation", "test"),
        help="split of the queries never asked (default: test)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="scratch folder (default: in --out)")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    work = args.work or args.out / "work"
    inversions, runs = RankInversions(), []
    with Progress() as progress:
        asyncio.run(prepare(Settings.load(), args.data, work / "prepared", train_encoders, progress))
        for seed in args.seeds:
            runs.append(asyncio.run(one_run(Settings.load(), args, work, seed, inversions, progress)))
            progress.done("seeds", len(runs))
    if args.work is None:
        shutil.rmtree(work, ignore_errors=True)
    write(runs, inversions, args.out, vars(args) | {"data": args.data.resolve().name})


async def one_run(
    settings: Settings, args: argparse.Namespace, work: Path, seed: int, inversions: RankInversions, progress: Progress
) -> tuple[dict[str, Group], dict[str, Any]]:
    """(every group with the results of every row, metrics of the trained predictor)."""
    dataset = Dataset.open(args.data)
    judge = Judge.from_dataset(dataset, click_model("position"), seed, weights=settings.action_weights)
    known, held_out = split(
        [query for query in dataset.queries("train") if judge.has_relevant(query.query_id)], HELD_OUT
    )
    user_traffic = Traffic(known, seed)
    ids = dict.fromkeys(search.query.query_id for search in islice(user_traffic.since(), args.impressions))
    by_id = {query.query_id: query for query in known}
    groups = {
        ASKED_BEFORE: [by_id[query_id] for query_id in ids],
        ASKED_OTHERWISE: held_out,
        NEVER_ASKED: [query for query in dataset.queries(args.split) if judge.has_relevant(query.query_id)],
    }
    groups = {name: queries[:: args.every] for name, queries in groups.items()}

    prepared, folder = work / "prepared", work / f"memory-{seed}"
    copy_prepared(prepared, folder)
    async with open_existing(settings, prepared, folder, World(seed), fixed_policy(settings)) as (_, service):
        searched = partial(progress.done, f"searches, seed {seed}")
        await simulate(service, user_traffic, judge, args.impressions, progress=searched)
        await service.learn()
    own = settings.model_copy(update={"data_dir": folder} | EMBEDDED)
    outcome = await train_model(QUERY_PREDICTOR, own, None, SEED, promote=False)
    progress.note(f"query predictor, seed {seed}: {outcome.reason}")

    reached: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in groups}
    for row in ROWS:
        narrow = settings.model_copy(update={"memory_neighbours": 0}) if row == CLICKS else settings
        async with open_existing(narrow, prepared, folder, World(seed)) as (system, _):
            await predict(system, _predictor(system, row, outcome.version))
            counts = dict(FIXED_COUNTS) | ({"memory": 0} if row == NO_MEMORY else {})
            for name, queries in groups.items():
                counted = inversions if (row, name) == (PREDICTED, ASKED_BEFORE) else None
                policy = FixedPolicy(counts, settings.candidate_budget)
                reached[name][row] = await measured(system, policy, judge, queries, counted)
                progress.done(f"groups of queries, seed {seed}, {row}", list(groups).index(name) + 1)
    shutil.rmtree(folder)
    return {name: Group(queries, reached[name]) for name, queries in groups.items()}, outcome.metrics


def split(queries: Sequence[DatasetQuery], part: int) -> tuple[list[DatasetQuery], list[DatasetQuery]]:
    """(queries of the traffic, one in `part` that is held out); no memory key is on both sides."""
    held_out_keys = {memory_key(query.text) for query in queries[::part]}
    sides: tuple[list[DatasetQuery], list[DatasetQuery]] = ([], [])
    for query in queries:
        sides[memory_key(query.text) in held_out_keys].append(query)
    return sides


def _predictor(system: System, row: str, version: str) -> QueryPredictor | None:
    if row == PREDICTED:
        return QueryPredictor.from_files(system.store.load(QUERY_PREDICTOR, version).files)
    return QueryPredictor.untrained() if row == TITLES else None


async def predict(system: System, predictor: QueryPredictor | None) -> None:
    """Store the predictor's queries for the whole catalogue in the memory; no predictor stores none."""
    schema = system.search.active.schema
    documents = [document async for document in system.items.scan()]
    await system.memory.predict(
        {one["id"]: [] if predictor is None else predictor.predict(one, schema) for one in documents}
    )


async def measured(
    system: System,
    policy: FixedPolicy,
    judge: Judge,
    queries: Sequence[DatasetQuery],
    inversions: RankInversions | None,
) -> NDArray[np.float64]:
    """Results under the policy, [queries, MEASURES]; nothing of it is logged or learned."""
    searched = PolicySearch(system, policy)
    found = np.zeros((len(queries), len(MEASURES)))
    for place, query in enumerate(queries):
        collected = await searched.collect(query)
        remembered = [entry.object_id for entry in collected.context.memory[: FIXED_COUNTS["memory"]]]
        ranking = [pooled.object_id for pooled in collected.pool]
        found[place, 0] = judge.measures(ranking, query.query_id, 0, ("ndcg@10",))["ndcg@10"]
        if policy.wanted("memory"):
            own = judge.measures(remembered, query.query_id, 0, ("ndcg@10", "capped_recall@10"))
            found[place, 1:] = *own.values(), bool(remembered)
        if inversions is not None:
            _count(collected, inversions)
    return found


def _count(collected: SearchState, inversions: RankInversions) -> None:
    clicked = 0
    for entry in reversed(collected.context.memory):  # lowest score first: counts the clicked ones ranked below each
        if entry.clicks > 0.0:
            clicked += 1
        elif entry.predicted:
            inversions.wrong += clicked
    inversions.pairs += clicked * sum(entry.predicted for entry in collected.context.memory)


def figures(groups: Sequence[Group], part: str | None = None) -> tuple[int, dict[str, dict[str, Interval]]]:
    """(number of queries, row -> measure -> interval, with the answer's gain over no memory as "gain"), over the
    queries of the slice `part`, or all. A query counts once, with its mean over runs."""
    tables: dict[str, list[NDArray[np.float64]]] = {}
    queries = {query.query_id: query for group in groups for query in group.queries}
    for group in groups:
        columns = [group.reached[row] for row in ROWS]
        gains = [reached[:, :1] - columns[0][:, :1] for reached in columns]
        for query, line in zip(group.queries, np.hstack([*columns, *gains]), strict=True):
            tables.setdefault(query.query_id, []).append(line)
    slices = [query.slice for query in queries.values()]
    weights = traffic_weights(slices, [query.weight for query in queries.values()], traffic_mix(queries.values()))
    chosen = [place for place, name in enumerate(slices) if part in (None, name)]
    means = np.array([np.mean(tables[query_id], axis=0) for query_id in queries])
    found = bootstraps(means[chosen], [weights[place] for place in chosen])
    size = len(MEASURES)
    return len(chosen), {
        row: dict(zip(MEASURES, found[size * i : size * (i + 1)], strict=True)) | {"gain": found[size * len(ROWS) + i]}
        for i, row in enumerate(ROWS)
    }


def write(
    runs: Sequence[tuple[Mapping[str, Group], Mapping[str, Any]]],
    inversions: RankInversions,
    out: Path,
    options: Mapping[str, Any],
) -> None:
    """Write results.json, table.md and, with matplotlib, results.svg; `options` are those of the study."""
    kept = {name: options[name] for name in ("data", "impressions", "seeds", "every", "split")}
    texts = [f"{kept['impressions']} searches, seeds {', '.join(map(str, kept['seeds']))}."]
    results: dict[str, Any] = {"asked": kept, "groups": {}, "predictor": [metrics for _, metrics in runs]}
    panels: dict[str, dict[str, Interval]] = {}
    for name in runs[0][0]:
        groups = [run[name] for run, _ in runs]
        results["groups"][name] = {}
        for part in (None, *_parts(groups)):
            queries, reached = figures(groups, part)
            results["groups"][name][part or "all"] = {
                "queries": queries,
                "rows": {
                    row: {what: asdict(value) for what, value in values.items()} for row, values in reached.items()
                },
            }
            heading = f"## {name}" if part is None else f"### {name}: {part}"
            texts.append(f"{heading} ({queries} queries)\n\n{_table(reached)}")
            if part is None:
                panels[name] = {row: values["gain"] for row, values in reached.items()}
    share = inversions.wrong / max(1, inversions.pairs)
    results["drowned"] = asdict(inversions)
    texts.append(
        f"Of {inversions.pairs} pairs of a clicked and a merely predicted item in the memory of queries asked before, "
        f"{share:.1%} have the predicted one first."
    )
    text = "\n\n".join(texts) + "\n"
    (out / "results.json").write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
    (out / "table.md").write_text(text, "utf-8")
    print(text)
    try:
        from services.evaluation.plots import points
    except ImportError:
        return
    points(out / "results.svg", "What memory adds to the static mix", "NDCG@10 - without memory", panels, NO_MEMORY)


def _parts(groups: Sequence[Group]) -> list[str]:
    slices = [query.slice for query in {q.query_id: q for group in groups for q in group.queries}.values()]
    names = sorted(set(slices))
    return [name for name in names if slices.count(name) >= MIN_SLICE_QUERIES] if len(names) > 1 else []


def _table(reached: Mapping[str, Mapping[str, Interval]]) -> str:
    lines = [["parts of the memory", "NDCG@10", "- no memory", "memory's list: NDCG@10", "recall@10", "not empty"]]
    for row, values in reached.items():
        own_list = [f"{values[what].mean:.3f}" for what in ("memory", "recall", "found")]
        gain = "" if row == NO_MEMORY else _format(values["gain"], "+")
        lines.append([row, _format(values["answer"]), gain, *([""] * 3 if row == NO_MEMORY else own_list)])
    return table(lines)


def _format(value: Interval, sign: str = "") -> str:
    return f"{value.mean:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


if __name__ == "__main__":
    try:
        main()
    except (LtrrError, OSError) as error:
        sys.exit(str(error))
