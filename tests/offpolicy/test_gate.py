"""The promotion gate: what may go live according to the log, and the verdict that is recorded."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.system.stores import model_store
from services.backends.base import Tick
from services.errors import ModelInvalid, NotFound
from services.learning import snapshots
from services.learning.snapshots import KIND, POLICY_FILE, Snapshot
from services.models.store import ModelStore
from services.offpolicy import ope
from services.offpolicy.gate import TOLERATED_CANDIDATES, PolicyGate, Verdict, judge
from services.offpolicy.logged import LoggedDecision
from services.offpolicy.support import MIN_SAMPLE
from services.policies.base import Retracing
from services.policies.fixed import FixedPolicy, UniformPolicy
from services.policies.vw import VWPolicy
from services.rewards.quota import PrincipalQuota
from services.rewards.rewards import examination
from services.types import ArmChoice, ArmOption, Decision
from tests.builders.records import make_impression, make_interaction
from tests.commands import done, eventually, failed
from tests.contracts.policy import LearningPolicyContract
from tests.learning.test_learner import WEIGHTS, WINDOW, Rig
from tests.offpolicy.test_logged import Greedy, decided, decisions
from tests.process.test_learner_process import KEY, KEYS, learner
from tests.servers.redis import RedisServer
from tests.service import Service, problem, with_tracks

PRICE = 0.0002
LOGGING = Greedy(0.2, budget=60)
GOOD = Greedy(0.7, budget=60)
BAD = UniformPolicy(budget=60, floor=5)


@pytest.fixture(scope="module")
def log() -> list[LoggedDecision]:
    return decisions(LOGGING, 4000)


class Sometimes:
    """Decides like another policy, but requests nothing where there are many tokens."""

    name = "sometimes"
    version = None

    def __init__(self, policy: Greedy) -> None:
        self._policy = policy

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        return self._which(features).decide(features, options, seed)

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        return self._which(features).retrace(features, options, counts)

    def _which(self, features: Mapping[str, float]) -> Retracing:
        return FixedPolicy({}, *self._policy.limit) if features["tokens"] else self._policy


class TestJudging:
    def test_a_better_policy_may_take_the_place_of_a_worse_one_and_not_the_other_way_round(
        self, log: list[LoggedDecision]
    ) -> None:
        verdict = judge(log, GOOD, BAD, PRICE)
        assert verdict.promote
        assert verdict.difference is not None
        assert verdict.difference.low > 0.0
        assert "not worse than" in verdict.reason
        for part in ("SNIPS", "IPS", "DR", str(verdict.difference), "4000 of 4000 decisions", "effective sample"):
            assert part in verdict.reason
        back = judge(log, BAD, GOOD, PRICE)
        assert not back.promote
        assert back.difference is not None
        assert back.difference.value == pytest.approx(-verdict.difference.value)
        assert "may be worse than" in back.reason

    def test_the_same_policy_is_not_worse_for_certain(self, log: list[LoggedDecision]) -> None:
        verdict = judge(log, GOOD, GOOD, 0.0)
        assert verdict.promote
        assert verdict.difference is not None
        assert (verdict.difference.low, verdict.difference.high) == (0.0, 0.0)

    def test_the_lower_end_decides_and_a_page_of_candidates_is_the_tolerance(self, log: list[LoggedDecision]) -> None:
        estimate = judge(log, BAD, GOOD, 0.0).difference
        assert estimate is not None
        assert estimate.low < estimate.value < 0.0
        assert judge(log, BAD, GOOD, 1.01 * -estimate.low / TOLERATED_CANDIDATES).promote
        assert not judge(log, BAD, GOOD, 0.99 * -estimate.low / TOLERATED_CANDIDATES).promote

    def test_it_is_the_paired_difference_on_the_same_decisions(self, log: list[LoggedDecision]) -> None:
        difference = judge(log, GOOD, BAD, PRICE).difference
        assert difference is not None
        alone = [judge(log, policy, LOGGING, PRICE).difference for policy in (GOOD, BAD)]
        assert alone[0] is not None
        assert alone[1] is not None
        assert difference.value == pytest.approx(alone[0].value - alone[1].value)

    def test_too_few_decisions_are_refused_and_the_reason_says_what_to_do(self, log: list[LoggedDecision]) -> None:
        for some in ([], log[:1], log[:100]):
            verdict = judge(some, GOOD, BAD, PRICE)
            assert (verdict.promote, verdict.difference) == (False, None)
            assert "too little to judge by" in verdict.reason
            assert f"of {len(some)} decisions" in verdict.reason
            assert "learned mode for longer" in verdict.reason

    def test_a_log_that_says_little_of_what_the_candidate_does_is_too_little(self) -> None:
        """The luck of the log is not enough. In half of the searches the candidate does what was done one time in
        millions, so that it never happened, and the other half looks like a large sample."""
        keen = Greedy(0.9, budget=1000, floor=0)
        searches = decisions(keen, 1000)
        verdict = judge(searches, Sometimes(keen), keen, PRICE)
        assert not verdict.promote
        weights = [1.0 - one.features["tokens"] for one in searches]
        assert sum(weights) > 4 * MIN_SAMPLE
        assert "an effective sample of 0 " in verdict.reason

    def test_without_feedback_there_is_nothing_but_the_price(self, log: list[LoggedDecision]) -> None:
        silent = [decided(one.seed, features=one.features, options=one.options, choices=one.choices, acted=False,
                          rewards={arm: -PRICE * choice.count for arm, choice in one.choices.items()})
                  for one in log]  # fmt: skip
        verdict = judge(silent, GOOD, BAD, PRICE)
        assert (verdict.promote, verdict.difference) == (False, None)
        assert "too few actions" in verdict.reason

    def test_decisions_of_a_policy_that_does_not_explore_say_nothing(self, log: list[LoggedDecision]) -> None:
        static = decisions(FixedPolicy({"lexical": 10}, 60, 5), 500)
        assert "0 of 500 decisions" in judge(static, GOOD, BAD, PRICE).reason
        both = judge([*static, *log], GOOD, BAD, PRICE)
        assert "4000 of 4500 decisions" in both.reason
        assert both.difference == judge(log, GOOD, BAD, PRICE).difference

    def test_principals_count_no_more_than_their_share(self, log: list[LoggedDecision]) -> None:
        """One that clicks whenever there is little: its decisions count next to nothing."""
        flood = [decided(n, features=one.features, options=one.options, choices=one.choices, share=1e-9,
                         rewards={"vector": float(one.choices["lexical"].count == 0)})
                 for n, one in enumerate(log)]  # fmt: skip
        verdict = judge([*log, *flood], GOOD, BAD, PRICE)
        assert verdict.promote
        assert not judge([*log, *(decided_in_full(one) for one in flood)], GOOD, BAD, PRICE).promote


def decided_in_full(one: LoggedDecision) -> LoggedDecision:
    return decided(one.seed, features=one.features, options=one.options, choices=one.choices, rewards=one.rewards)


# --- over a log and a store ---------------------------------------------------------------------------------------


def greedy(model: bytes, version: str) -> Greedy:
    return Greedy(float(model), budget=20, floor=0)


def store_of(folder: Path, *models: bytes) -> tuple[ModelStore, list[str]]:
    """Snapshots of policies; the first is in force."""
    store = ModelStore(folder)
    kept = [Snapshot(n, 1, n, PrincipalQuota(0, {}), model) for n, model in enumerate(models)]
    versions = [store.publish(KIND, snapshot.files(), {}, snapshot.version) for snapshot in kept]
    store.promote(KIND, versions[0], "snapshot")
    return store, versions


async def serve(rig: Rig, n: int) -> None:
    """Searches with two arms, of which lexical finds what is wanted within its first ten."""
    options = (ArmOption("vector", (0, 10)), ArmOption("lexical", (0, 10)))
    for seed in range(n):
        choices = Greedy(0.0, budget=20, floor=0).decide({}, options, seed)
        found = {arm: (("1", 1.0),) for arm, choice in choices.items() if choice.count and arm == "lexical"}
        await rig.log.append(
            make_impression(
                f"q{seed}", at=1000.0 + seed, user_id=None, client_id=None, session_id=None, features={"tokens": 0.1},
                options=options, decision=Decision("vw", "learned", "v1", seed, choices), lists=found, degraded=(),
            )
        )  # fmt: skip
        if seed % 2:
            event = make_interaction(f"e{seed}", query_id=f"q{seed}", at=1000.5 + seed, user_id=None, client_id=None,
                                     session_id=None, position=1)  # fmt: skip
            await rig.log.accept([(event, "d")])
    await rig.log.append(Tick(1e6))


def gate_of(rig: Rig, store: ModelStore) -> PolicyGate:
    return PolicyGate(rig.log, store, greedy, attribution=WINDOW, weights=WEIGHTS, price=PRICE, cap=1000)


async def test_a_snapshot_is_judged_against_the_one_in_force_by_the_log(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await serve(rig, 600)
        store, (shy, keen, _) = store_of(tmp_path / "store", b"0.0", b"0.8", b"0.8")
        verdict = await gate_of(rig, store).judge(keen)
        assert verdict.promote
        # Lexical is asked in 90 % instead of 50 %, in half of which somebody clicks; both arms cost 8 more.
        worth = 0.4 * 0.5 * WEIGHTS["click"] / max(map(abs, WEIGHTS.values())) * examination(1) - 2 * 0.4 * 10 * PRICE
        assert verdict.difference is not None
        assert verdict.difference.value == pytest.approx(worth, abs=0.015)
        store.promote(KIND, keen, "better")
        assert not (await gate_of(rig, store).judge(shy)).promote
        same = await gate_of(rig, store).judge(keen)
        assert (same.promote, same.difference) == (True, None)
        assert "very model" in same.reason


async def test_only_snapshots_of_policies_are_judged(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        store, (first, _) = store_of(tmp_path / "store", b"0.0", b"0.8")
        other = store.publish(KIND, {"notes": b"1"}, {}, "other")
        with pytest.raises(NotFound):
            await gate_of(rig, store).judge("nothing-like-it")
        with pytest.raises(ModelInvalid, match="not a snapshot"):
            await gate_of(rig, store).judge(other)
        empty = ModelStore(tmp_path / "empty")
        empty.publish(KIND, store.load(KIND, first).files, {}, "v1")
        assert (await gate_of(rig, empty).judge("v1")).promote


# --- in a service -------------------------------------------------------------------------------------------------


def trained(lessons: int) -> bytes:
    policy = VWPolicy(FixedPolicy())
    for seed in range(lessons):
        policy.learn(LearningPolicyContract.outcome(seed))
    return policy.dump()


def in_force(service: Service) -> dict[str, Any]:
    listed = service.request("GET", "/v1/models").json()["kinds"]["policy"]["versions"]
    return next(version for version in listed if version["current"])


class TestService:
    @pytest.fixture
    def service(self, tmp_path: Path) -> Any:
        with with_tracks(tmp_path / "data") as service:
            first, second = (Snapshot(0, 1, n, PrincipalQuota(0, {}), trained(n)) for n in (1, 2))
            snapshots.write(service.system.store, first, {}, "snapshot")
            self.version = service.system.store.publish(KIND, second.files(), {}, second.version)
            yield service

    def promote(self, service: Service, parameters: str = "", **body: Any) -> Any:
        return service.request("POST", f"/v1/models/policy/{self.version}/promote{parameters}", json=body)

    def test_refuses_a_policy_that_the_log_says_too_little_of(
        self, service: Service, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = in_force(service)
        caplog.set_level(logging.INFO)
        for parameters in ("", "?force=false"):
            refused = self.promote(service, parameters)
            problem(refused, 409, "conflict")
            assert "too little to judge by: 0 of 0 decisions" in refused.json()["detail"]
        assert in_force(service) == before
        assert any("promotion_refused" in line and self.version in line for line in caplog.messages)

    @pytest.mark.parametrize(("parameters", "body"), [("?force=true", {}), ("", {"force": True})])
    def test_obeys_force_and_says_so_in_log_and_history(
        self, service: Service, caplog: pytest.LogCaptureFixture, parameters: str, body: dict[str, Any]
    ) -> None:
        caplog.set_level(logging.WARNING)
        assert self.promote(service, parameters, reason="we must", **body).status_code == 200
        now = in_force(service)
        assert now["meta"]["adopted"] == self.version
        assert service.system.store.load(KIND, now["version"]).files[POLICY_FILE] == trained(2)
        assert [entry["action"] for entry in now["promotions"]] == ["promote", "note"]
        reason = now["promotions"][-1]["reason"]
        assert reason.startswith("forced past its gate (too little to judge by")
        assert reason.endswith("): we must")
        assert any("promotion_forced" in line and "too little" in line for line in caplog.messages)
        assert service.search("winter song")["decision"]["model_version"] == now["version"]
        assert service.request("POST", "/v1/models/policy/rollback").status_code == 200, "the way out has no gate"
        assert service.system.store.load(KIND, in_force(service)["version"]).files[POLICY_FILE] == trained(1)

    def test_says_in_the_history_with_which_numbers_a_policy_passed(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        estimate = ope.Estimate(0.01, 0.005, 0.02, 321.0, 5000)

        async def passes(gate: PolicyGate, version: str) -> Verdict:
            assert version == self.version
            return Verdict(True, f"difference {estimate}", estimate)

        monkeypatch.setattr(PolicyGate, "judge", passes)
        assert self.promote(service, "?force=true").status_code == 200, "force is not needed and not said"
        said = in_force(service)["promotions"][-1]["reason"]
        assert said == "promoted by hand; gate passed: difference 0.01000 [0.00500, 0.02000]"

    def test_forces_a_ranker_only_when_told(self, service: Service) -> None:
        store = service.system.store
        for number, gate in enumerate(({"gate": {"promote": False, "reason": "may be worse"}}, {})):
            version = store.publish("notes", {"n": b"%d" % number}, gate, f"v{number}")
            path = f"/v1/models/notes/{version}/promote"
            if gate:
                problem(service.request("POST", path), 409, "conflict")
                assert store.current_version("notes") is None
                assert service.request("POST", f"{path}?force=true").status_code == 200
            else:
                assert service.request("POST", path, json={"reason": "why not"}).status_code == 200
        history = {v.version: [p.reason for p in v.promotions] for v in store.versions("notes")}
        assert history == {"v0": ["forced past its gate (may be worse): promoted by hand"], "v1": ["why not"]}

    @pytest.mark.parametrize("value", ["", "maybe", "2", "true&force=x"])
    def test_force_is_yes_or_no(self, service: Service, value: str) -> None:
        problem(self.promote(service, f"?force={value}"), 422, "invalid-request")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_with_a_shared_log_the_command_judges_and_the_learner_process_adopts(
    tmp_path: Path, redis: RedisServer
) -> None:
    settings: dict[str, Any] = {"redis_url": redis.url, "signing_keys": KEYS, "admin_key": KEY}
    store = model_store(Settings(data_dir=tmp_path / "data", **settings))
    first, second = (Snapshot(0, 1, n, PrincipalQuota(0, {}), trained(n)) for n in (1, 2))
    snapshots.write(store, first, {}, "snapshot")
    version = store.publish(KIND, second.files(), {}, second.version)
    with learner(tmp_path, redis) as process:
        eventually(lambda: (process.lease() or "").startswith("held, epoch"))
        command = (tmp_path / "data", "models", "promote", "policy", version)
        assert "too little to judge by" in failed(1, *command, **settings)
        assert store.current_version(KIND) == first.version
        done(*command, "--force", "--reason", "we must", **settings)
        (now,) = [known for known in store.versions(KIND) if known.current]
        assert now.meta["adopted"] == version
        assert [p.action for p in now.promotions] == ["promote", "note"]
        assert now.promotions[-1].reason.endswith("): we must")
        told = json.loads(done(tmp_path / "data", "models", "rollback", "policy", "--json", **settings))
        assert told == {"kind": "policy", "current": first.version}
