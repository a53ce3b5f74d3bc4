"""What the service finds for judged queries: each arm by itself, all of them together, the static mix, and what has
been learned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.offline.rank_fusion import reciprocal_rank_fusion
from app.offline.sandbox import Searched
from app.settings import Settings
from app.system.policies import fixed_policy, load_policy
from app.system.stores import model_store
from app.system.system import System
from app.system.wiring import RANKER
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
from services.search.engine import Collected
from services.types import ArmChoice, ArmOption

T = TypeVar("T")

DEPTH = 100
"""Candidates of each arm by itself."""
TOGETHER = "all arms, RRF"
STATIC = "static"
LEARNED = "learned"


@dataclass(frozen=True, slots=True)
class Served:
    """The models in force where the service keeps its own; None where there is none."""

    policy: Policy | None = None
    ranker: Ranker | None = None

    @property
    def versions(self) -> dict[str, str | None]:
        found = {POLICY: self.policy, RANKER: self.ranker}
        return {kind: model.version for kind, model in found.items() if model is not None}


@dataclass(slots=True)
class Found:
    """`runs` in the order of a table: arms, all arms, static, learned."""

    runs: list[Run] = field(default_factory=list)
    counts: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    """Policy -> arm -> count -> share of the decisions in which it was chosen: a policy that always does the same has
    learned nothing."""
    degraded: Counter[str] = field(default_factory=Counter)
    """Searches that lacked a part, by "arm: reason"."""


def served(settings: Settings, progress: Progress) -> Served:
    """A model that this release cannot use is noted and left out."""
    store = model_store(settings)

    def loaded(kind: str, load: Callable[[StoredModel], T]) -> T | None:
        stored = store.current(kind)
        if stored is None:
            return None
        try:
            return load(stored)
        except (ModelInvalid, KeyError) as error:
            progress.note(f"{kind} {stored.version} is left out: {error}")
            return None

    return Served(
        policy=loaded(POLICY, lambda model: load_policy(settings, model.files[POLICY_FILE], model.version)),
        ranker=loaded(RANKER, lambda model: OnnxRanker(model.files[RANKER_FILE], model.meta, model.version)),
    )


class Deepest:
    """As many candidates as arms give, up to DEPTH each, whatever that costs."""

    name = "deepest"
    version: str | None = None
    curiosity = 0.0

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        most = {option.name: max(c for c in option.counts if c <= DEPTH) for option in options}
        return {o.name: ArmChoice(most[o.name], 1.0, certain(o.counts, most[o.name])) for o in options}


async def live_runs(
    system: System, settings: Settings, queries: Sequence[Labelled], models: Served, progress: Progress
) -> Found:
    """Every row from the live path of `system`: an arm by itself is its own list; all arms are their lists under
    unweighted reciprocal rank fusion; the others are whole pools as the ranker orders them."""
    policies: dict[str, Policy] = {STATIC: fixed_policy(settings)}
    if models.policy is not None:
        policies[LEARNED] = models.policy
    rankers: dict[str, Ranker] = {"": PassthroughRanker()}
    if models.ranker is not None:
        rankers[", ranker"] = models.ranker
    deepest = Searched(system, Deepest(), progress)
    searched = {name: Searched(system, policy) for name, policy in policies.items()}
    lists: defaultdict[str, dict[str, list[Scored]]] = defaultdict(dict)
    chosen: defaultdict[str, defaultdict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    degraded: Counter[str] = Counter()
    for query in queries:
        everything = await deepest.collect(query)
        degraded.update(_lacking(everything))
        for arm in everything.decision.arms:
            lists[arm][query.query_id] = [(c.object_id, c.score) for c in everything.lists.get(arm, ())]
        union = reciprocal_rank_fusion(everything.lists)
        lists[TOGETHER][query.query_id] = [(pooled.object_id, pooled.score) for pooled in union]
        for name, search in searched.items():
            found = await search.collect(query)
            degraded.update(_lacking(found))
            table = rows(found.context, found.pool, found.documents, found.schema)
            for suffix, ranker in rankers.items():
                scores = pool_scores(ranker, table).tolist()
                lists[name + suffix][query.query_id] = list(zip([p.object_id for p in found.pool], scores, strict=True))
            for arm, choice in found.decision.arms.items():
                chosen[name][arm][choice.count] += 1
    return Found(
        runs=[Run.of(name, by_query) for name, by_query in lists.items()],
        counts={
            name: {arm: {c: n / len(queries) for c, n in sorted(counts.items())} for arm, counts in arms.items()}
            for name, arms in chosen.items()
        },
        degraded=degraded,
    )


def _lacking(found: Collected) -> list[str]:
    return [f"{lack.arm}: {lack.reason}" for lack in found.degraded]
