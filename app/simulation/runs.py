"""The rows of a learning table, and one run of one of them: the service lives through simulated traffic, and is then
asked judged queries that nobody asked before."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from app.offline.sandbox import Searched
from app.settings import Settings
from app.simulation.changes import Changes, Shelf
from app.simulation.frontier import frontier, seen
from app.simulation.over_http import served
from app.simulation.world import World, simulated
from app.system.policies import fixed_policy, load_policy
from app.system.system import System
from services.datasets.folder import Dataset, DatasetQuery, state
from services.errors import InvalidRequest
from services.evaluation.compare import traffic
from services.learning import snapshots
from services.policies.base import Policy
from services.policies.fixed import FIXED_COUNTS, FixedPolicy, UniformPolicy
from services.simulation.click_models import click_model
from services.simulation.judge import Judge
from services.simulation.repeats import AFTER, Rounds, sample
from services.simulation.simulate import Course, simulate
from services.simulation.users import Search, Traffic, mix_of

STATIC = "static"
LEARNED = "LTRR"
FORGETFUL = "no memory"
MEASURES = ("ndcg@10", "capped_recall@10")
ALONE = 100
"""Candidates of an arm that is asked alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    help: str
    policy: Callable[[Settings], Policy] | None = None
    """What decides in place of the policy that learns."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    """Arms that are not there."""
    blind: bool = False
    """Whether the policy is told nothing of the request."""
    by_ranks: bool = False
    """Whether the arms' lists are put together by ranks alone."""
    unharmed: bool = False
    """Whether no arm dies."""


ROWS: tuple[Row, ...] = (
    Row(STATIC, "the static mix, tuned on validation; memory learns", fixed_policy),
    Row(LEARNED, "the service as it comes"),
    Row("random", "every allowed count as likely as any other", lambda s: UniformPolicy(budget=s.candidate_budget)),
    Row("no context", "LTRR that knows nothing of the request: one mix, learned", blind=True),
    Row("no exploration", "LTRR that never explores", settings={"exploration": 0.0}),
    Row(FORGETFUL, "LTRR without the memory arm", without=frozenset({"memory"})),
)


def _alone(arm: str) -> Row:
    def policy(settings: Settings) -> Policy:
        return FixedPolicy({arm: ALONE}, settings.candidate_budget)

    return Row(
        f"{arm} alone", f"{ALONE} candidates of {arm}, no other arm; the floor of lexical where it has none", policy
    )


BASELINES: tuple[Row, ...] = (
    *map(_alone, FIXED_COUNTS),
    Row("RRF", "the static counts, lists put together by reciprocal rank fusion", fixed_policy, by_ranks=True),
)
"""Rows that learn nothing but what the memory does, and are not among those of a command that names none."""

UNHARMED = Row("LTRR unharmed", "LTRR whose arms do not die", unharmed=True)


def without(arm: str) -> Row:
    """What an outage of the arm is measured by: a policy that never had it."""
    return Row(f"LTRR without {arm}", f"LTRR that never had the arm {arm}", without=frozenset({arm}))


