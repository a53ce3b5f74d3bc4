"""The console's rolling figures: right sums, honest estimates, bounded and incremental reading."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.backends.base import Record
from services.backends.sqlite.log import SqliteLog
from services.offpolicy import activity
from services.offpolicy.activity import Activity, Decided, compare, credit, decided, groups, others_mean, worth
from services.types import ArmChoice, ArmOption, Decision, Degraded, Impression, Interaction

WEIGHTS = {"click": 1.0, "play": 2.0, "dislike": -1.0}
OPTIONS = (ArmOption("lexical", (0, 10, 50)), ArmOption("memory", (0, 10)))


def static(features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
    """50 lexical candidates and 10 of the memory."""
    return {option.name: ArmChoice(option.counts[-1], 1.0, ((option.counts[-1], 1.0),)) for option in options}


def impression(query_id: str, counts: Mapping[str, int] | None = None, at: float = 100.0, **more: Any) -> Impression:
    counts = counts or {"lexical": 50, "memory": 10}
    arms = {arm: ArmChoice(count, 0.5, ((count, 0.5),)) for arm, count in counts.items()}
    values: dict[str, Any] = {
        "query_id": query_id,
        "root_id": query_id,
        "at": at,
        "text": f"text of {query_id}",
        "normalized": f"text of {query_id}",
        "memory_key": "key",
        "signature": "",
        "user_id": None,
        "session_id": None,
        "client_id": None,
        "learn": True,
        "understanding": {},
        "features": {},
        "options": OPTIONS,
        "decision": Decision("vw", "learned", "v1", 7, arms),
        "lists": {"lexical": (("a", 2.0), ("b", 1.0)), "memory": (("b", 1.0),)},
        "degraded": (),
        "ranking": ("a", "b"),
        "scores": (2.0, 1.0),
        "offset": 0,
        "shown": ("a", "b"),
        "total": 2,
        "ranker": "none",
    }
    return Impression(**(values | more))


def event(query_id: str, object_id: str | None, action: str = "click", position: int = 1, **more: Any) -> Interaction:
    values: dict[str, Any] = {
        "event_id": f"{query_id} {object_id} {action}",
        "query_id": query_id,
        "object_id": object_id,
        "action_name": action,
        "at": 101.0,
        "timestamp": None,
        "position": position,
        "value": None,
        "user_id": None,
        "client_id": None,
        "session_id": None,
        "status": "accepted",
    }
    return Interaction(**(values | more))


def viewed(folder: Path, *steps: Sequence[Record], forget: str | None = None) -> list[dict[str, Any]]:
    """The view after each step's records were appended."""

    async def run() -> list[dict[str, Any]]:
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

    return asyncio.run(run())


def test_an_empty_log_gives_empty_figures(tmp_path: Path) -> None:
    (view,) = viewed(tmp_path, [])
    assert (view["decisions"], view["latest"], view["curve"], view["credit"]) == (0, [], [], {})
    assert view["comparison"]["learned"] is None
    assert view["comparison"]["regret"] is None


