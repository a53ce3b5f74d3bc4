"""The log as data to judge policies by: the same lessons as the learner's, and what another policy would have done."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.backends.base import Record, Tick
from services.offpolicy import ope
from services.offpolicy.logged import LoggedDecision, arrays, context, encode_actions, propose, read
from services.offpolicy.reward_model import crossfit
from services.policies.base import Policy
from services.policies.budget import allocate, retrace
from services.policies.fixed import FixedPolicy, UniformPolicy
from services.policies.sampling import Distribution
from services.policies.vw import VWPolicy
from services.types import ArmChoice, ArmOption, Degraded
from tests.builders.records import make_impression, make_interaction
from tests.contracts.policy import FEATURES, ROOMY, counts_of
from tests.learning.test_learner import WEIGHTS, WINDOW, Rig, outcomes, page_of

PRICE = 0.001
CAP = 5
MIX = {"lexical": 10, "structured": 5}
SETTINGS: dict[str, Any] = {"attribution": WINDOW, "weights": WEIGHTS, "price": PRICE, "cap": CAP}


def traffic(seed: int = 0, n: int = 120) -> list[Record]:
    """Searches of few people, some not to be learned from, with pages, failures, clicks in time and clicks too late."""
    generator = random.Random(seed)
    records: list[Record] = []
    for number in range(n):
        at = 1000.0 + 60.0 * number
        failed = (Degraded("vector", "timeout"),) if generator.random() < 0.3 else ()
        root = make_impression(
            f"q{number}", at=at, user_id=generator.choice(["ann", "ben", None]), learn=generator.random() < 0.9,
            degraded=failed,
        )  # fmt: skip
        records.append(root)
        pages = [root]
        if generator.random() < 0.3:
            pages.append(page_of(root, f"p{number}", at=at + 1.0))
            records.append(pages[-1])
        for page in pages:
            if generator.random() < 0.5:
                late = generator.random() < 0.2
                records.append(
                    make_interaction(
                        f"e{page.query_id}", query_id=page.query_id, object_id=page.shown[0], at=at + 2.0,
                        action_name=generator.choice(["click", "purchase", "dislike"]),
                        status="late" if late else "accepted",
                    )
                )  # fmt: skip
    return records


async def test_decisions_are_the_lessons_of_the_learner(tmp_path: Path) -> None:
    async with Rig(tmp_path, principal_cap=CAP) as rig:
        await rig.append(*traffic())
        assert await read(rig.log, **SETTINGS) != [], "windows close by the traffic that follows"
        await rig.append(Tick(1e6))
        await rig.learner.catch_up()
        lessons = outcomes(rig)
        found = await read(rig.log, **SETTINGS)
        assert len(found) == len(lessons) > 80
        for one, lesson in zip(found, lessons, strict=True):
            assert one.features == lesson.features
            assert one.share == lesson.weight
        assert min(one.share for one in found) < 1.0
        assert {one.acted for one in found} == {True, False}
        assert await read(rig.log, **SETTINGS, latest=7) == found[-7:]


async def test_windows_that_are_open_and_what_came_before_are_not_there(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.append(*(make_impression(f"q{n}", at=1000.0 + n) for n in range(4)))
        assert await read(rig.log, **SETTINGS) == []
        await rig.append(Tick(1000.0 + WINDOW + 1.5))
        assert [one.query_id for one in await read(rig.log, **SETTINGS)] == ["q0", "q1"]
        assert [one.query_id for one in await read(rig.log, **SETTINGS, after=1)] == ["q1"]


def decided(number: int = 0, **changes: Any) -> LoggedDecision:
    choices = {
        "lexical": ArmChoice(10, 0.5, ((0, 0.5), (10, 0.5))),
        "vector": ArmChoice(10, 0.25, ((0, 0.75), (10, 0.25))),
    }
    fields: dict[str, Any] = {
        "query_id": f"q{number}", "at": 0.0, "policy": "vw", "mode": "learned", "seed": number,
        "features": {"tokens": 0.1 * number}, "options": tuple(ArmOption(arm, (0, 10)) for arm in choices),
        "choices": choices, "rewards": {"lexical": 0.3, "vector": -0.1}, "acted": True, "share": 1.0,
    }  # fmt: skip
    return LoggedDecision(**fields | changes)


class TestArrays:
    def test_hold_the_decisions(self) -> None:
        logged = arrays([decided(), decided(1, share=0.5, acted=False, rewards={"lexical": 0.1, "vector": 0.2})])
        assert logged.arms == ("lexical", "vector")
        assert logged.rewards == pytest.approx([0.2, 0.3])
        assert logged.shares.tolist() == [1.0, 0.5]
        assert logged.propensities.tolist() == [[0.5, 0.25], [0.5, 0.25]]
        assert logged.acted.tolist() == [True, False]
        some = logged.select(np.array([False, True]))
        assert (some.decisions, some.shares.tolist()) == (logged.decisions[1:], [0.5])

    def test_an_arm_that_failed_counts_as_it_does_where_it_did_not(self) -> None:
        logged = arrays([
            decided(0, rewards={"lexical": 0.3}),
            decided(1, rewards={"lexical": 0.0, "vector": 0.4}),
            decided(2, rewards={"lexical": 0.0, "vector": 0.2}),
        ])  # fmt: skip
        assert logged.rewards == pytest.approx([0.3 + 0.3, 0.4, 0.2])

    def test_an_arm_that_was_not_asked_has_not_failed(self) -> None:
        none = {"lexical": ArmChoice(10, 1.0, ((10, 1.0),)), "vector": ArmChoice(0, 1.0, ((0, 1.0),))}
        logged = arrays([decided(0, choices=none, rewards={"lexical": 0.3}), decided(1)])
        assert logged.rewards == pytest.approx([0.3, 0.2])

    def test_a_decision_without_propensities_is_left_out(self) -> None:
        broken = {"lexical": ArmChoice(10, 0.0, ()), "vector": ArmChoice(10, 0.25, ())}
        assert [one.query_id for one in arrays([decided(0, choices=broken), decided(1)]).decisions] == ["q1"]
        assert arrays([]).propensities.shape == (0, 0)

    def test_arms_that_came_later_did_not_change_earlier_decisions(self) -> None:
        more = dict(decided().choices) | {"memory": ArmChoice(5, 0.1, ((0, 0.9), (5, 0.1)))}
        logged = arrays([decided(0), decided(1, choices=more)])
        assert logged.propensities.tolist() == [[0.5, 0.25, 1.0], [0.5, 0.25, 0.1]]


class Greedy:
    """Half of its probability for the largest allowed count; can only decide."""

    name = "greedy"
    version = None

    def __init__(self, greed: float = 0.5, budget: int = 100, floor: int = 5) -> None:
        self.greed, self.limit = greed, (budget, floor)

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        return allocate(options, *self.limit, seed, self._distribute)

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        return retrace(options, *self.limit, counts, self._distribute)

    def _distribute(self, option: ArmOption, allowed: tuple[int, ...]) -> Distribution:
        share = (1.0 - self.greed) / len(allowed)
        return tuple((c, (share + self.greed * (c == allowed[-1])) if c in allowed else 0.0) for c in option.counts)


def test_the_learned_policy_retraces_what_it_logged() -> None:
    policy = VWPolicy(FixedPolicy(MIX, 100, 10), 0.3, 100, 10)
    for seed in range(50):
        logged = policy.decide(FEATURES, ROOMY, seed)
        assert policy.retrace(FEATURES, ROOMY, counts_of(logged)) == logged


def decisions(policy: Policy, n: int) -> list[LoggedDecision]:
    """Decisions in a world where a large lexical count helps for short queries, and vector always helps a little."""
    generator = np.random.default_rng(0)
    found = []
    for seed in range(n):
        features = {"tokens": float(generator.integers(0, 2)), "person": 1.0}
        choices = policy.decide(features, ROOMY, seed)
        chance = worth(features, counts_of(choices))
        rewards = dict.fromkeys(choices, 0.0) | {"vector": float(generator.random() < chance)}
        found.append(decided(seed, features=features, options=ROOMY, choices=choices, rewards=rewards))
    return found


def worth(features: Mapping[str, float], counts: Mapping[str, int]) -> float:
    return 0.1 + 0.4 * (1.0 - features["tokens"]) * (counts["lexical"] >= 25) + 0.1 * (counts["vector"] >= 10)


class TestProposing:
    LOGGING = Greedy(0.2, budget=60, floor=5)
    TARGET = Greedy(0.7, budget=60, floor=5)

    def test_gives_weights_of_mean_1_and_the_value_that_the_policy_has(self) -> None:
        logged = arrays(decisions(self.LOGGING, 6000))
        proposed = propose(self.TARGET, logged)
        weights = ope.product(logged.propensities, proposed.propensities)
        assert weights.mean() == pytest.approx(1.0, abs=3.5 * weights.std() / 6000**0.5)
        assert weights.std() > 1.0
        own = [
            worth(one.features, counts_of(self.TARGET.decide(one.features, ROOMY, 10**6 + one.seed)))
            for one in logged.decisions
        ]
        truth = float(np.mean(own))
        assert abs(truth - logged.rewards.mean()) > 0.03
        actions, taken, (meant,) = encode_actions(logged, [proposed])
        known, (model,) = crossfit(context(logged), actions, taken, [meant], logged.rewards)
        for estimator in (
            ope.ips(logged.rewards, weights),
            ope.snips(logged.rewards, weights),
            ope.doubly_robust(logged.rewards, weights, known, model),
        ):
            estimate = estimator.interval()
            assert estimate.low <= truth <= estimate.high
            assert estimate.high - estimate.low < 0.2
        assert model.mean() == pytest.approx(truth, abs=0.03), "the model alone has learned it, too"
        assert taken.sum(axis=1) == pytest.approx(np.full(6000, len(ROOMY)))
        assert meant.sum(axis=1) == pytest.approx(np.full(6000, len(ROOMY)))
        assert meant[:, 0] == pytest.approx(np.full(6000, 0.3 / 4)), "a probability, not what happened to be drawn"

    def test_expects_the_squared_weight(self) -> None:
        logged = arrays(decisions(Greedy(0.2, budget=1000, floor=0), 6000))
        proposed = propose(Greedy(0.6, budget=1000, floor=0), logged)
        weights = ope.product(logged.propensities, proposed.propensities)
        assert len(set(proposed.moments.round(9))) == 1, "nothing is masked"
        assert (weights**2).mean() == pytest.approx(proposed.moments.mean(), rel=0.15)
        assert propose(Greedy(0.2, budget=1000, floor=0), logged).moments == pytest.approx(np.ones(6000))

    def test_finds_no_support_where_the_log_did_not_explore(self) -> None:
        fixed, uniform = FixedPolicy(MIX, 100, 0), UniformPolicy(100, 0)
        logged = arrays(decisions(fixed, 20))
        assert np.isinf(propose(uniform, logged).moments).all()
        assert propose(fixed, logged).moments.tolist() == [1.0] * 20
        assert propose(fixed, logged).propensities.tolist() == [[1.0] * 4] * 20
        assert np.isfinite(propose(fixed, arrays(decisions(uniform, 20))).moments).all()

    def test_draws_for_itself_and_not_as_the_log_did(self) -> None:
        """The same seed would repeat the logged counts of the same policy, and every prediction would know them."""
        logged = arrays(decisions(self.LOGGING, 300))
        proposed = propose(self.LOGGING, logged)
        same = [counts_of(mine) == one.counts for mine, one in zip(proposed.drawn, logged.decisions, strict=True)]
        assert np.mean(same) < 0.2
        assert proposed.propensities == pytest.approx(logged.propensities)


def test_a_context_has_the_features_that_most_decisions_have() -> None:
    often = [decided(n, features={"a": 1.0, f"seldom{n}": 2.0} if n else {"a": 1.0}) for n in range(60)]
    table = context(arrays(often))
    assert table.shape == (60, 50)
    assert (table[:, 0] == 1.0).all()
    assert context(arrays([])).shape == (0, 0)


async def test_records_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.append(*(make_impression(f"q{n}", at=1000.0) for n in range(3)), Tick(1e6))
        with sqlite3.connect(tmp_path / "log.db") as connection:
            connection.execute("UPDATE log SET body = x'00' WHERE offset = 2")
        connection.close()
        assert [one.query_id for one in await read(rig.log, **SETTINGS)] == ["q0", "q2"]
