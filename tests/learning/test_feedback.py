"""Feedback events, judged against real answers in a real log."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.backends.sqlite.log import SqliteLog
from services.errors import StorageFailed
from services.learning.feedback import EventResult, FeedbackService
from services.query_ids import Signer
from services.types import Interaction
from tests.builders.records import make_impression

START = 1_795_000_000.0
TTL, ATTRIBUTION = 21600.0, 1800.0


class Shop:
    """A log with two pages of one answer, and the service in front of it; `now` is the server's clock."""

    def __init__(self, path: Path) -> None:
        self.now = START
        self.log = SqliteLog(path / "log.db")
        self.signer = Signer([("k1", b"a secret of fair length")], TTL)
        self.service = FeedbackService(self.log, self.signer, TTL, ATTRIBUTION, clock=lambda: self.now)
        self.first = self.signer.issue(START)
        self.second = self.signer.issue(START)

    async def open(self) -> None:
        await self.log.append(make_impression(self.first, at=START))
        page = {"ranking": (), "scores": (), "offset": 10, "shown": ("11", "12"), "rows": ()}
        await self.log.append(make_impression(self.second, root_id=self.first, at=START, **page))

    def event(self, event_id: Any = "e1", **changes: Any) -> dict[str, Any]:
        return {"event_id": event_id, "query_id": self.first, "object_id": "2", "action_name": "click"} | changes

    async def post(self, *events: object, admin: bool = False) -> list[str]:
        return [result.status for result in await self.service.record(events, admin)]

    async def stored(self) -> list[Interaction]:
        return [record for _, record in await self.log.read(2, 10_000) if isinstance(record, Interaction)]


@asynccontextmanager
async def use(path: Path) -> AsyncIterator[Shop]:
    shop = Shop(path)
    try:
        await shop.open()
        yield shop
    finally:
        await shop.log.close()


