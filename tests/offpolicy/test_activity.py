"""The console's rolling figures: right sums, honest estimates, bounded and incremental reading."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.backends.base import Record
from services.backends.sqlite.log import SqliteLog
from services.offpolicy import activity, ope
from services.offpolicy.activity import Activity, RecentDecision, compare, credit, groups, recent_decision
from services.types import ArmChoice, ArmOption, Decision, Degraded, Impression, Interaction
from tests.builders.records import make_impression, make_interaction

WEIGHTS = {"click": 1.0, "play": 2.0, "dislike": -1.0}
OPTIONS = (ArmOption("lexical", (0, 10, 50)), ArmOption("memory", (0, 10)))


def static(features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
    """50 lexical candidates and 10 of the memory."""
    return {option.name: ArmChoice(option.counts[-1], 1.0, ((option.counts[-1], 1.0),)) for option in options}


def impression(query_id: str, counts: Mapping[str, int] | None = None, at: float = 100.0, **more: Any) -> Impression:
    """Nobody's answer of "a" and "b", for which the arms were asked for these counts, each with a chance of 1 in 2."""
    counts = counts or {"lexical": 50, "memory": 10}
    arms = {arm: ArmChoice(count, 0.5, ((count, 0.5),)) for arm, count in counts.items()}
    values: dict[str, Any] = {
        "at": at,
        "text": f"text of {query_id}",
        "normalized": f"text of {query_id}",
        **dict.fromkeys(("user_id", "session_id", "client_id")),
        "features": {},
        "options": OPTIONS,
        "decision": Decision("vw", "learned", "v1", 7, arms),
        "lists": {"lexical": (("a", 2.0), ("b", 1.0)), "memory": (("b", 1.0),)},
        "degraded": (),
        "ranking": ("a", "b"),
        "scores": (2.0, 1.0),
        "shown": ("a", "b"),
        "total": 2,
        "rows": (),
    }
    return make_impression(query_id, **(values | more))


def event(query_id: str, object_id: str | None, action: str = "click", position: int = 1, **more: Any) -> Interaction:
    values: dict[str, Any] = {
        "query_id": query_id,
        "object_id": object_id,
        "action_name": action,
        "at": 101.0,
        "position": position,
        **dict.fromkeys(("user_id", "session_id", "client_id")),
    }
    return make_interaction(f"{query_id} {object_id} {action}", **(values | more))


async def viewed(folder: Path, *steps: Sequence[Record], forget: str | None = None) -> list[dict[str, Any]]:
    """The view after each step's records were appended."""
    log = SqliteLog(folder / "log.sqlite3")
    try:
        figures = Activity(log, static, WEIGHTS, price=0.001)
        views = []
        for records in steps:
            for record in records:
                await log.append(record)
            views.append(await figures.view())
        if forget is not None:
            await log.forget(forget, 200.0)
            views.append(await figures.view())
        return views
    finally:
        await log.close()


async def test_an_empty_log_gives_empty_figures(tmp_path: Path) -> None:
    (view,) = await viewed(tmp_path, [])
    assert (view["decisions"], view["latest"], view["curve"], view["credit"]) == (0, [], [], {})
    assert view["comparison"]["learned"] is None
    assert view["comparison"]["regret"] is None


