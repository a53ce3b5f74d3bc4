"""Runs of judged queries by the live search path: each arm alone, all arms together, the static mix, and the learned
policy and ranker."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.offline.rank_fusion import reciprocal_rank_fusion
from app.offline.sandbox import PolicySearch
from app.settings import Settings
from app.system.model_kinds import RANKER
from app.system.policies import fixed_policy, load_policy
from app.system.stores import model_store
from app.system.system import System
from app.telemetry.progress import Progress
from services.errors import ModelInvalid
from services.evaluation.runs import Run, Scored
from services.learning.snapshots import KIND as POLICY
from services.learning.snapshots import POLICY_FILE
from services.models.ranker.rows import Labelled
from services.models.store import StoredModel
from services.policies.base import Policy
from services.policies.sampling import certain
from services.rankers.base import Ranker
from services.rankers.cascade import pool_scores
from services.rankers.features import rows
from services.rankers.onnx import FILE as RANKER_FILE
from services.rankers.onnx import OnnxRanker
from services.rankers.passthrough import PassthroughRanker
from services.search.state import SearchState
from services.types import ArmChoice, ArmOption

T = TypeVar("T")

ARM_DEPTH = 100
"""Maximum number of candidates of an arm alone."""
ALL_ARMS = "all arms, RRF"
STATIC = "static"
LEARNED = "learned"


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The active models of the service's model store; None where there is none."""

    policy: Policy | None = None
    ranker: Ranker | None = None

    @property
    def versions(self) -> dict[str, str | None]:
        """Kind -> version of each model."""
        found = {POLICY: self.policy, RANKER: self.ranker}
        return {kind: model.version for kind, model in found.items() if model is not None}


@dataclass(slots=True)
class LiveRuns:
    """The results. `runs` in the order of the table: arms, all arms, static, learned."""

    runs: list[Run] = field(default_factory=list)
    counts: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """Policy -> arm -> count -> share of the decisions that chose it: a policy that always decides the same has learned
    nothing."""
    degraded: Counter[str] = field(default_factory=Counter)
    """Number of searches with a failed part, by "arm: reason"."""


def load_models(settings: Settings, progress: Progress) -> LoadedModels:
    """Load the active policy and ranker. A model that this release cannot load is reported and left out."""
    store = model_store(settings)

    def load_active(kind: str, load: Callable[[StoredModel], T]) -> T | None:
        stored = store.current(kind)
        if stored is None:
            return None
        try:
            return load(stored)
        except (ModelInvalid, KeyError) as error:
            progress.note(f"{kind} {stored.version} is left out: {error}")
            return None

    return LoadedModels(
        policy=load_active(POLICY, lambda model: load_policy(settings, model.files[POLICY_FILE], model.version)),
        ranker=load_active(RANKER, lambda model: OnnxRanker(model.files[RANKER_FILE], model.meta, model.version)),
    )


class DeepestPolicy:
    """A policy that requests the largest count up to ARM_DEPTH from every arm, without a budget."""

    name = "deepest"
    version: str | None = None
    survey_share = 0.0

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        """The choices, each with propensity 1."""
        largest = {option.name: max(c for c in option.counts if c <= ARM_DEPTH) for option in options}
        return {o.name: ArmChoice(largest[o.name], 1.0, certain(o.counts, largest[o.name])) for o in options}


async def live_runs(
    system: System, settings: Settings, queries: Sequence[Labelled], models: LoadedModels, progress: Progress
) -> LiveRuns:
    """All rows from the live path of `system`: an arm alone is its own list; all arms are their lists under unweighted
    reciprocal rank fusion; the others are whole pools in ranked order."""
    policies: dict[str, Policy] = {STATIC: fixed_policy(settings)}
    if models.policy is not None:
        policies[LEARNED] = models.policy
    rankers: dict[str, Ranker] = {"": PassthroughRanker()}
    if models.ranker is not None:
        rankers[", ranker"] = models.ranker
    deepest = PolicySearch(system, DeepestPolicy(), progress)
    searched = {name: PolicySearch(system, policy) for name, policy in policies.items()}
    lists: defaultdict[str, dict[str, list[Scored]]] = defaultdict(dict)
    chosen: defaultdict[str, defaultdict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    degraded: Counter[str] = Counter()
    for query in queries:
        everything = await deepest.collect(query)
        degraded.update(_failures(everything))
        for arm in everything.decision.arms:
            lists[arm][query.query_id] = [(c.object_id, c.score) for c in everything.lists.get(arm, ())]
        union = reciprocal_rank_fusion(everything.lists)
        lists[ALL_ARMS][query.query_id] = [(pooled.object_id, pooled.score) for pooled in union]
        for name, search in searched.items():
            found = await search.collect(query)
            degraded.update(_failures(found))
            table = rows(found.context, found.pool, found.documents, found.schema)
            for suffix, ranker in rankers.items():
                scores = pool_scores(ranker, table).tolist()
                lists[name + suffix][query.query_id] = list(zip([p.object_id for p in found.pool], scores, strict=True))
            for arm, choice in found.decision.arms.items():
                chosen[name][arm][choice.count] += 1
    return LiveRuns(
        runs=[Run.of(name, by_query) for name, by_query in lists.items()],
        counts={
            name: {arm: {c: n / len(queries) for c, n in sorted(counts.items())} for arm, counts in arms.items()}
            for name, arms in chosen.items()
        },
        degraded=degraded,
    )


def _failures(found: SearchState) -> list[str]:
    return [f"{failure.arm}: {failure.reason}" for failure in found.degraded]
