"""The variants that a learning table compares, and one run of a variant: the service processes simulated traffic, and
is then measured on judged queries that did not occur in it."""

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

from app.offline.sandbox import PolicySearch
from app.settings import Settings
from app.simulation.changes import Changes, LateArrivals
from app.simulation.in_process import World, open_copy
from app.simulation.over_http import open_served_copy
from app.simulation.recall_frontier import frontier, probe_queries
from app.system.policies import fixed_policy, load_policy
from app.system.system import System
from services.datasets.folder import Dataset, DatasetQuery, state
from services.errors import InvalidRequest
from services.evaluation.compare import traffic_weights
from services.learning import snapshots
from services.policies.base import Policy
from services.policies.fixed import FIXED_COUNTS, FixedPolicy, UniformPolicy
from services.simulation.click_models import click_model
from services.simulation.judge import Judge
from services.simulation.loop import RunMetrics, simulate
from services.simulation.repeated_queries import REPEAT_COUNTS, RepeatTraffic, sample_queries
from services.simulation.traffic import Search, Traffic, traffic_mix

STATIC = "static"
LEARNED = "LTRR"
NO_MEMORY = "no memory"
MEASURES = ("ndcg@10", "capped_recall@10")
SINGLE_ARM_COUNT = 100
"""Candidates from an arm that is the only one."""


@dataclass(frozen=True, slots=True)
class Row:
    """A variant of the service: one row of the learning table."""

    name: str
    help: str
    policy: Callable[[Settings], Policy] | None = None
    """Replaces the learned policy."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    """Arms that the service does not have."""
    hide_context: bool = False
    """Whether the policy gets no features of the request."""
    fuse_by_rank: bool = False
    """Whether the arms' lists are fused by rank alone."""
    no_outages: bool = False
    """Whether no outage is simulated."""


DEFAULT_ROWS: tuple[Row, ...] = (
    Row(STATIC, "the static mix, tuned on validation; memory learns", fixed_policy),
    Row(LEARNED, "the service with default settings"),
    Row("random", "every allowed count with equal probability", lambda s: UniformPolicy(budget=s.candidate_budget)),
    Row("no context", "LTRR without features of the request: one learned mix", hide_context=True),
    Row("no exploration", "LTRR that never explores", settings={"exploration": 0.0}),
    Row(NO_MEMORY, "LTRR without the memory arm", without=frozenset({"memory"})),
)


def _single_arm(arm: str) -> Row:
    def policy(settings: Settings) -> Policy:
        return FixedPolicy({arm: SINGLE_ARM_COUNT}, settings.candidate_budget)

    return Row(
        f"{arm} alone",
        f"{SINGLE_ARM_COUNT} candidates of {arm}, no other arm; the lexical minimum where it is unavailable",
        policy,
    )


BASELINES: tuple[Row, ...] = (
    *map(_single_arm, FIXED_COUNTS),
    Row("RRF", "the static counts, lists fused by reciprocal rank fusion", fixed_policy, fuse_by_rank=True),
)
"""Rows in which only the click memory learns; not among the defaults of the command."""

NO_OUTAGES = Row("LTRR unharmed", "LTRR without the simulated outages", no_outages=True)


def without(arm: str) -> Row:
    """The reference row for an outage of the arm: a policy that never had it."""
    return Row(f"LTRR without {arm}", f"LTRR that never had the arm {arm}", without=frozenset({arm}))


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Specification of a simulation."""

    data: Path
    prepared: Path
    work: Path
    out: Path
    impressions: int
    click_model: str = "position"
    noise: float = 0.1
    every: int = 1
    """Measure every N-th test query."""
    changes: Changes = field(default_factory=Changes)
    repeats: int = 0
    """Queries per slice that are repeated over and over; 0: traffic of simulated users."""
    ranker: int = 0
    """Impressions that the ranker in `prepared` was trained on; 0: there is no ranker."""
    ranker_by: str = "both"
    """Policy that answered those impressions: see app/simulation/ranker_training.py."""
    http: bool = False
    """Whether to use a serving process over HTTP."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows that this specification can have."""
        arms = dict.fromkeys(outage.arm for outage in self.changes.outages)
        return (*DEFAULT_ROWS, *BASELINES, *([NO_OUTAGES] if arms else []), *map(without, arms))

    @property
    def fingerprint(self) -> str:
        """Text that identifies the runs of this specification."""
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


