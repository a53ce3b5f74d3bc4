"""A process whose product has one arm more, added as any arm is: a class, a profile, a constructor. It goes on with the
data folder of a service that did not know the arm, and prints what it sees as JSON.

Arguments: the data folder; a file with what is to be done (JSON, see `main`).
"""

# ruff: noqa: E402

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from services import arm_profiles
from services.arm_profiles import ARM_PROFILES, ArmProfile

NAME = "newest"
STATIC_COUNT = 5
LESSONS = 200
DAYS = 3 * 86400.0
*EARLIER, LAST = ARM_PROFILES
arm_profiles.ARM_PROFILES = (
    *EARLIER,
    ArmProfile(NAME, len(ARM_PROFILES) + 1, fusion_weight=0.5, static_count=STATIC_COUNT, colours=("#123", "#def")),
    LAST,
)

import numpy as np

from services.arms import registry
from services.backends.base import IndexQuery, LexicalIndex
from services.types import CANDIDATE_COUNTS, ArmOption, Candidate, Context, Deadline, Query, Survey


class NewestArm:
    name = NAME
    counts = CANDIDATE_COUNTS

    def __init__(self, index: LexicalIndex) -> None:
        self._index = index

    def available(self, context: Context) -> bool:
        return True

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """The newest items, their scores falling with their rank."""
        query = IndexQuery(filters=context.query.filters, limit=count, newest=True)
        found = await self._index.search(query, deadline)
        return [Candidate(c.object_id, 1.0 / rank) for rank, c in enumerate(found.candidates, 1)]


registry.CONSTRUCTORS[NAME] = lambda parts: NewestArm(parts.lexical)

from app.settings import Settings
from app.system.model_kinds import RANKER
from app.system.policies import fixed_policy, load_policy
from app.system.surroundings import Surroundings
from app.system.wiring import opened
from services.backends.base import EventLog
from services.learning.snapshots import KIND, POLICY_FILE
from services.models.store import ModelStore
from services.offpolicy.logged import arrays, propose, read
from services.offpolicy.replay import Report, replay
from services.policies.base import FACTS, Outcome, part
from services.policies.fixed import FIXED_COUNTS, FixedPolicy
from services.policies.relevance import featurize
from services.policies.vw import VWPolicy
from services.rankers.features import NAMES
from services.rankers.onnx import FILE, OnnxRanker
from tests.service import running


