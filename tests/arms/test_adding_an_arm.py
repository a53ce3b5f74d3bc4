"""An arm more, and nothing that was learned without it is lost.

What is there before comes from this process, which has the arms of the product; what becomes of it, from another one
that has one more (one_more_arm.py).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.system.model_kinds import RANKER
from services.arm_profiles import ARM_PROFILES
from services.errors import ModelInvalid
from services.learning import snapshots
from services.models.ranker.rows import Group
from services.models.ranker.train import train
from services.models.store import ModelStore
from services.policies.base import FACTS, PLAN_ARMS, Outcome, part
from services.policies.fixed import FixedPolicy
from services.policies.relevance import featurize
from services.policies.vw import MIN_SURVEYS, VWPolicy
from services.rankers.features import NAMES
from services.rankers.onnx import FILE, OnnxRanker
from services.rewards.quota import PrincipalQuota
from services.types import CANDIDATE_COUNTS, ArmOption, Impression, Survey
from tests.commands import ROOT
from tests.service import with_tracks

NEW = "newest"
STATIC_COUNT = 5
PRICE = 0.002
SETTINGS = {"exploration": 0.0, "candidate_price": PRICE, "survey_share": 1.0, "attribution_seconds": 3600.0}
LESSONS = MIN_SURVEYS + 50
QUERIES = ("winter song", "mira holt", "80s folk", "lantern", "nils aster ambient", "garden river")
SEARCHES = [{"query": text, "explain": True, "learn": False, "user_id": "ann"} for text in QUERIES]
PATIENCE = 240.0


def request_features(rng: random.Random) -> dict[str, float]:
    kind = "slot_keyword" if rng.random() < 0.5 else "slots_none"
    available = {f"has_{profile.name}": 1.0 for profile in ARM_PROFILES}
    return {kind: 1.0, "rarity_max": round(rng.random(), 6), "tokens": 0.2} | available


def lesson(rng: random.Random) -> Outcome:
    """Structured finds what is wanted where the query names a value; elsewhere lexical does."""
    features = request_features(rng)
    items = 40
    good, poor = ("structured", "lexical") if "slot_keyword" in features else ("lexical", "structured")
    ranks = {good: tuple(range(1, items + 1)), poor: (0,) * 10 + tuple(range(1, items - 9)), "explore": (0,) * items}
    facts = {name: tuple(round(rng.random(), 3) for _ in range(items)) for name in FACTS}
    for arm in (good, poor):
        facts[part(arm)] = tuple(round(0.4 - 0.01 * rank, 3) if rank else 0.0 for rank in ranks[arm])
    clicked = tuple(float(place < 4 and rng.random() < 0.6) for place in range(10))
    looked = tuple(1.0 / np.log2(place + 2) for place in range(10))
    return Outcome(features, Survey("q", 0.0, ranks, facts, tuple(range(10))), looked, clicked)


def group(key: int) -> Group:
    rng = np.random.default_rng(key)
    rows = rng.random((20, len(NAMES)), dtype=np.float32)
    title, vector = (rows[:, NAMES.index(name)] for name in ("title_query_share", "vector_scaled"))
    ids = tuple(f"{place:02}" for place in range(20))
    gains = (title + 0.5 * vector > 1.0).astype(float)
    return Group(str(key), ids, rows, gains, baseline=rows[:, NAMES.index("fused")].astype(float))


@dataclass(frozen=True)
class Before:
    policy: VWPolicy
    snapshot: str
    ranker: OnnxRanker
    rows: np.ndarray
    contexts: list[dict[str, float]]
    surveys_of_contexts: list[Survey]
    answers: list[dict[str, Any]]
    surveys: int
    decisions: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one_more_arm") / "var"


@pytest.fixture(scope="module")
def before(folder: Path) -> Before:
    """A service with a trained ranker, a policy that has learned, and surveys that it has yet to learn from."""
    store = ModelStore(folder / "models")
    trained = train([group(key) for key in range(80)], [group(key) for key in range(100, 130)], source="log", trees=20)
    version = store.publish(RANKER, trained.files, trained.meta)
    store.promote(RANKER, version, "test")
    rng = random.Random(3)
    policy = VWPolicy(FixedPolicy(), price=PRICE, exploration=0.0)
    for _ in range(LESSONS):
        policy.learn(lesson(rng))
    snapshot = snapshots.Snapshot(0, 1, LESSONS, PrincipalQuota(0, {}), policy.dump())
    snapshots.write(store, snapshot, {"learned": LESSONS}, "test")
    with with_tracks(folder, **SETTINGS) as service:
        for text in QUERIES * 2:
            answer = service.search(text, user_id="ann")
            event = {"event_id": answer["query_id"], "query_id": answer["query_id"], "action_name": "click"}
            assert service.feedback(event | {"object_id": answer["hits"][0]["object_id"]}) == ["accepted"]
            service.run(service.system.learner.catch_up(policy=False))
        service.run(service.system.surveyor.catch_up())
        answers = [service.search(**body) for body in SEARCHES]

        async def records() -> list[Any]:
            end, _ = await service.system.log.end()
            return [record for _, record in await service.system.log.read(0, end)]

        logged = service.run(records())
    lessons = [lesson(rng) for _ in range(40)]
    impressions = [record for record in logged if isinstance(record, Impression)]
    rows = np.asarray([row for impression in impressions for row in impression.rows], dtype=np.float32)
    return Before(
        policy=policy,
        snapshot=str(store.current_version(snapshots.KIND)),
        ranker=OnnxRanker(trained.files[FILE], trained.meta, version),
        rows=np.vstack([rows, group(7).rows]),
        contexts=[dict(one.features) for one in lessons],
        surveys_of_contexts=[one.survey for one in lessons if one.survey is not None],
        answers=answers,
        surveys=sum(isinstance(record, Survey) for record in logged),
        decisions=len(impressions),
    )


@pytest.fixture(scope="module")
def after(folder: Path, before: Before) -> dict[str, Any]:
    """Results of the process with the additional arm."""
    task = folder.parent / "task.json"
    given = {"settings": SETTINGS, "searches": SEARCHES, "rows": before.rows.tolist(), "contexts": before.contexts}
    given["surveys"] = [(survey.ranks, survey.facts) for survey in before.surveys_of_contexts]
    task.write_text(json.dumps(given))
    ended = subprocess.run(
        [sys.executable, "-m", "tests.arms.one_more_arm", str(folder), str(task)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("LTRR_")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def counts(answer: Mapping[str, Any]) -> dict[str, int]:
    return {arm: choice["count"] for arm, choice in answer["decision"]["arms"].items()}


def test_there_is_something_to_lose(before: Before) -> None:
    """Else the tests below would prove nothing."""
    options = [ArmOption(profile.name, CANDIDATE_COUNTS) for profile in ARM_PROFILES]
    static = {profile.name: profile.static_count for profile in ARM_PROFILES}
    plans = [before.policy.plan(features, options) for features in before.contexts]
    assert static not in plans
    assert len({json.dumps(plan) for plan in plans}) > 1
    assert any(counts(answer) != static for answer in before.answers)
    assert before.surveys >= 1
    assert len(set(before.ranker.score(before.rows).tolist())) > 10


def test_its_columns_stand_last(after: dict[str, Any]) -> None:
    assert after["names"] == [*NAMES, *(f"{NEW}_{what}" for what in ("scaled", "raw", "rank", "has"))]


def test_a_ranker_scores_as_before(before: Before, after: dict[str, Any]) -> None:
    scores = before.ranker.score(before.rows).tolist()
    assert after["ranker"] == [scores, scores]


def test_a_policy_decides_as_before(before: Before, after: dict[str, Any]) -> None:
    options = [ArmOption(profile.name, CANDIDATE_COUNTS) for profile in ARM_PROFILES]
    plans = [before.policy.plan(features, options) for features in before.contexts]
    found = after["policy"]
    assert found["requests"] == LESSONS
    assert found["chosen"] == [plan | {NEW: 0} for plan in plans]
    assert found["chosen_of_earlier"] == plans
    for worth, features in zip(found["worths"], before.contexts, strict=True):
        assert worth == before.policy.worth(features).tolist()


def test_what_is_wanted_is_judged_as_before(before: Before, after: dict[str, Any]) -> None:
    nothing = np.zeros(0)
    judged = after["relevance"]
    assert len(judged) == len(before.contexts)
    for found, features, survey in zip(judged, before.contexts, before.surveys_of_contexts, strict=True):
        expected = before.policy.relevance.wanted(featurize(features, survey), [], nothing, nothing)
        assert found == pytest.approx(expected.tolist(), abs=1e-12)


def test_plans_ask_it(after: dict[str, Any]) -> None:
    arms = len(PLAN_ARMS) + 1
    steps = len(CANDIDATE_COUNTS) - 1
    assert after["policy"]["arms"] == [*PLAN_ARMS[:-1], NEW, PLAN_ARMS[-1]]
    assert after["policy"]["plans"] == arms * steps + arms * (arms - 1) // 2 * steps**2 + 1
    assert after["policy"]["with_it"] == steps + (arms - 1) * steps**2


def test_what_it_finds_is_learned(after: dict[str, Any]) -> None:
    learning = after["learning"]
    assert learning["before"] == 0
    assert learning["worths"][0] == 0.0
    assert learning["worths"][-1] > 0.9
    assert learning["after"] > 0
    assert learning["restored_alike"]


def test_the_service_answers_as_before(before: Before, after: dict[str, Any]) -> None:
    """Learned mode without exploration gives the same counts, hits, scores and explanations."""
    found = after["as_before"]
    assert found["versions"] == [before.ranker.version, before.snapshot]
    for was, now in zip(before.answers, found["answers"], strict=True):
        static = counts(was) == {profile.name: profile.static_count for profile in ARM_PROFILES}
        assert not static, "the static mix asks the new arm as well"
        assert counts(now) == counts(was) | {NEW: 0}
        assert now["hits"] == was["hits"]
        assert now["total"] == was["total"]


def test_old_decisions_are_reproduced_from_the_log(before: Before, after: dict[str, Any]) -> None:
    checked = before.decisions + len(SEARCHES)
    assert after["as_before"]["report"] == [checked, checked, checked, checked, 0]


def test_its_series_and_colour_are_there_from_the_start(after: dict[str, Any]) -> None:
    metrics = after["as_before"]["metrics"]
    assert f'ltrr_arm_requests_total{{arm="{NEW}",outcome="ok"}} 0.0' in metrics
    for name in ("ltrr_arm_duration_seconds", "ltrr_arm_candidates", "ltrr_hits_shown", "ltrr_propensity"):
        assert any(line.startswith(name) for line in metrics), name
    assert f"--{NEW}: light-dark(#123, #def);" in after["as_before"]["styles"]
    assert f".of-{NEW} {{" in after["as_before"]["styles"]


def test_it_is_explored_surveyed_and_served(after: dict[str, Any]) -> None:
    found = after["going_on"]
    assert len(found["explored"]) > 1
    assert list(found["static"]) == [
        *(profile.name for profile in ARM_PROFILES[:-1]),
        NEW,
        ARM_PROFILES[-1].name,
    ]
    assert found["static"][NEW] == STATIC_COUNT
    assert found["statuses"] == ["accepted"]
    assert found["features"][f"{NEW}_has"] == 1.0
    assert found["features"][f"{NEW}_rank"] > 0.0
    assert any(NEW in ranks and part(NEW) in facts for ranks, facts in after["learned"]["surveys"])
    assert all(NEW in arms for arms in found["console"])


def test_surveys_from_before_are_learned_from_and_old_decisions_estimated(
    before: Before, after: dict[str, Any]
) -> None:
    found = after["learned"]
    without = [ranks for ranks, _ in found["surveys"] if NEW not in ranks]
    assert len(without) == before.surveys
    assert found["skipped"] == 0
    assert found["requests"] == LESSONS + len(found["surveys"])
    first, last = found["proposed"]
    taken = [probability for knew, probability in first if not knew]
    assert len(taken) == 2 * len(QUERIES)
    assert set(taken) == {1.0}, "the model of the time would do the same again"
    assert any(knew for knew, _ in last)


def test_a_model_that_knows_more_arms_says_so(after: dict[str, Any]) -> None:
    """A release without these arms rejects it."""
    model = bytes.fromhex(after["learned"]["model"])
    assert b"planned_arms" in model
    with pytest.raises(ModelInvalid, match="other arms"):
        VWPolicy(FixedPolicy(), model=model)
