"""Learning to rank from clicks compared with judgments: rankers trained on simulated clicks on the train queries, with
and without correction for position bias, against one trained on judgments and against the fused order.

Users examine a position with probability 1 / log2(1 + position) and click examined items according to the judge's click
model (an irrelevant item one time in ten). There are two logs: one with answers in the fused order, which is a good
order, and one with answers by popularity, a poor order. Every ranker orders the pools of the test queries, which are
not in the logs; figures are means over these queries with 95 % bootstrap intervals, differences are paired by query.

    python -m evaluation.studies.ranker --data DIR --impressions 100000 --seed 1 --out FOLDER

Results are written to the folder --out: results.json, table.md and results.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import orjson
from numpy.typing import NDArray

from app.cli.train import train_encoders
from app.offline.sandbox import PolicySearch, open_sandbox
from app.settings import Settings
from app.system.policies import fixed_policy
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset, DatasetQuery
from services.errors import LtrrError
from services.evaluation.compare import table
from services.evaluation.intervals import Interval, bootstraps
from services.models.ranker.ensemble import LISTWISE, OBJECTIVES, PARAMETERS, POINTWISE
from services.models.ranker.rows import Group, labelled, split_groups
from services.models.ranker.train import train
from services.models.trained import Trained
from services.rankers.cascade import pool_scores
from services.rankers.features import NAMES, rows
from services.rankers.onnx import FILE, OnnxRanker
from services.rewards.examination import by_position
from services.rewards.rewards import examination
from services.simulation.click_models import click_model
from services.simulation.judge import Judge
from services.simulation.ranker_click_log import (
    LoggedAnswer,
    estimate_examination,
    fused_order,
    ids_by_score,
    popularity_order,
    simulate_answers,
    training_groups,
)
from services.simulation.traffic import Traffic

SPLITS = ("train", "validation", "test")
MEASURES = ("ndcg@10", "judged@10")
LOGS: Mapping[str, Callable[[Group], NDArray[np.int64]]] = {
    "fused order": fused_order,
    "by popularity": popularity_order,
}
FUSION, JUDGMENTS = "fused order, no ranker", "judgements"
CORRECTED, ESTIMATED, NAIVE = "clicks over looks", "clicks over estimated looks", "clicks as they are"
LIST_CORRECTED, LIST_NAIVE = f"{CORRECTED}, LambdaMART", f"{NAIVE}, LambdaMART"
POSITIONS = "clicks, LambdaMART with positions"
LAMBDAMART_TREES = 100
"""Trees of LambdaMART with positions: the best number for LambdaMART on judgments (validation)."""

Scorer = Callable[[Group], Sequence[float] | NDArray[np.floating]]
Pools = Mapping[str, Mapping[str, Group]]
"""Split -> query_id -> pool without labels."""


@dataclass(slots=True)
class Log:
    """The log of answers in one order, and the results of the rankers trained on it."""

    name: str
    clicks: int
    """Number of clicks in the log."""
    curve: list[float]
    """Estimated examination probability per position."""
    reached: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Row -> [queries, measures]."""
    models: dict[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study by `arguments` (default: the command line's) and write its results."""
    parser = argparse.ArgumentParser(
        "python -m evaluation.studies.ranker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set folder with judged queries")
    parser.add_argument(
        "--impressions", type=int, default=100_000, metavar="N", help="answers per log (default: 100000)"
    )
    parser.add_argument("--swaps", type=float, default=0.1, help="share of answers with two items swapped (default .1)")
    parser.add_argument("--eta", type=float, default=1.0, help="severity of the users' position bias (default: 1)")
    parser.add_argument(
        "--split", default="test", choices=SPLITS[1:], help="split of the measured queries (default: test)"
    )
    parser.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        pools = asyncio.run(search_all(Settings.load(), args.data, progress))
        judge = Judge.from_dataset(Dataset.open(args.data), click_model("position", eta=args.eta), args.seed)
        queries = list(Dataset.open(args.data).queries("train"))
        labels = train(
            *(labelled(pools[split].values(), args.data, split) for split in SPLITS[:2]),
            source="labels",
            seed=args.seed,
        )
        logs = [simulate_log(name, pools, queries, judge, labels, args, progress) for name in LOGS]
    write(logs, args.out, vars(args) | {"data": args.data.resolve().name})


async def search_all(settings: Settings, data: Path, progress: Progress) -> dict[str, dict[str, Group]]:
    """Split -> query_id -> pool, by the live search path up to the ranker with the static mix."""
    found: dict[str, dict[str, Group]] = {split: {} for split in SPLITS}
    async with open_sandbox(settings, data, train_encoders, progress, "ranker-study") as system:
        search = PolicySearch(system, fixed_policy(settings), progress)
        for query in Dataset.open(data).queries():
            if query.split in found:
                found[query.split][query.query_id] = await _pool(query, search, system.search.active.schema)
    return found


async def _pool(query: DatasetQuery, search: PolicySearch, schema: Any) -> Group:
    context, pool, documents = await search(query)
    features = rows(context, pool, documents, schema)
    return Group(
        key=query.query_id,
        ids=tuple(pooled.object_id for pooled in pool),
        rows=features,
        gains=np.zeros(len(pool)),
        baseline=features[:, NAMES.index("fused")].astype(np.float64),
    )


def simulate_log(
    name: str,
    pools: Pools,
    queries: Sequence[DatasetQuery],
    judge: Judge,
    labels: Trained,
    args: argparse.Namespace,
    progress: Progress,
) -> Log:
    """Simulate a log in the order LOGS[name], train rankers on it, and measure them."""
    answers: list[LoggedAnswer] = []
    traffic = Traffic(queries, args.seed)
    for answer in simulate_answers(pools["train"], LOGS[name], traffic, judge, args.impressions, args.swaps):
        answers.append(answer)
        if len(answers) % 1000 == 0 or len(answers) == args.impressions:
            progress.done(f"answers, {name}", len(answers))
    examination_curve = estimate_examination(answers, pools["train"])
    log = Log(name, sum(len(answer.clicked) for answer in answers), examination_curve.round(4).tolist())

    def learn(curve: Callable[[int], float], objective: str = POINTWISE) -> Trained:
        trained = _train(answers, pools["train"], args.seed, curve, objective)
        steps.append(trained)
        progress.done(f"rankers, {name}", len(steps))
        return trained

    steps: list[Trained] = []
    models = {
        JUDGMENTS: labels,
        CORRECTED: learn(examination),
        ESTIMATED: learn(by_position(examination_curve)),
        NAIVE: learn(lambda position: 1.0),
        LIST_CORRECTED: learn(examination, LISTWISE),
        LIST_NAIVE: learn(lambda position: 1.0, LISTWISE),
    }
    scorers: dict[str, Scorer] = {row: _scorer(trained) for row, trained in models.items()}
    scorers[POSITIONS] = _train_with_positions(answers, pools["train"], args.seed)
    scorers[FUSION] = lambda pool: pool.baseline
    known = {query_id: pool for query_id, pool in pools[args.split].items() if judge.has_relevant(query_id)}
    for row, score in scorers.items():
        log.reached[row] = np.array(
            [
                list(judge.measures(ids_by_score(pool, score(pool)), query_id, 0, MEASURES).values())
                for query_id, pool in known.items()
            ]
        )
    log.models = {
        row: {what: trained.meta[what] for what in ("objective", "trees", "queries", "gate")}
        for row, trained in models.items()
    }
    return log


def _train(
    answers: Sequence[LoggedAnswer],
    pools: Mapping[str, Group],
    seed: int,
    curve: Callable[[int], float],
    objective: str = POINTWISE,
) -> Trained:
    training, validation = split_groups(training_groups(answers, pools, curve))
    return train(training, validation, source="log", seed=seed, objective=objective)


def _scorer(trained: Trained) -> Scorer:
    ranker = OnnxRanker(trained.files[FILE], trained.meta, "simulated")
    return lambda pool: pool_scores(ranker, pool.rows)


def _train_with_positions(answers: Sequence[LoggedAnswer], pools: Mapping[str, Group], seed: int) -> Scorer:
    """LightGBM's own correction, which estimates the bias of each position while training LambdaMART, answer by answer
    (the model of Wang et al., "Unbiased LambdaMART", WWW 2019)."""
    useful = [answer for answer in answers if answer.clicked]
    labels = [np.isin(np.arange(len(answer.shown)), answer.clicked) for answer in useful]
    data = lightgbm.Dataset(
        np.concatenate([pools[answer.query_id].rows[list(answer.shown)] for answer in useful]),
        label=np.concatenate(labels).astype(np.float64),
        group=[len(answer.shown) for answer in useful],
        position=np.concatenate([np.arange(len(answer.shown)) for answer in useful]),
    )
    booster = lightgbm.train(PARAMETERS | OBJECTIVES[LISTWISE] | {"seed": seed}, data, LAMBDAMART_TREES)
    return lambda pool: np.asarray(booster.predict(pool.rows, raw_score=True, num_threads=1))


def figures(log: Log) -> dict[str, dict[str, Interval]]:
    """Row -> its measures, and its gain in NDCG@10 over the naive ranker and over fusion."""
    names = list(log.reached)
    ndcg = np.column_stack([log.reached[row][:, 0] for row in names])
    judged = np.column_stack([log.reached[row][:, 1] for row in names])
    naive, fused = ndcg[:, [names.index(NAIVE)]], ndcg[:, [names.index(FUSION)]]
    found = bootstraps(np.hstack([ndcg, judged, ndcg - naive, ndcg - fused]))
    parts = {"ndcg@10": 0, "judged@10": 1, "over naive": 2, "over fusion": 3}
    return {row: {what: found[part * len(names) + i] for what, part in parts.items()} for i, row in enumerate(names)}


def write(logs: Sequence[Log], out: Path, options: Mapping[str, Any]) -> None:
    """Write results.json, table.md and, with matplotlib, results.svg; `options` are those of the study."""
    kept = {name: options[name] for name in ("data", "split", "impressions", "swaps", "eta", "seed")}
    results: dict[str, Any] = {"asked": kept, "logs": {}}
    texts, panels = [], {}
    for log in logs:
        reached = figures(log)
        queries = len(next(iter(log.reached.values())))
        results["logs"][log.name] = {
            "queries": queries,
            "clicks": log.clicks,
            "estimated_looks": log.curve,
            "rows": {row: {name: asdict(value) for name, value in values.items()} for row, values in reached.items()},
            "models": log.models,
        }
        head = f"## Log: {log.name}\n\n{kept['impressions']:,} answers, {log.clicks:,} clicks; {queries:,} queries of "
        texts.append(f"{head}{kept['data']}, {kept['split']}\n\n{_table(reached)}\n")
        panels[f"log: {log.name}"] = {row: values["ndcg@10"] for row, values in reached.items()}
    (out / "results.json").write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
    (out / "table.md").write_text("\n".join(texts), "utf-8")
    try:
        from services.evaluation.plots import points
    except ImportError:
        return
    points(out / "results.svg", "Rankers learned from clicks", "NDCG@10", panels, FUSION)


def _table(reached: Mapping[str, Mapping[str, Interval]]) -> str:
    lines = [["trained on", "NDCG@10", "judged@10", "- clicks as they are", "- fused order"]]
    for row, values in reached.items():
        judged = f"{values['judged@10'].mean:.3f}"
        differences = [
            "" if row == base else _format(values[what], "+")
            for what, base in (("over naive", NAIVE), ("over fusion", FUSION))
        ]
        lines.append([row, _format(values["ndcg@10"]), judged, *differences])
    return table(lines)


def _format(value: Interval, sign: str = "") -> str:
    return f"{value.mean:{sign}.4f} [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"


if __name__ == "__main__":
    try:
        main()
    except (LtrrError, OSError) as error:
        sys.exit(str(error))
