"""The log alone reproduces what was decided, and a falsified log is found out."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.backends.sqlite.log import SqliteLog
from services.offpolicy.replay import Report, replay
from services.policies.base import Policy
from services.policies.fixed import FixedPolicy
from services.policies.modes import PolicySwitch
from services.policies.vw import VWPolicy
from services.types import ArmChoice, Decision, Impression
from tests.builders.records import make_impression, make_interaction
from tests.contracts.policy import ROOMY, LearningPolicyContract

STATIC = FixedPolicy({"lexical": 10})


def vw_policy(model: bytes | None = None, version: str | None = None) -> VWPolicy:
    return VWPolicy(STATIC, 0.3, 60, 5, price=0.001, model=model, version=version)


@pytest.fixture(scope="module")
def history() -> tuple[list[Impression], dict[str, bytes]]:
    """Decisions of every mode over two model versions, and the snapshots by version."""
    learner = vw_policy()
    snapshots = {learner.version: learner.dump()}
    switch = PolicySwitch(vw_policy(learner.dump(), learner.version), STATIC)
    impressions = []
    for seed in range(90):
        if seed == 40:
            for lesson in range(600):  # enough to leave the static counts
                learner.learn(LearningPolicyContract.outcome(lesson))
            assert learner.plan({"tokens": 0.5}, ROOMY)["lexical"] != 10
            snapshots[learner.version] = learner.dump()
            switch.learned = vw_policy(learner.dump(), learner.version)
        switch.mode = ("learned", "learned", "static", "shadow")[seed % 4]
        seen = {"tokens": round((seed % 7) / 7, 6), "person": float(seed % 2)}
        decision = switch.decide(seen, ROOMY, seed * 7919)
        impressions.append(make_impression(f"q{seed}", features=seen, options=ROOMY, decision=decision))
        learner.learn(LearningPolicyContract.outcome(seed))
    return impressions, snapshots


async def replayed(folder: Path, impressions: list[Impression], **known: Any) -> Report:
    log = SqliteLog(folder / "log.sqlite")
    try:
        for number, impression in enumerate(impressions):
            await log.append(impression)
            if number == 0:
                await log.accept([(make_interaction(query_id=impression.query_id), "digest")])
        return await replay(log, **known)
    finally:
        await log.close()


def loader(snapshots: Mapping[str, bytes]) -> Any:
    def learned(version: str) -> Policy | None:
        return vw_policy(snapshots[version], version) if version in snapshots else None

    return learned


async def test_every_decision_is_drawn_and_computed_again(
    tmp_path: Path, history: tuple[list[Impression], dict[str, bytes]]
) -> None:
    impressions, snapshots = history
    report = await replayed(tmp_path, impressions, static=STATIC, learned=loader(snapshots))
    assert (report.checked, report.drawn, report.recomputed, report.computed) == (90, 90, 90, 90)
    assert report.reproduced
    assert len({impression.decision.model_version for impression in impressions}) == 3  # two models, and none


async def test_without_snapshots_the_draws_are_still_checked(
    tmp_path: Path, history: tuple[list[Impression], dict[str, bytes]]
) -> None:
    report = await replayed(tmp_path, history[0])
    assert (report.checked, report.drawn, report.recomputed) == (90, 90, 0)
    assert report.reproduced


def falsified(impression: Impression, **changes: Any) -> Impression:
    arm = impression.decision.arms["lexical"]
    choices = {**impression.decision.arms, "lexical": replace(arm, **changes)}
    return replace(impression, decision=replace(impression.decision, arms=choices))


async def test_a_falsified_count_or_propensity_is_found(
    tmp_path: Path, history: tuple[list[Impression], dict[str, bytes]]
) -> None:
    good = history[0][0]
    choice = good.decision.arms["lexical"]
    count, propensity = next((c, p) for c, p in choice.distribution if c != choice.count)
    bad_count = falsified(replace(good, query_id="bad1", root_id="bad1"), count=count, propensity=propensity)
    bad_propensity = falsified(replace(good, query_id="bad2", root_id="bad2"), propensity=0.123)
    empty = falsified(replace(good, query_id="bad3", root_id="bad3"), distribution=((0, 0.0), (10, 0.0)))
    report = await replayed(tmp_path, [good, bad_count, bad_propensity, empty])
    assert (report.checked, report.drawn) == (4, 1)
    assert {(m.query_id, m.arm, m.check) for m in report.mismatches} == {
        ("bad1", "lexical", "drawn"), ("bad2", "lexical", "drawn"), ("bad3", "lexical", "drawn"),
    }  # fmt: skip
    assert not report.reproduced


async def test_a_distribution_that_the_model_does_not_give_is_found(
    tmp_path: Path, history: tuple[list[Impression], dict[str, bytes]]
) -> None:
    """Another model under the same version name, as after an unnoticed overwrite."""
    impressions, snapshots = history
    swapped = dict(zip(snapshots, reversed(snapshots.values()), strict=True))
    shadowed = [impression for impression in impressions if impression.decision.mode == "shadow"]
    report = await replayed(tmp_path, shadowed, static=STATIC, learned=loader(swapped))
    assert report.drawn == report.checked == len(shadowed)
    assert report.computed < report.recomputed
    assert {mismatch.check for mismatch in report.mismatches} == {"computed"}


async def test_listings_and_later_pages_are_no_decisions(
    tmp_path: Path, history: tuple[list[Impression], dict[str, bytes]]
) -> None:
    listing = make_impression(
        "l1", features={}, options=(), decision=Decision("none", "learned", None, 0, {"lexical": ArmChoice(0, 1.0, ())})
    )
    page = replace(history[0][0], query_id="page")
    assert (await replayed(tmp_path, [listing, page])).checked == 0


async def test_damaged_records_are_counted_and_passed(
    tmp_path: Path, history: tuple[list[Impression], dict[str, bytes]]
) -> None:
    await replayed(tmp_path, history[0][:10])
    connection = sqlite3.connect(tmp_path / "log.sqlite")
    connection.execute("UPDATE log SET body = x'00' WHERE offset IN (3, 4)")
    connection.commit()
    connection.close()
    report = await replayed(tmp_path, [])
    assert (report.damaged, report.checked, report.drawn) == (2, 8, 8)