@dataclass(frozen=True, slots=True)
class Asked:
    """What is simulated."""

    data: Path
    prepared: Path
    work: Path
    out: Path
    impressions: int
    click_model: str = "position"
    noise: float = 0.1
    every: int = 1
    """Of the test queries every so manieth is asked."""
    changes: Changes = field(default_factory=Changes)
    repeats: int = 0
    """Queries a slice that are asked over and over; 0: traffic as users make it."""
    ranker: int = 0
    """Impressions that the ranker in `prepared` was trained on; 0: none is there."""
    ranker_by: str = "both"
    """Who answered them: see app/simulation/ranker.py."""
    http: bool = False
    """Whether it goes through a process that serves."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """All that there are."""
        arms = dict.fromkeys(outage.arm for outage in self.changes.outages)
        return (*ROWS, *BASELINES, *([UNHARMED] if arms else []), *map(without, arms))

    @property
    def said(self) -> str:
        """What makes its runs others than those of another command."""
        data = hashlib.sha256(state(self.data).encode()).hexdigest()[:16]
        what = (
            data,
            self.impressions,
            self.click_model,
            self.noise,
            self.every,
            self.changes,
            self.repeats,
            self.http,
            self.ranker and f"{self.ranker} by {self.ranker_by}",
        )
        return " ".join(map(str, what))


def check(asked: Asked) -> None:
    """Raises InvalidRequest when the data set has not what a simulation needs."""
    dataset = Dataset.open(asked.data)
    drift = asked.changes.drift(dataset, asked.impressions)
    judge = Judge.of(dataset, click_model(asked.click_model, noise=asked.noise), 0, drift)
    for split in ("train", "test"):
        if not any(judge.answerable(query.query_id) for query in dataset.queries(split)):
            raise InvalidRequest(f"{asked.data} has no query of the split {split!r} with something relevant")


def repeating(asked: Asked) -> Asked:
    """As many impressions as it takes to ask every query of the sample once more than the most that is measured."""
    dataset = Dataset.open(asked.data)
    judge = Judge.of(dataset, click_model(asked.click_model, noise=asked.noise), 0)
    queries = sample((q for q in dataset.queries("train") if judge.answerable(q.query_id)), asked.repeats)
    return replace(asked, impressions=len(queries) * (AFTER[-1] + 1))


def run(
    settings: Settings, asked: Asked, name: str, seed: int, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Simulate the row called `name`, measure, and write what was found."""
    (row,) = (row for row in asked.rows if row.name == name)
    asyncio.run((_run_served if asked.http else _run)(settings, asked, row, seed, progress))


def finished(asked: Asked, row: str, seed: int) -> bool:
    """Whether the run is there, and of the same command."""
    path = stem(asked, row, seed)
    if not all(path.with_suffix(ending).exists() for ending in (".npz", ".json")):
        return False
    return bool(orjson.loads(path.with_suffix(".json").read_bytes())["asked"] == asked.said)


def stem(asked: Asked, row: str, seed: int) -> Path:
    return asked.out / "runs" / f"{row.replace(' ', '-')}-{seed}"


async def _run(settings: Settings, asked: Asked, row: Row, seed: int, progress: Callable[[int], None]) -> None:
    own = settings.model_copy(update=dict(row.settings))
    dataset = Dataset.open(asked.data)
    model = click_model(asked.click_model, noise=asked.noise)
    drift = asked.changes.drift(dataset, asked.impressions)
    if row.unharmed:
        drift = replace(drift, outages=())
    judge = Judge.of(dataset, model, seed, drift, own.action_weights)
    train = [query for query in dataset.queries("train") if judge.answerable(query.query_id)]
    test = [query for query in dataset.queries("test") if judge.answerable(query.query_id)]
    world = World(seed, absent=row.without, blind=row.blind, by_ranks=row.by_ranks)
    folder = asked.work / f"{row.name.replace(' ', '-')}-{seed}"
    policy = None if row.policy is None else row.policy(own)
    async with simulated(own, asked.prepared, folder, world, policy) as (system, service):
        shelf = Shelf(dataset.documents(), drift)
        await shelf.clear(service)

        async def before(search: Search) -> None:
            world.dead = drift.dead(search.index)
            await shelf.bring(service, search.index)

        traffic = Rounds(sample(train, asked.repeats)) if asked.repeats else Traffic(train, seed)
        course = await simulate(service, traffic, judge, asked.impressions, before=before, progress=progress)
        await service.learn()
        found: dict[str, NDArray[Any]] = {}
        points: list[dict[str, Any]] = []
        if not asked.repeats:
            found = await _judged(system, own, judge, test[:: asked.every], asked.impressions, policy)
        if not asked.repeats and row.name == LEARNED:
            those = [q for q in dataset.queries("validation") if judge.answerable(q.query_id, asked.impressions)]
            validation, asked_last = [await seen(system, queries[:: asked.every]) for queries in (those, test)]
            points = frontier(judge, asked.impressions, validation, asked_last, _greedy(system, own))
    _write(asked, row, seed, course, found, points)