async def test_feedback_reaches_the_decision_that_showed_the_item(tmp_path: Path) -> None:
    page = impression("p", root_id="q", lists={}, shown=("c",), offset=2)
    first, second = await viewed(
        tmp_path,
        [impression("q"), impression("other", counts={"lexical": 10, "memory": 0})],
        [page, event("q", "b", position=3), event("p", "c", "play", position=7), event("unknown", "a")],
    )
    assert [row["reward"] for row in first["latest"]] == [0.0, 0.0]
    other, one = second["latest"]
    assert other["events"] == []
    assert one["events"] == ["click", "play"]
    assert one["reward"] == pytest.approx(0.5 / 2 + 1.0 / 3, abs=1e-4)  # 1 / log2(1 + 3) and 1 / log2(1 + 7)
    assert one["counts"] == {"lexical": 50, "memory": 10}
    assert second["credit"] == {"lexical": 0.25, "memory": 0.25}  # a click is worth half a play; both arms had b
    assert second["actions"] == {"click": 2, "play": 1}
    assert second["decisions"] == 2
    assert second["counts"] == {"lexical": [[10, 1], [50, 1]], "memory": [[0, 1], [10, 1]]}
    assert [point["candidates"] for point in second["curve"]] == [60, 10]
    assert [point["clicked"] for point in second["curve"]] == [1.0, 0.0]


async def test_what_may_not_be_learned_from_and_late_events_are_left_out(tmp_path: Path) -> None:
    (view,) = await viewed(
        tmp_path,
        [
            impression("objected", learn=False),
            impression("listing", decision=Decision("none", "learned", None, 0, {}), options=()),
            impression("q"),
            event("q", "a", status="late"),
        ],
    )
    assert [row["query_id"] for row in view["latest"]] == ["q"]
    assert view["latest"][0]["events"] == []
    assert view["actions"] == {}


async def test_a_forgotten_person_is_forgotten_here_too(tmp_path: Path) -> None:
    before, after = await viewed(tmp_path, [impression("q", user_id="u1"), impression("r", user_id="u2")], forget="u1")
    assert [row["query"] for row in before["latest"]] == ["text of r", "text of q"]
    assert [row["query"] for row in after["latest"]] == ["text of r", ""]


async def test_reading_is_bounded_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "BACKLOG", 12)
    monkeypatch.setattr(activity, "STEP", 5)
    monkeypatch.setattr(activity, "DECISIONS", 8)
    monkeypatch.setattr(activity, "LATEST", 3)
    first, same, second = await viewed(
        tmp_path, [impression(f"a{i}") for i in range(20)], [], [impression(f"b{i}") for i in range(2)]
    )
    assert first["offset"] == 20
    assert first["decisions"] == 8
    assert [row["query_id"] for row in first["latest"]] == ["a19", "a18", "a17"]
    assert same is first  # nothing new: nothing is worked out again
    assert second["offset"] == 22
    assert [row["query_id"] for row in second["latest"]] == ["b1", "b0", "a19"]


def test_a_decision_keeps_what_the_figures_need() -> None:
    one = recent_decision(impression("q", degraded=(Degraded("vector", "timeout"),)), static)
    assert one.agrees
    assert one.propensity == 0.25
    assert one.candidates == 60
    assert one.found == {"a": ("lexical",), "b": ("lexical", "memory")}
    assert one.degraded == ("vector",)
    assert not recent_decision(impression("q", counts={"lexical": 50, "memory": 0}), static).agrees


def test_candidates_beyond_the_count_earn_no_credit() -> None:
    one = recent_decision(impression("q", counts={"lexical": 1, "memory": 10}), static)
    assert one.found["b"] == ("memory",)
    one.events.append(event("q", "b", "play"))
    assert credit([one], WEIGHTS) == {"memory": 1.0}


def test_groups_cover_everything_once() -> None:
    window: list[RecentDecision] = [recent_decision(impression(str(i)), static) for i in range(11)]
    parts = list(groups(window, 4))
    assert [len(part) for part in parts] == [2, 3, 3, 3]
    assert [one.query_id for part in parts for one in part] == [str(i) for i in range(11)]
    assert list(groups([], 4)) == []