async def test_an_accepted_event_is_stored_with_what_we_showed_and_who_asked(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        shop.now = START + 5
        lies: dict[str, Any] = {"position": 1, "user_id": "mallory", "client_id": "x", "session_id": "y"}
        event = shop.event(timestamp="2026-11-20T20:00:00Z", value=2, event_attributes={"a": [1]}, **lies)
        assert await shop.service.record([event], False) == [EventResult("e1", "accepted", None)]  # type: ignore[arg-type]
        assert await shop.stored() == [
            Interaction(
                event_id="e1",
                query_id=shop.first,
                object_id="2",
                action_name="click",
                at=START + 5,
                timestamp=1795204800.0,
                position=2,
                value=2.0,
                user_id="ann",
                client_id="c1",
                session_id="s1",
                status="accepted",
            )
        ]


async def test_positions_count_on_over_pages(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        assert await shop.post(shop.event(query_id=shop.second, object_id="12")) == ["accepted"]
        assert [event.position for event in await shop.stored()] == [12]


async def test_only_ids_of_our_own_answers_are_known(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        stranger = Signer([("k1", b"another secret, fair length")], TTL).issue(START)
        never_shown = shop.signer.issue(START)
        strange = [
            stranger,
            never_shown,
            "",
            "x",
            shop.first[:-1],
            shop.first + "A",
            shop.first.swapcase(),
            "k1." + "é" * 56,
        ]
        statuses = await shop.post(*(shop.event(f"e{n}", query_id=query_id) for n, query_id in enumerate(strange)))
        assert statuses == ["unknown_query", "unknown_query", "invalid", *["unknown_query"] * 5]
        assert await shop.stored() == []


async def test_an_object_that_this_answer_did_not_show_does_not_count(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        # "4" was ranked but not shown; "11" was shown by the second page alone.
        assert await shop.post(shop.event("a", object_id="4"), shop.event("b", object_id="11")) == ["not_shown"] * 2
        assert await shop.post(shop.event("c", query_id=shop.second, object_id="2")) == ["not_shown"]
        assert await shop.stored() == []


@pytest.mark.parametrize(
    ("age", "status"),
    [(0.0, "accepted"), (ATTRIBUTION, "accepted"), (ATTRIBUTION + 0.01, "late"), (TTL, "late"), (TTL + 1, "late")],
)
async def test_what_comes_after_the_window_is_kept_and_late(tmp_path: Path, age: float, status: str) -> None:
    async with use(tmp_path) as shop:
        shop.now = START + age
        assert await shop.post(shop.event()) == [status]
        assert [(event.status, event.position) for event in await shop.stored()] == [(status, 2)]


async def test_an_expired_id_whose_answer_is_gone_is_late(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        shop.now = START + TTL + 1
        assert await shop.post(shop.event(query_id=shop.signer.issue(START))) == ["late"]
        assert [(e.status, e.position, e.user_id) for e in await shop.stored()] == [("late", None, None)]


@pytest.mark.parametrize(("id_life", "query_ttl"), [(1e9, 60.0), (60.0, 1e9)])
async def test_a_window_longer_than_the_life_of_an_id_ends_with_it(
    tmp_path: Path, id_life: float, query_ttl: float
) -> None:
    async with use(tmp_path) as shop:
        signer = Signer([("k1", b"a secret of fair length")], id_life)
        service = FeedbackService(shop.log, signer, query_ttl, 1e9, lambda: shop.now)
        shop.now = START + 61
        assert [result.status for result in await service.record([shop.event()], False)] == ["late"]


async def test_an_answer_signed_with_a_key_that_was_dropped_is_unknown(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        signer = Signer([("k2", b"quite another secret")], TTL)
        service = FeedbackService(shop.log, signer, TTL, ATTRIBUTION, lambda: shop.now)
        assert [result.status for result in await service.record([shop.event()], False)] == ["unknown_query"]


async def test_a_retry_is_a_duplicate_even_when_it_would_be_refused_by_now(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        assert await shop.post(shop.event()) == ["accepted"]
        for age in (0.0, ATTRIBUTION + 1, TTL + 1, 23 * 3600.0):
            shop.now = START + age
            assert await shop.post(shop.event()) == ["duplicate"]
        rotated = FeedbackService(shop.log, Signer([("k2", b"quite another secret")], TTL), TTL, ATTRIBUTION)
        assert [result.status for result in await rotated.record([shop.event()], False)] == ["duplicate"]
        assert len(await shop.stored()) == 1


async def test_the_same_event_id_with_another_body_is_invalid(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        assert await shop.post(shop.event(value=1)) == ["accepted"]
        changes: list[dict[str, Any]] = [{"object_id": "1"}, {"object_id": "9"}, {"action_name": "like"}, {"value": 2}]
        changes += [
            {"query_id": shop.second, "object_id": "11"},
            {"query_id": "forged"},
            {"event_attributes": {"a": 1}},
        ]
        for change in changes:
            (result,) = await shop.service.record([shop.event(**({"value": 1} | change))], False)
            assert (result.status, str(result.detail)[:9]) == ("invalid", "event_id:")
        assert len(await shop.stored()) == 1


async def test_the_spelling_of_the_same_body_does_not_matter(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        assert await shop.post(shop.event(value=1, event_attributes={"a": 1, "b": 2})) == ["accepted"]
        again = shop.event(value=1.0, position=None, event_attributes={"b": 2, "a": 1})
        assert await shop.post(dict(reversed(again.items()))) == ["duplicate"]


async def test_an_action_on_an_object_counts_once_whatever_the_event_ids(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        batch = [shop.event(f"e{n}", action_name=action) for n, action in enumerate(("click", "click", "play"))]
        batch += [shop.event("e3", object_id="3"), batch[0], {**batch[0], "object_id": "3"}]
        batch += [shop.event(f"a{n}", object_id=None, action_name="abandon") for n in range(2)]
        expected = ["accepted", "duplicate", "accepted", "accepted", "duplicate", "invalid", "accepted", "duplicate"]
        assert await shop.post(*batch) == expected
        assert await shop.post(*batch) == ["duplicate"] * 5 + ["invalid"] + ["duplicate"] * 2
        assert len(await shop.stored()) == 4


async def test_events_without_an_answer_need_the_admin_key_a_person_and_an_object(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        event = {"event_id": "e1", "object_id": "7", "action_name": "play", "user_id": "eve", "session_id": "s9"}
        (result,) = await shop.service.record([event], False)
        assert (result.status, "admin key" in str(result.detail)) == ("invalid", True)
        for missing in ("user_id", "object_id"):
            (result,) = await shop.service.record([{k: v for k, v in event.items() if k != missing}], True)
            assert result.status == "invalid"
            assert missing in str(result.detail)
        abandon = {"event_id": "e1", "action_name": "abandon", "user_id": "eve"}
        assert await shop.post(abandon, admin=True) == ["invalid"]
        assert await shop.post(event, {**event, "event_id": "e2"}, event, admin=True) == [
            "accepted",
            "accepted",
            "duplicate",
        ]
        assert {(e.query_id, e.user_id, e.session_id, e.position) for e in await shop.stored()} == {
            (None, "eve", "s9", None)
        }


INVALID: list[tuple[object, str]] = [
    (None, "JSON object"),
    ([], "JSON object"),
    ("click", "JSON object"),
    (7, "JSON object"),
    ({}, "event_id"),
    ({"event_id": 5}, "event_id"),
    ({"event_id": ""}, "event_id"),
    ({"event_id": "x" * 129}, "event_id"),
    ({"event_id": "\ud800"}, "event_id"),
    ({"query_id": 5}, "query_id"),
    ({"object_id": 5}, "object_id"),
    ({"object_id": None}, "object_id: send"),
    ({"object_id": ""}, "object_id"),
    ({"action_name": "buy"}, "'purchase'"),
    ({"action_name": None}, "action_name"),
    ({"timestamp": "yesterday"}, "ISO 8601"),
    ({"timestamp": 1795000000}, "timestamp"),
    ({"timestamp": "2026-13-01T00:00:00Z"}, "ISO 8601"),
    ({"position": 0}, "position"),
    ({"position": "1"}, "position"),
    ({"position": 1.0}, "position"),
    ({"position": True}, "position"),
    ({"value": "1"}, "value"),
    ({"value": True}, "value"),
    ({"value": math.nan}, "value"),
    ({"value": math.inf}, "value"),
    ({"value": 10**400}, "value"),
    ({"action_name": "dwell"}, "value: send the seconds"),
    ({"action_name": "dwell", "value": -1}, "value: send the seconds"),
    ({"action_name": "abandon"}, "object_id: leave it out"),
    ({"user_id": 5}, "user_id"),
    ({"user_id": "x" * 257}, "user_id"),
    ({"event_attributes": [1]}, "event_attributes"),
    ({"event_attributes": {"a": math.nan}}, "event_attributes"),
    ({"event_attributes": {"a": "x" * 5000}}, "event_attributes"),
    ({"reward": 5}, "reward: unknown; fields are event_id"),
    ({"\x1b[2J evil": 5}, "a field of this name: unknown"),
]


@pytest.mark.parametrize(("wrong", "detail"), INVALID)
async def test_malformed_events_are_invalid_and_say_what_to_send(tmp_path: Path, wrong: object, detail: str) -> None:
    async with use(tmp_path) as shop:
        event: object = wrong
        if isinstance(wrong, dict) and wrong:
            event = shop.event(**wrong)
        good = shop.event("good", object_id="1")
        results = await shop.service.record([event, good], True)
        assert [result.status for result in results] == ["invalid", "accepted"]
        assert detail in str(results[0].detail)
        echoed = isinstance(wrong, dict) and wrong != {} and "event_id" not in wrong
        assert results[0].event_id == ("e1" if echoed else None)
        assert [event.event_id for event in await shop.stored()] == ["good"]


async def test_deeply_nested_attributes_are_invalid(tmp_path: Path) -> None:
    nested: Any = {}
    for _ in range(100_000):
        nested = {"a": nested}
    async with use(tmp_path) as shop:
        assert await shop.post(shop.event(event_attributes=nested)) == ["invalid"]


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
fields = (
    "event_id",
    "query_id",
    "object_id",
    "action_name",
    "timestamp",
    "position",
    "value",
    "user_id",
    "event_attributes",
)


@given(
    st.lists(values | st.dictionaries(st.sampled_from(fields), values | st.sampled_from(["click", "2"])), max_size=5)
)
async def test_whatever_json_is_sent_gets_one_answer_each_that_can_be_sent_back(events: list[Any]) -> None:
    class Nothing(SqliteLog):
        """No file for every example: an empty log that takes nothing in."""

        def __init__(self) -> None:
            pass

        async def accept(self, interactions: Any) -> list[str]:
            return [interaction.status for interaction, _ in interactions]

    service = FeedbackService(Nothing(), Signer([("k1", b"a secret of fair length")], TTL), TTL, ATTRIBUTION)
    results = await service.record(events, False)
    assert len(results) == len(events)
    for result in results:
        json.dumps([result.event_id, result.status, result.detail]).encode("utf-8")
        assert result.status in ("invalid", "unknown_query")


async def test_a_thousand_events_in_one_call(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        ids = [shop.signer.issue(START) for _ in range(500)]
        await asyncio.gather(*(shop.log.append(make_impression(query_id, rows=())) for query_id in ids))
        events = [shop.event(f"{q}{o}", query_id=query_id, object_id=o) for q, query_id in enumerate(ids) for o in "12"]
        assert await shop.post(*events) == ["accepted"] * 1000
        assert await shop.post(*events) == ["duplicate"] * 1000


async def test_the_same_event_from_many_callers_at_once_counts_once(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        statuses = await asyncio.gather(*(shop.post(shop.event()) for _ in range(50)))
        assert sorted(statuses) == [["accepted"]] + [["duplicate"]] * 49
        assert len(await shop.stored()) == 1


async def test_a_failing_store_is_reported_and_nothing_is_accepted(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    await shop.open()
    await shop.log.close()
    with pytest.raises(StorageFailed):
        await shop.post(shop.event())
    shop = Shop(tmp_path)
    assert await shop.stored() == []
    await shop.log.close()


async def test_feedback_on_a_forgotten_answer_names_nobody(tmp_path: Path) -> None:
    async with use(tmp_path) as shop:
        await shop.log.forget("ann", START + 1)
        assert await shop.post(shop.event(user_id="ann")) == ["accepted"]
        (event,) = await shop.stored()
        assert (event.user_id, event.session_id, str(event.client_id)[:10]) == (None, None, "forgotten-")