async def _run_served(settings: Settings, asked: Asked, row: Row, seed: int, progress: Callable[[int], None]) -> None:
    dataset = Dataset.open(asked.data)
    model = click_model(asked.click_model, noise=asked.noise)
    judge = Judge.of(dataset, model, seed, weights=settings.action_weights)
    train, test = ([q for q in dataset.queries(split) if judge.answerable(q.query_id)] for split in ("train", "test"))
    mode = "static" if row.name == STATIC else "learned"
    async with served(settings, asked.prepared, asked.work / f"served-{mode}-{seed}", mode) as service:
        course = await simulate(service, Traffic(train, seed), judge, asked.impressions, progress=progress)
        await service.settle()
        queries = test[:: asked.every]
        found = {f"test_serving_{asked.impressions}": await service.judged(judge, queries, asked.impressions)}
    _write(asked, row, seed, course, found | _weighed(queries, asked.impressions))


def _write(
    asked: Asked,
    row: Row,
    seed: int,
    course: Course,
    found: Mapping[str, NDArray[Any]],
    points: Sequence[Mapping[str, Any]] = (),
) -> None:
    """The facts last, so that they never stand beside the arrays of another command."""
    path = stem(asked, row.name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **cast(Any, course.arrays() | dict(found)))
    partial.replace(path.with_suffix(".npz"))
    facts = {"row": row.name, "seed": seed, "impressions": len(course), "degraded": course.degraded}
    facts |= {"asked": asked.said, "spread": course.spread(), "frontier": points}
    path.with_suffix(".json").write_bytes(orjson.dumps(facts))


async def _judged(
    system: System, settings: Settings, judge: Judge, queries: Sequence[DatasetQuery], done: int, policy: Policy | None
) -> dict[str, NDArray[Any]]:
    """Per query: NDCG@10 of the ranked pool, capped recall of the pool, and the candidates asked for, under the policy
    that would serve and under the same without exploration. Nothing of it is logged or learned."""
    policies: dict[str, Policy] = {"serving": policy or system.switch.learned}
    if policy is None:
        policies["greedy"] = _greedy(system, settings)
    found: dict[str, NDArray[Any]] = {}
    for name, judged in policies.items():
        searched = Searched(system, judged)
        table = np.zeros((len(queries), len(MEASURES) + 1))
        for place, query in enumerate(queries):
            collected = await searched.collect(query)
            ranked, _ = system.search.rank(collected, system.search.active.ranker)
            held = {c.object_id for listed in collected.lists.values() for c in listed}
            ranking = [pooled.object_id for pooled in ranked]
            table[place, 0] = judge.measures(ranking, query.query_id, done, MEASURES[:1])[MEASURES[0]]
            table[place, 1] = judge.measures(list(held), query.query_id, done, MEASURES[1:])[MEASURES[1]]
            table[place, 2] = sum(choice.count for choice in collected.decision.arms.values())
        found[f"test_{name}_{done}"] = table
    return found | _weighed(queries, done)


def _greedy(system: System, settings: Settings) -> Policy:
    """What was learned, without exploration."""
    stored = system.store.current(snapshots.KIND)
    model = None if stored is None else snapshots.read(stored).model
    return load_policy(settings.model_copy(update={"exploration": 0.0}), model)


def _weighed(queries: Sequence[DatasetQuery], done: int) -> dict[str, NDArray[Any]]:
    """Slice and share of traffic of each query."""
    slices = [query.slice for query in queries]
    weights = traffic(slices, [query.weight for query in queries], mix_of(queries))
    return {f"test_slices_{done}": np.array(slices), f"test_weights_{done}": np.array(weights)}