def test_comparison_of_a_policy_with_itself_shows_no_regret() -> None:
    values = np.arange(200.0) % 2
    same = compare(values, np.ones(200), np.ones(200), values > 0)
    assert (same["effective"], same["acted"]) == (200, 100)
    assert same["learned"] == same["static"]
    assert same["regret"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_comparison_covers_the_true_difference() -> None:
    """Two actions worth 0.7 and 0.3 on average; the logging policy takes the static one (0.3) in 40 % of decisions."""
    rng = random.Random(1)
    values, weights = [], []
    for _ in range(4000):
        fixed = rng.random() < 0.4
        values.append(float(rng.random() < (0.3 if fixed else 0.7)))
        weights.append(1 / 0.4 if fixed else 0.0)
    rewards, ratios = np.array(values), np.array(weights)
    found = compare(rewards, ratios, np.full(4000, 1 / 0.4), rewards > 0)
    assert found["static"]["low"] < 0.3 < found["static"]["high"]
    assert found["learned"]["low"] < 0.54 < found["learned"]["high"]
    assert found["regret"]["low"] < 4000 * (0.3 - 0.54) < found["regret"]["high"] < 0
    assert found["effective"] == pytest.approx(min(np.count_nonzero(ratios), 4000 * 0.4), abs=0.01)
    gate = ope.snips(rewards, ratios).minus(ope.on_policy(rewards)).interval()
    assert found["regret"] == pytest.approx(
        {"value": 4000 * gate.value, "low": 4000 * gate.low, "high": 4000 * gate.high}
    )


@pytest.mark.parametrize(
    ("agreeing", "n", "acted", "moment"),
    [
        (0, 0, 0, 1.0),
        (99, 99, 99, 1.0),
        (0, 500, 500, 1.0),
        (99, 500, 500, 2.0),
        (400, 500, 500, 10.0),  # more agree than is to be expected
        (500, 500, 19, 1.0),
    ],
)
def test_no_estimate_from_too_little(agreeing: int, n: int, acted: int, moment: float) -> None:
    weights = np.where(np.arange(n) < agreeing, 2.0, 0.0)
    found = compare(np.ones(n), weights, np.full(n, moment), np.arange(n) < acted)
    assert (found["learned"], found["static"], found["regret"]) == (None, None, None)


async def test_decisions_that_could_not_have_been_static_are_left_out(tmp_path: Path) -> None:
    """Half of the decisions gave the static counts no chance; the rest suffices, and shows no regret."""
    shown = [impression(f"q{i}", counts=None if i % 2 else {"lexical": 10, "memory": 0}) for i in range(400)]
    (view,) = await viewed(tmp_path, [*shown, *(event(f"q{i}", "a") for i in range(1, 400, 4))])
    comparison = view["comparison"]
    assert (comparison["n"], comparison["learned_decisions"]) == (200, 400)
    assert comparison["effective"] == 50  # of 200, as each was drawn with 1 in 4
    assert comparison["regret"] is None


def test_where_the_policy_would_leave_the_static_counts_but_for_exploring() -> None:
    def drawn(count: int, likeliest: int) -> Impression:
        """`count` of the memory was drawn where `likeliest` was the plan."""
        chances = tuple((c, 0.9 if c == likeliest else 0.1) for c in (0, 10))
        memory = ArmChoice(count, dict(chances)[count], chances)
        decision = Decision("vw", "learned", "v1", 7, {"lexical": ArmChoice(50, 1.0, ((50, 1.0),)), "memory": memory})
        return impression("q", decision=decision)

    assert not recent_decision(drawn(10, likeliest=10), static).left
    assert not recent_decision(drawn(0, likeliest=10), static).left, "that was exploring"
    assert recent_decision(drawn(10, likeliest=0), static).left
    assert recent_decision(drawn(0, likeliest=0), static).left


async def test_a_curve_says_who_found_what_and_where_the_policy_left(tmp_path: Path) -> None:
    away = impression("away", counts={"lexical": 10, "memory": 10})
    (view,) = await viewed(tmp_path, [impression("q"), event("q", "b"), away])
    assert [point["left"] for point in view["curve"]] == [0.0, 1.0]
    assert [point["credit"] for point in view["curve"]] == [{"lexical": 0.25, "memory": 0.25}, {}]