def check(spec: RunSpec) -> None:
    """Raises InvalidRequest when the data set lacks what a simulation needs."""
    dataset = Dataset.open(spec.data)
    drift = spec.changes.drift(dataset, spec.impressions)
    judge = Judge.from_dataset(dataset, click_model(spec.click_model, noise=spec.noise), 0, drift)
    for split in ("train", "test"):
        if not any(judge.has_relevant(query.query_id) for query in dataset.queries(split)):
            raise InvalidRequest(f"{spec.data} has no query of the split {split!r} with something relevant")


def with_repeat_impressions(spec: RunSpec) -> RunSpec:
    """The specification with enough impressions to measure every sampled query at each of REPEAT_COUNTS."""
    dataset = Dataset.open(spec.data)
    judge = Judge.from_dataset(dataset, click_model(spec.click_model, noise=spec.noise), 0)
    queries = sample_queries((q for q in dataset.queries("train") if judge.has_relevant(q.query_id)), spec.repeats)
    return replace(spec, impressions=len(queries) * (REPEAT_COUNTS[-1] + 1))


def run(
    settings: Settings, spec: RunSpec, name: str, seed: int, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Simulate the row called `name`, measure it, and write the results. `progress` gets the number of searches
    done."""
    (row,) = (row for row in spec.rows if row.name == name)
    asyncio.run((_run_served if spec.http else _run)(settings, spec, row, seed, progress))


def is_finished(spec: RunSpec, row: str, seed: int) -> bool:
    """Whether the results of the run exist and belong to the same specification."""
    path = run_path(spec, row, seed)
    if not all(path.with_suffix(ending).exists() for ending in (".npz", ".json")):
        return False
    return bool(orjson.loads(path.with_suffix(".json").read_bytes())["asked"] == spec.fingerprint)


def run_path(spec: RunSpec, row: str, seed: int) -> Path:
    """Path of the run's results without suffix: .npz has the arrays, .json the rest."""
    return spec.out / "runs" / f"{row.replace(' ', '-')}-{seed}"


async def _run(settings: Settings, spec: RunSpec, row: Row, seed: int, progress: Callable[[int], None]) -> None:
    own = settings.model_copy(update=dict(row.settings))
    dataset = Dataset.open(spec.data)
    model = click_model(spec.click_model, noise=spec.noise)
    drift = spec.changes.drift(dataset, spec.impressions)
    if row.no_outages:
        drift = replace(drift, outages=())
    judge = Judge.from_dataset(dataset, model, seed, drift, own.action_weights)
    train = [query for query in dataset.queries("train") if judge.has_relevant(query.query_id)]
    test = [query for query in dataset.queries("test") if judge.has_relevant(query.query_id)]
    world = World(seed, missing_arms=row.without, hide_context=row.hide_context, fuse_by_rank=row.fuse_by_rank)
    folder = spec.work / f"{row.name.replace(' ', '-')}-{seed}"
    policy = None if row.policy is None else row.policy(own)
    async with open_copy(own, spec.prepared, folder, world, policy) as (system, service):
        late_arrivals = LateArrivals(dataset.documents(), drift)
        await late_arrivals.remove_all(service)

        async def before(search: Search) -> None:
            world.failed_arms = drift.failed_arms(search.index)
            await late_arrivals.add_arrived(service, search.index)

        traffic = RepeatTraffic(sample_queries(train, spec.repeats)) if spec.repeats else Traffic(train, seed)
        metrics = await simulate(service, traffic, judge, spec.impressions, before=before, progress=progress)
        await service.learn()
        found: dict[str, NDArray[Any]] = {}
        points: list[dict[str, Any]] = []
        if not spec.repeats:
            found = await _measure_queries(system, own, judge, test[:: spec.every], spec.impressions, policy)
        if not spec.repeats and row.name == LEARNED:
            those = [q for q in dataset.queries("validation") if judge.has_relevant(q.query_id, spec.impressions)]
            validation, test_probes = [await probe_queries(system, queries[:: spec.every]) for queries in (those, test)]
            points = frontier(judge, spec.impressions, validation, test_probes, _greedy(system, own))
    _write(spec, row, seed, metrics, found, points)


async def _run_served(settings: Settings, spec: RunSpec, row: Row, seed: int, progress: Callable[[int], None]) -> None:
    dataset = Dataset.open(spec.data)
    model = click_model(spec.click_model, noise=spec.noise)
    judge = Judge.from_dataset(dataset, model, seed, weights=settings.action_weights)
    train, test = ([q for q in dataset.queries(split) if judge.has_relevant(q.query_id)] for split in ("train", "test"))
    mode = "static" if row.name == STATIC else "learned"
    async with open_served_copy(settings, spec.prepared, spec.work / f"served-{mode}-{seed}", mode) as service:
        metrics = await simulate(service, Traffic(train, seed), judge, spec.impressions, progress=progress)
        await service.settle()
        queries = test[:: spec.every]
        found = {f"test_serving_{spec.impressions}": await service.measure_queries(judge, queries, spec.impressions)}
    _write(spec, row, seed, metrics, found | _query_weights(queries, spec.impressions))


def _write(
    spec: RunSpec,
    row: Row,
    seed: int,
    metrics: RunMetrics,
    found: Mapping[str, NDArray[Any]],
    points: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the JSON last, so that it never accompanies the arrays of another specification."""
    path = run_path(spec, row.name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **cast(Any, metrics.arrays() | dict(found)))
    partial.replace(path.with_suffix(".npz"))
    facts = {"row": row.name, "seed": seed, "impressions": len(metrics), "degraded": metrics.degraded}
    facts |= {"asked": spec.fingerprint, "spread": metrics.count_shares(), "frontier": points}
    path.with_suffix(".json").write_bytes(orjson.dumps(facts))


async def _measure_queries(
    system: System, settings: Settings, judge: Judge, queries: Sequence[DatasetQuery], done: int, policy: Policy | None
) -> dict[str, NDArray[Any]]:
    """NDCG@10 of the ranked pool, capped recall of the pool, and candidates requested, [queries, 3], for the policy as
    it serves and for the same policy without exploration. Nothing of it is logged or learned."""
    policies: dict[str, Policy] = {"serving": policy or system.switch.learned}
    if policy is None:
        policies["greedy"] = _greedy(system, settings)
    found: dict[str, NDArray[Any]] = {}
    for name, judged in policies.items():
        searched = PolicySearch(system, judged)
        table = np.zeros((len(queries), len(MEASURES) + 1))
        for place, query in enumerate(queries):
            collected = await searched.collect(query)
            ranked, _ = system.search.rank(collected, system.search.active.ranker)
            union = {c.object_id for listed in collected.lists.values() for c in listed}
            ranking = [pooled.object_id for pooled in ranked]
            table[place, 0] = judge.measures(ranking, query.query_id, done, MEASURES[:1])[MEASURES[0]]
            table[place, 1] = judge.measures(list(union), query.query_id, done, MEASURES[1:])[MEASURES[1]]
            table[place, 2] = sum(choice.count for choice in collected.decision.arms.values())
        found[f"test_{name}_{done}"] = table
    return found | _query_weights(queries, done)


def _greedy(system: System, settings: Settings) -> Policy:
    """The learned policy without exploration."""
    stored = system.store.current(snapshots.KIND)
    model = None if stored is None else snapshots.read(stored).model
    return load_policy(settings.model_copy(update={"exploration": 0.0}), model)


def _query_weights(queries: Sequence[DatasetQuery], done: int) -> dict[str, NDArray[Any]]:
    """Slice and share of traffic of each query, [queries] each."""
    slices = [query.slice for query in queries]
    weights = traffic_weights(slices, [query.weight for query in queries], traffic_mix(queries))
    return {f"test_slices_{done}": np.array(slices), f"test_weights_{done}": np.array(weights)}