def main(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """given: `settings` of the service; `searches`, bodies of searches; `rows`, rows of the ranker's table as it was;
    `contexts`, features of requests; `surveys`, ranks and facts of a survey for each."""
    store = ModelStore(folder / "models")
    model = store.current(KIND).files[POLICY_FILE]
    return {
        "names": NAMES,
        "ranker": rank(store, given["rows"]),
        "policy": decide(model, given["settings"]["candidate_price"], given["contexts"]),
        "relevance": relevance(model, given["contexts"], given["surveys"]),
        "learning": learn_more(model, given["settings"]["candidate_price"], given["contexts"][0]),
        "as_before": answer(folder, given["settings"], given["searches"]),
        "going_on": go_on(folder, given["settings"]),
        "learned": asyncio.run(settle(Settings.load({}, data_dir=folder, **given["settings"]), model)),
    }


def rank(store: ModelStore, rows: list[list[float]]) -> list[list[float]]:
    """Scores of the stored ranker for `rows` that the new arm has nothing, and much, to say of."""
    stored = store.current(RANKER)
    ranker = OnnxRanker(stored.files[FILE], stored.meta, stored.version)
    table = np.asarray(rows, dtype=np.float32)
    more = np.ones((len(rows), len(NAMES) - table.shape[1]), dtype=np.float32)
    return [ranker.score(np.hstack([table, fill * more])).tolist() for fill in (0.0, 7.0)]


def decide(model: bytes, price: float, contexts: list[dict[str, float]]) -> dict[str, Any]:
    """Predictions of the stored policy where the static mix does not use the new arm, as before."""
    policy = VWPolicy(FixedPolicy(dict(FIXED_COUNTS) | {NAME: 0}), exploration=0.0, price=price, model=model)
    options = [ArmOption(profile.name, CANDIDATE_COUNTS) for profile in arm_profiles.ARM_PROFILES]
    earlier = [option for option in options if option.name != NAME]
    without = policy.plans.counts[:, policy.plans.arms.index(NAME)] == 0
    return {
        "arms": policy.plans.arms,
        "plans": len(policy.plans),
        "with_it": int((~without).sum()),
        "chosen": [policy.plan(features | {f"has_{NAME}": 1.0}, options) for features in contexts],
        "chosen_of_earlier": [policy.plan(features, earlier) for features in contexts],
        "worths": [policy.worth(features)[without].tolist() for features in contexts],
        "requests": policy.kinds.requests,
    }


def relevance(model: bytes, contexts: list[dict[str, float]], surveys: list[list[Any]]) -> list[list[float]]:
    """How likely the stored policy thinks each item of each survey is wanted, where none was shown."""
    policy = VWPolicy(FixedPolicy(), model=model)
    nothing = np.zeros(0)
    found = []
    for features, (ranks, facts) in zip(contexts, surveys, strict=True):
        request_features = featurize(features, Survey("q", 0.0, ranks, facts, ()))
        found.append(policy.relevance.wanted(request_features, [], nothing, nothing).tolist())
    return found


def learn_more(model: bytes, price: float, features: dict[str, float]) -> dict[str, Any]:
    """The new arm alone finds what is wanted from now on, and the static mix does not ask it: what a plan that asks it
    alone is thought to be worth, lesson by lesson."""
    static = FixedPolicy(dict(FIXED_COUNTS) | {NAME: 0})
    policy = VWPolicy(static, exploration=0.0, price=price, model=model)
    options = [ArmOption(profile.name, CANDIDATE_COUNTS) for profile in arm_profiles.ARM_PROFILES]
    features = features | {f"has_{NAME}": 1.0}
    before = policy.plan(features, options)[NAME]
    items = 40
    ranks = {"lexical": (0,) * 5 + tuple(range(1, items - 4)), NAME: tuple(range(1, 6)) + (0,) * (items - 5)}
    facts = dict.fromkeys(FACTS, (0.0,) * items)
    facts |= {part(NAME): (1.0,) * 5 + (0.0,) * (items - 5), part("lexical"): (0.0,) * 5 + (0.1,) * (items - 5)}
    survey = Survey("q", 0.0, ranks, facts, tuple(range(10)))
    outcome = Outcome(features, survey, (1.0,) * 10, (1.0,) * 5 + (0.0,) * 5)
    alone = policy.plans.counts.tolist().index([5 if arm == NAME else 0 for arm in policy.plans.arms])
    worths = [policy.worth(features)[alone]]
    for _ in range(LESSONS):
        policy.learn(outcome)
        worths.append(policy.worth(features)[alone])
    restored = VWPolicy(static, exploration=0.0, price=price, model=policy.dump())
    for each in (policy, restored):
        each.learn(outcome)
    return {
        "before": before,
        "after": policy.plan(features, options)[NAME],
        "worths": worths,
        "restored_alike": policy.dump() == restored.dump(),
    }


def answer(folder: Path, settings: dict[str, Any], searches: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers of the service that starts from the stored state, before it learns anything more."""
    with running(folder, **settings | {"exploration": 0.0}) as service:
        metrics = service.request("GET", "/metrics").text
        answers = [service.search(**body) for body in searches]
        report = service.run(replayed(service.settings, service.system.log, service.system.store))
        return {
            "report": [report.checked, report.drawn, report.recomputed, report.computed, len(report.mismatches)],
            "metrics": [line for line in metrics.splitlines() if f'arm="{NAME}"' in line],
            "styles": service.request("GET", "/static/arms.css").text,
            "versions": [service.system.search.active.ranker.version, service.system.switch.learned.version],
            "answers": answers,
        }


def go_on(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The service explores, is clicked and surveys."""
    with running(folder, **settings | {"exploration": 0.5}) as service:
        explored = [service.search("winter song") for _ in range(40)]
        service.request("PUT", "/v1/policy", json={"mode": "static"})
        static = service.search("winter song", explain=True, limit=50)
        found = next(hit for hit in static["hits"] if NAME in hit["arms"])
        event = {"event_id": "e", "query_id": static["query_id"], "action_name": "click"}
        event["object_id"] = found["object_id"]
        statuses = service.feedback(event)
        service.run(service.system.surveyor.catch_up())
        explained = service.request("GET", f"/v1/explain/{static['query_id']}").json()
        console = service.request("GET", "/pages/activity").json()
        return {
            "explored": sorted({a["decision"]["arms"][NAME]["count"] for a in explored}),
            "static": {name: choice["count"] for name, choice in static["decision"]["arms"].items()},
            "statuses": statuses,
            "features": next(h["features"] for h in explained["hits"] if h["object_id"] == found["object_id"]),
            "console": [console["activity"]["arms"], sorted(console["process"]["arms"])],
        }


async def settle(settings: Settings, first: bytes) -> dict[str, Any]:
    """Some days later all reward windows have closed, those that were opened before the arm was added as well. `first`:
    the model of that time."""
    later = Surroundings(clock=lambda: time.time() + DAYS)
    async with opened(settings, learning=False, surroundings=later) as system:
        await system.search.answer(Query("river", learn=False, timeout=10.0))
        await system.learner.catch_up()
        version = await system.learner.publish()
        end, _ = await system.log.end()
        records = [record for _, record in await system.log.read(0, end)]
        model = system.store.load(KIND, version).files[POLICY_FILE]
        return {
            "surveys": [[sorted(r.ranks), sorted(r.facts)] for r in records if isinstance(r, Survey)],
            "skipped": (await system.learner.observe()).skipped,
            "requests": load_policy(settings, model).kinds.requests,
            "model": model.hex(),
            "proposed": [await propose_all(settings, system.log, load_policy(settings, m)) for m in (first, model)],
        }


async def replayed(settings: Settings, log: EventLog, store: ModelStore) -> Report:
    """The whole log, decisions that did not know the arm among it."""

    def learned(version: str) -> VWPolicy:
        return load_policy(settings, store.load(KIND, version).files[POLICY_FILE], version)

    return await replay(log, fixed_policy(settings), learned)


async def propose_all(settings: Settings, log: EventLog, policy: VWPolicy) -> list[Any]:
    """How likely `policy` would have taken the decisions of the log whose windows have closed: per decision whether it
    knew the arm, and the probability of its counts."""
    weights = settings.action_weights
    attribution = settings.attribution_seconds
    decided = await read(log, attribution=attribution, weights=weights, price=settings.candidate_price, cap=1000)
    logged = arrays(decided)
    proposal = await asyncio.to_thread(propose, policy, logged)
    knew = [NAME in one.choices for one in logged.decisions]
    return list(zip(knew, proposal.propensities.prod(axis=1).tolist(), strict=True))


if __name__ == "__main__":
    data, task = map(Path, sys.argv[1:])
    print(json.dumps(main(data, json.loads(task.read_text())), default=list))