def test_feedback_reaches_the_decision_that_showed_the_item(tmp_path: Path) -> None:
    page = impression("p", root_id="q", lists={}, shown=("c",), offset=2)
    first, second = viewed(
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


def test_what_may_not_be_learned_from_and_late_events_are_left_out(tmp_path: Path) -> None:
    (view,) = viewed(
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


def test_a_forgotten_person_is_forgotten_here_too(tmp_path: Path) -> None:
    before, after = viewed(tmp_path, [impression("q", user_id="u1"), impression("r", user_id="u2")], forget="u1")
    assert [row["query"] for row in before["latest"]] == ["text of r", "text of q"]
    assert [row["query"] for row in after["latest"]] == ["text of r", ""]


def test_reading_is_bounded_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "BACKLOG", 12)
    monkeypatch.setattr(activity, "STEP", 5)
    monkeypatch.setattr(activity, "DECISIONS", 8)
    monkeypatch.setattr(activity, "LATEST", 3)
    first, same, second = viewed(
        tmp_path, [impression(f"a{i}") for i in range(20)], [], [impression(f"b{i}") for i in range(2)]
    )
    assert first["offset"] == 20
    assert first["decisions"] == 8
    assert [row["query_id"] for row in first["latest"]] == ["a19", "a18", "a17"]
    assert same is first  # nothing new: nothing is worked out again
    assert second["offset"] == 22
    assert [row["query_id"] for row in second["latest"]] == ["b1", "b0", "a19"]


def test_a_decision_keeps_what_the_figures_need() -> None:
    one = decided(impression("q", degraded=(Degraded("vector", "timeout"),)), static)
    assert one.agrees
    assert one.propensity == 0.25
    assert one.candidates == 60
    assert one.found == {"a": ("lexical",), "b": ("lexical", "memory")}
    assert one.degraded == ("vector",)
    assert not decided(impression("q", counts={"lexical": 50, "memory": 0}), static).agrees


def test_candidates_beyond_the_count_earn_no_credit() -> None:
    one = decided(impression("q", counts={"lexical": 1, "memory": 10}), static)
    assert one.found["b"] == ("memory",)
    one.events.append(event("q", "b", "play"))
    assert credit([one], WEIGHTS) == {"memory": 1.0}


def test_worth_is_clipped_and_discounted() -> None:
    assert worth([event("q", "a", "play"), event("q", "b", "play")], WEIGHTS) == 1.0
    assert worth([event("q", "a", "dislike", position=3)], WEIGHTS) == pytest.approx(-0.25)
    assert worth([], WEIGHTS) == 0.0


def test_groups_cover_everything_once() -> None:
    window: list[Decided] = [decided(impression(str(i)), static) for i in range(11)]
    parts = list(groups(window, 4))
    assert [len(part) for part in parts] == [2, 3, 3, 3]
    assert [one.query_id for part in parts for one in part] == [str(i) for i in range(11)]
    assert list(groups([], 4)) == []


def test_comparison_of_a_policy_with_itself_shows_no_regret() -> None:
    values = [float(i % 2) for i in range(200)]
    same = compare(values, [1.0] * 200)
    assert same["effective"] == 200
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
    found = compare(values, weights)
    assert found["static"]["low"] < 0.3 < found["static"]["high"]
    assert found["learned"]["low"] < 0.54 < found["learned"]["high"]
    assert found["regret"]["low"] < 4000 * (0.3 - 0.54) < found["regret"]["high"] < 0
    assert found["effective"] == pytest.approx(sum(w > 0 for w in weights))


@pytest.mark.parametrize(
    ("values", "weights"),
    [([], []), ([1.0] * 20, [1.0] * 20), ([1.0] * 500, [0.0] * 500), ([1.0] * 500, [10.0] * 29 + [0.0] * 471)],
)
def test_no_estimate_from_too_little(values: list[float], weights: list[float]) -> None:
    found = compare(values, weights)
    assert found["static"] is None
    assert found["regret"] is None


def test_requests_that_the_static_counts_no_longer_meet_are_not_taken_for_regret() -> None:
    """Half of the requests earn 0.4, the other half 0.1, whatever the counts; only for the latter did the policy leave
    the static ones."""
    rng = random.Random(2)
    kinds = [rng.choice(("easy", "hard")) for _ in range(2000)]
    values = [float(rng.random() < (0.4 if kind == "easy" else 0.1)) for kind in kinds]
    weights = [1.0 if kind == "easy" else 0.0 for kind in kinds]
    alone = compare(values, weights)["regret"]
    beside = compare(values, weights, others_mean(kinds, values))["regret"]
    assert alone["low"] > 0, "what it looks like where nothing is known of requests"
    assert beside["low"] < 0 < beside["high"]


def test_the_true_difference_is_covered_beside_what_queries_earn() -> None:
    """The static counts earn 0.2 less, on queries that differ far more from one another."""
    rng = random.Random(3)
    missed = 0
    for _ in range(40):
        kinds = [str(rng.randrange(20)) for _ in range(1500)]
        fixed = [rng.random() < 0.4 for _ in kinds]
        chances = [0.2 + 0.03 * int(kind) - 0.2 * one for kind, one in zip(kinds, fixed, strict=True)]
        values = [float(rng.random() < chance) for chance in chances]
        weights = [1 / 0.4 if one else 0.0 for one in fixed]
        found = compare(values, weights, others_mean(kinds, values))["regret"]
        missed += not found["low"] < 1500 * -0.2 * 0.6 < found["high"]
    assert missed <= 6


def test_others_mean() -> None:
    assert others_mean(["a", "b", "a", "a"], [1.0, 5.0, 2.0, 3.0]) == [2.5, 2.75, 2.0, 1.5]
    assert others_mean([], []) == []


def test_where_the_policy_would_leave_the_static_counts_but_for_exploring() -> None:
    def drawn(count: int, likeliest: int) -> Impression:
        """`count` of the memory was drawn where `likeliest` was the plan."""
        chances = tuple((c, 0.9 if c == likeliest else 0.1) for c in (0, 10))
        memory = ArmChoice(count, dict(chances)[count], chances)
        decision = Decision("vw", "learned", "v1", 7, {"lexical": ArmChoice(50, 1.0, ((50, 1.0),)), "memory": memory})
        return impression("q", decision=decision)

    assert not decided(drawn(10, likeliest=10), static).left
    assert not decided(drawn(0, likeliest=10), static).left, "that was exploring"
    assert decided(drawn(10, likeliest=0), static).left
    assert decided(drawn(0, likeliest=0), static).left


def test_a_curve_says_who_found_what_and_where_the_policy_left(tmp_path: Path) -> None:
    away = impression("away", counts={"lexical": 10, "memory": 10})
    (view,) = viewed(tmp_path, [impression("q"), event("q", "b"), away])
    assert [point["left"] for point in view["curve"]] == [0.0, 1.0]
    assert [point["credit"] for point in view["curve"]] == [{"lexical": 0.25, "memory": 0.25}, {}]
