"""Policy features of a context."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policies.features import BUCKETS, features
from services.policies.vw_format import MAX_FEATURES
from services.types import (
    Alternative,
    ArmOption,
    Condition,
    Context,
    Interpretation,
    Person,
    Query,
    Remembered,
    Slot,
    Understanding,
)

SATURDAY_EVENING = datetime(2026, 6, 13, 20, 0, tzinfo=UTC).timestamp()
OPTIONS = (ArmOption("lexical", (0, 10)), ArmOption("vector", (0,)))


def understood(text: str, *slots: Slot, rest: tuple[str, ...] = (), **changes: Any) -> Understanding:
    tokens = tuple(text.split())
    fields: dict[str, Any] = {
        "normalized": text,
        "tokens": tokens,
        "words": tuple((Alternative(token, 1.0),) for token in tokens),
        "corrected": None,
        "language": "en",
        "interpretations": (Interpretation(0.8, slots, rest),),
        "rarity": tuple(0.5 for _ in tokens),
    }
    return Understanding(**(fields | changes))


def context(understanding: Understanding | None = None, **changes: Any) -> Context:
    fields: dict[str, Any] = {
        "query": Query("toy story"),
        "understanding": understanding or understood("toy story"),
        "at": SATURDAY_EVENING,
    }
    return Context(**(fields | changes))


def test_a_title_fills_the_whole_query() -> None:
    found = features(context(understood("toy story", Slot("title", "Toy Story", 0, 9, 0.9))), OPTIONS)
    assert found["slot_title"] == 0.9
    assert found["covered"] == found["title_alone"] == found["rest_none"] == 1.0
    assert found.keys().isdisjoint({"slot_keyword", "slot_range", "slots_none", "rest"})


def test_the_title_field_is_the_one_that_the_schema_names() -> None:
    seen = context(understood("toy story", Slot("name", "Toy Story", 0, 9, 0.9)))
    assert "slot_title" in features(seen, OPTIONS, title="name")
    assert "slot_keyword" in features(seen, OPTIONS, title=None)


def test_slots_are_told_apart_by_kind() -> None:
    slots = (Slot("genres", "Comedy", 0, 6, 0.7), Slot("year", "90s", 7, 10, 0.6, 1990, 1999))
    found = features(context(understood("comedy 90s weird", *slots, rest=("weird",))), OPTIONS)
    assert (found["slot_keyword"], found["slot_range"]) == (0.7, 0.6)
    assert found["covered"] == pytest.approx(9 / 16, abs=1e-6)
    assert found["rest"] == pytest.approx(1 / 3, abs=1e-6)
    assert "title_alone" not in found


def test_rarity_and_spelling() -> None:
    seen = understood("toy stroy", rarity=(0.25, 1.0), unknown=0.5, corrected="toy story")
    found = features(context(seen), OPTIONS)
    assert (found["rarity_min"], found["rarity_mean"], found["rarity_max"]) == (0.25, 0.625, 1.0)
    assert (found["unknown"], found["some_unknown"], found["corrected"]) == (0.5, 1.0, 1.0)


def test_what_memory_knows() -> None:
    memory = (Remembered("1", 3.0, 9.0, False, 1.0), Remembered("2", 1.0, 0.0, True, 0.5))
    found = features(context(memory=memory), OPTIONS)
    assert found["memory_best"] == found["memory_focus"] == 0.75
    assert (found["memory_similarity"], found["memory_predicted"]) == (1.0, 0.5)
    assert found["memory_clicks"] == pytest.approx(math.log(10) / math.log(1001), abs=1e-6)
    assert "memory_none" in features(context(), OPTIONS)


def test_persons() -> None:
    recent = (("1", 1.0, SATURDAY_EVENING - 3600.0), ("2", -1.0, SATURDAY_EVENING - 7200.0))
    found = features(context(person=Person("u:ann", recent)), OPTIONS)
    assert found["person"] == 1.0
    assert found["history_fresh"] == found["history_disliked"] == 0.5
    assert "person" not in features(context(), OPTIONS)


def test_an_arm_that_cannot_answer_is_seen_as_absent() -> None:
    found = features(context(), OPTIONS)
    assert found["has_lexical"] == 1.0
    assert "has_vector" not in found


@pytest.mark.parametrize(
    ("at", "offset", "expected"),
    [
        ("2026-06-13T20:00", None, {"time_evening", "weekday_5", "weekend"}),
        ("2026-06-13T20:00", 600, {"time_morning", "weekday_6", "weekend"}),
        ("2026-12-24T03:00", None, {"time_night", "weekday_3", "holidays"}),
        ("2026-12-24T03:00", -240, {"time_evening", "weekday_2", "holidays"}),
        ("2027-01-06T12:00", None, {"time_afternoon", "weekday_2", "holidays"}),
        ("2026-06-13T20:00", "600", {"time_evening", "weekday_5", "weekend"}),
        ("2026-06-13T20:00", 10_000, {"time_evening", "weekday_5", "weekend"}),
    ],
)
def test_time_is_the_callers(at: str, offset: Any, expected: set[str]) -> None:
    query = Query("toy", context={} if offset is None else {"utc_offset_minutes": offset})
    found = features(context(query=query, at=datetime.fromisoformat(at + "+00:00").timestamp()), OPTIONS)
    assert {name for name in found if name.startswith(("time_", "week", "holidays"))} == expected


def test_callers_cannot_name_features() -> None:
    """Known devices by name, whatever else in a fixed number of buckets: no text of the request becomes a name."""
    names = set()
    for i in range(500):
        query = Query("toy", context={"device": f"x|{i}\n", f"key {i}": f"value|{i}"})
        names |= features(context(query=query), OPTIONS).keys()
    callers = {name for name in names if name.startswith(("device_", "context_"))}
    assert "device_other" in callers
    assert callers <= {"device_other", *(f"context_{i}" for i in range(BUCKETS))}
    assert features(context(query=Query("toy", context={"device": "tv"})), OPTIONS)["device_tv"] == 1.0


def test_filters_and_depth() -> None:
    query = Query("toy", filters=(Condition("year", gte=1990.0),), limit=20, offset=30)
    found = features(context(query=query), OPTIONS)
    assert (found["filtered"], found["filters"], found["depth"]) == (1.0, 0.25, 0.5)


numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.text(max_size=64), st.integers(), st.booleans(), st.floats())


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    tokens=st.lists(st.text(min_size=1, max_size=20), max_size=50),
    language=st.text(max_size=5),
    rarity=st.lists(st.floats(0.0, 1.0), max_size=50),
    entries=st.dictionaries(st.text(max_size=20), scalars, max_size=16),
    memory=st.lists(st.tuples(st.floats(-10, 1e6), st.floats(-1, 1e6), st.booleans(), st.floats(0, 1)), max_size=5),
    recent=st.lists(st.tuples(numbers, st.floats(0, 2e9)), max_size=5),
    at=st.floats(0, 4e9),
)
def test_features_are_bounded_and_survive_the_log(
    tokens: list[str], language: str, rarity: list[float], entries: dict[str, Any],
    memory: list[tuple[float, float, bool, float]], recent: list[tuple[float, float]], at: float,
) -> None:  # fmt: skip
    text = " ".join(tokens)
    slots = (Slot("title", "x", 0, len(text), 1.0),) if text else ()
    seen = replace(understood(text, *slots), tokens=tuple(tokens), rarity=tuple(rarity), language=language)
    search = context(
        seen,
        query=Query(text, context=entries),
        at=at,
        memory=tuple(Remembered("1", *fields) for fields in memory),
        person=Person("u:ann", tuple(("1", weight, when) for weight, when in recent)),
    )
    found = features(search, OPTIONS)
    assert all(0.0 < value <= 1.0 for value in found.values())
    assert json.loads(json.dumps(found)) == found == {name: round(value, 6) for name, value in found.items()}
    assert found == features(search, OPTIONS)
    assert len(found) < MAX_FEATURES
    assert all(name.isascii() for name in found)


def test_an_empty_query_has_features() -> None:
    empty = understood("", interpretations=(), rarity=())
    assert features(context(empty), ())["tokens_0"] == 1.0
