"""Contract of every EventLog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from services.backends.base import Counted, EventLog, Forget, Known, Record, Tick
from services.types import Deadline, Impression, Interaction
from tests.builders.records import make_impression, make_interaction

DAY = 24 * 3600.0


def soon() -> Deadline:
    return Deadline.after(10.0)


class EventLogContract:
    """Subclasses give `open(folder, retention)`: the log kept there, with what was in it before."""

    def open(self, folder: Path, retention: float | None = None) -> AbstractAsyncContextManager[EventLog]:
        raise NotImplementedError

    @asynccontextmanager
    async def two(self, folder: Path, retention: float | None = None) -> AsyncIterator[tuple[EventLog, EventLog]]:
        (folder / "other").mkdir()
        async with self.open(folder, retention) as one, self.open(folder / "other", retention) as other:
            yield one, other

    async def test_offsets_ascend_by_one_and_records_come_back_in_order(self, tmp_path: Path) -> None:
        records: list[Record] = [
            make_impression(),
            Tick(1001.0),
            make_impression("q2", at=1002.0),
            Forget("bob", 1003.0),
        ]
        async with self.open(tmp_path) as log:
            assert await log.end() == (0, 0.0)
            assert await log.read(0, 10) == []
            assert [await log.append(record) for record in records] == [1, 2, 3, 4]
            assert await log.end() == (4, 1003.0)
            assert await log.read(0, 10) == list(enumerate(records, 1))
            assert await log.read(1, 2) == [(2, records[1]), (3, records[2])]
            assert await log.read(4, 10) == []

    async def test_everything_is_there_after_reopening(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            await log.append(make_impression())
            await log.accept([(make_interaction(), "d")])
        async with self.open(tmp_path) as log:
            assert await log.read(0, 10) == [(1, make_impression()), (2, make_interaction())]
            assert await log.impression("q1", soon()) == make_impression()
            assert await log.accept([(make_interaction(), "d")]) == ["duplicate"]
            assert await log.append(Tick(1002.0)) == 3

    async def test_an_impression_is_found_as_soon_as_it_is_appended(self, tmp_path: Path) -> None:
        async def one(log: EventLog, number: int) -> None:
            impression = make_impression(f"q{number}")
            await log.append(impression)
            assert await log.impression(impression.query_id, soon()) == impression

        async with self.open(tmp_path) as log:
            await asyncio.gather(*(one(log, number) for number in range(50)))
            assert sorted(offset for offset, _ in await log.read(0, 100)) == list(range(1, 51))
            assert await log.impression("q404", soon()) is None

    async def test_feedback_is_found_by_its_answer(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            await log.append(make_impression())
            late = make_interaction("e2", status="late", action_name="play")
            other = make_interaction("e3", query_id="q2")
            await log.accept([(make_interaction(), "d1"), (late, "d2"), (other, "d3")])
            assert await log.interactions("q1", soon()) == [make_interaction(), late]
            assert await log.interactions("q404", soon()) == []

    async def test_a_look_up_past_its_deadline_does_not_begin(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            with pytest.raises(TimeoutError):
                await log.impression("q404", Deadline.after(-1.0))

    async def test_log_time_never_goes_back(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            await log.append(Tick(1000.0))
            await log.append(make_impression(at=900.0))
            await log.accept([(make_interaction(at=950.0), "d")])
            assert [record.at for _, record in await log.read(0, 10)] == [1000.0, 1000.0, 1000.0]
            found = await log.impression("q1", soon())
            assert found is not None
            assert found.at == 1000.0

    async def test_an_event_id_counts_once_and_only_with_its_first_body(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            assert await log.accept([(make_interaction(), "d")]) == ["accepted"]
            assert await log.accept([(make_interaction(), "d")]) == ["duplicate"]
            assert await log.accept([(make_interaction(object_id="2"), "other")]) == ["invalid"]
            assert await log.read(0, 10) == [(1, make_interaction())]

    async def test_a_known_event_id_is_recognised_before_anything_else(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            await log.accept([(make_interaction(), "d")])
            for status in ("late", "not_shown", "unknown_query"):
                assert await log.accept([(make_interaction(status=status), "d")]) == ["duplicate"]
            assert await log.accept([(make_interaction(status="not_shown"), "other")]) == ["invalid"]

    async def test_refused_events_are_not_stored_and_may_come_again_corrected(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            for status in ("not_shown", "unknown_query"):
                assert await log.accept([(make_interaction(status=status), "d")]) == [status]
            assert await log.end() == (0, 0.0)
            assert await log.accept([(make_interaction(), "other")]) == ["accepted"]

    async def test_an_action_on_an_object_of_an_answer_counts_once_whatever_the_event_id(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            batch = [
                make_interaction("e1"),
                make_interaction("e2"),
                make_interaction("e3", action_name="purchase"),
                make_interaction("e4", object_id="2"),
                make_interaction("e5", query_id="q2"),
                make_interaction("e6", object_id=None, action_name="abandon"),
                make_interaction("e7", object_id=None, action_name="abandon"),
                make_interaction("e8", status="late"),
            ]
            expected = ["accepted", "duplicate", *["accepted"] * 4, "duplicate", "duplicate"]
            assert await log.accept([(event, event.event_id) for event in batch]) == expected
            assert await log.accept([(event, event.event_id) for event in batch]) == ["duplicate"] * 8
            assert await log.accept([(batch[1], "other")]) == ["invalid"]
            assert len(await log.read(0, 10)) == 5

    async def test_late_events_are_kept_and_do_not_use_up_the_count(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            late = make_interaction("e1", status="late")
            assert await log.accept([(late, "d")]) == ["late"]
            assert await log.accept([(late, "d")]) == ["duplicate"]
            assert await log.accept([(make_interaction("e2"), "d")]) == ["accepted"]
            assert [record for _, record in await log.read(0, 10)] == [late, make_interaction("e2")]

    async def test_events_without_an_answer_are_counted_by_their_event_id_alone(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            plays = [(make_interaction(f"e{n}", query_id=None, action_name="play"), f"d{n}") for n in range(3)]
            assert await log.accept(plays) == ["accepted"] * 3
            assert await log.accept(plays) == ["duplicate"] * 3

    async def test_the_same_event_posted_at_once_by_many_is_accepted_once(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            same = await asyncio.gather(*(log.accept([(make_interaction(), "d")]) for _ in range(50)))
            assert sorted(status for (status,) in same) == ["accepted"] + ["duplicate"] * 49
            ids = [make_interaction(f"x{n}", object_id="2") for n in range(50)]
            other = await asyncio.gather(*(log.accept([(event, event.event_id)]) for event in ids))
            assert sorted(status for (status,) in other) == ["accepted"] + ["duplicate"] * 49
            assert len(await log.read(0, 100)) == 2

    async def test_event_ids_are_remembered_for_a_day_of_log_time(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            await log.accept([(make_interaction(at=0.0), "d")])
            for number, hours in enumerate((1, 12, 23, 24)):
                await log.accept([(make_interaction(f"f{number}", query_id=None, at=hours * 3600.0), "d")])
                assert await log.accept([(make_interaction(at=hours * 3600.0), "d")]) == ["duplicate"]

    async def test_nothing_to_accept_is_no_failure(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            assert await log.accept([]) == []

    async def test_forgetting_blanks_the_person_and_keeps_what_was_learned_from(self, tmp_path: Path) -> None:
        mine = [make_impression(), make_impression("q2", text="my illness", normalized="my illness")]
        others = make_impression("q3", user_id="bob")
        async with self.open(tmp_path) as log:
            for impression in (*mine, others):
                await log.append(impression)
            await log.accept([(make_interaction(), "d"), (make_interaction("e2", query_id="q3", user_id="bob"), "d")])
            assert await log.forget("ann", 2000.0) == 3
            records = [record for _, record in await log.read(0, 10)]
            assert records[-1] == Forget("ann", 2000.0)
            assert records[2] == others
            assert records[4] == make_interaction("e2", query_id="q3", user_id="bob")
            text = repr([*records[:2], records[3]])
            for trace in ("ann", "'s1'", "'c1'", "toy", "Toy", "illness", "digest"):
                assert trace not in text
            for before, after in zip(mine, records[:2], strict=True):
                assert isinstance(after, Impression)
                kept = ("query_id", "at", "features", "options", "decision", "lists", "degraded", "shown", "rows")
                assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
                assert after.actor.person is None
                assert await log.impression(before.query_id, soon()) == after
            # Still one principal, so that its influence stays capped as one.
            first, second, interaction = records[0], records[1], records[3]
            assert isinstance(first, Impression)
            assert isinstance(second, Impression)
            assert isinstance(interaction, Interaction)
            assert first.actor.principal == second.actor.principal == f"c:{interaction.client_id}"
            assert await log.forget("ann", 2001.0) == 0

    async def test_forgetting_many_records_leaves_none(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            await asyncio.gather(*(log.append(make_impression(f"q{n}", rows=())) for n in range(450)))
            assert await log.forget("ann", 2000.0) == 450
            records = await log.read(0, 1000)
            assert len(records) == 451
            assert "ann" not in repr(records[:-1])
            assert len({record.client_id for _, record in records[:-1]}) == 1  # type: ignore[union-attr]

    async def test_forgetting_while_others_read_and_write_shows_every_record_once(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            for n in range(300):
                await log.append(make_impression(f"q{n}", rows=(), at=1000.0 + n))
            done = asyncio.Event()
            looks = 0

            async def look() -> None:
                nonlocal looks
                while not done.is_set():
                    records = await log.read(0, 300)
                    assert [offset for offset, _ in records] == list(range(1, 301))
                    assert [record.at for _, record in records] == [1000.0 + n for n in range(300)]
                    looks += 1

            async def write() -> None:
                for n in range(50):
                    await log.append(make_impression(f"r{n}", rows=()))

            looking = asyncio.create_task(look())
            blanked, _ = await asyncio.gather(log.forget("ann", 2000.0), write())
            done.set()
            await looking
            assert looks > 0
            records = [record for _, record in await log.read(0, 1000)]
            (forget,) = [n for n, record in enumerate(records) if isinstance(record, Forget)]
            assert "ann" not in repr(records[:forget])
            assert blanked == forget
            assert await log.forget("ann", 2001.0) == len(records) - forget - 1

    async def test_dead_letters_are_kept_once_and_told_newest_first(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            assert await log.dead_letters(10) == []
            for offset, reason in ((7, "RecordDamaged"), (3, "ValueError"), (7, "KeyError"), (9, "ValueError")):
                await log.dead_letter(offset, reason)
        async with self.open(tmp_path) as log:
            assert await log.dead_letters(10) == [(9, "ValueError"), (3, "ValueError"), (7, "RecordDamaged")]
            assert await log.dead_letters(2) == [(9, "ValueError"), (3, "ValueError")]
            assert await log.end() == (0, 0.0)

    async def test_what_all_consumers_are_done_with_goes_when_it_is_old(self, tmp_path: Path) -> None:
        async with self.open(tmp_path, retention=150.0) as log:
            for n in range(1, 5):
                await log.append(make_impression(f"q{n}", at=100.0 * n))
                await log.accept([(make_interaction(f"e{n}", query_id=f"q{n}", at=100.0 * n), "d")])
            # Log time is 400; what lies before 250 is old: offsets 1 to 4.
            assert len(await log.read(0, 10)) == 8
            await log.consumed("policy", 3)
            await log.consumed("memory", 1)
            assert await kept(log) == [4, 5, 6, 7, 8]  # `policy` alone had spoken when it said 3.
        async with self.open(tmp_path, retention=150.0) as log:
            assert await kept(log) == [4, 5, 6, 7, 8]
            await log.consumed("policy", 8)
            assert await kept(log) == [4, 5, 6, 7, 8]  # `memory` is at 1.
            await log.consumed("memory", 8)
            assert await kept(log) == [5, 6, 7, 8]
            assert await log.read(0, 1) == await log.read(4, 1)
            for n in (1, 2):
                assert await log.impression(f"q{n}", soon()) is None
                assert await log.interactions(f"q{n}", soon()) == []
            assert await log.impression("q3", soon()) == make_impression("q3", at=300.0)
            assert len(await log.interactions("q3", soon())) == 1
            assert await log.accept([(make_interaction("e1", query_id="q1"), "d")]) == ["duplicate"]
            assert await log.end() == (8, 400.0)
            assert await log.forget("ann", 401.0) == 4

    async def test_a_consumer_never_goes_back(self, tmp_path: Path) -> None:
        async with self.open(tmp_path, retention=150.0) as log:
            await log.append(Tick(100.0))
            await log.append(Tick(101.0))
            await log.consumed("memory", 2)
            await log.consumed("memory", 0)
            await log.append(Tick(900.0))
            await log.consumed("other", 99)  # Further than the log goes: no further than its end.
            assert await kept(log) == [3]
            assert await log.append(Tick(2000.0)) == 4
            await log.consumed("memory", 4)
            assert await kept(log) == [4]

    async def test_nothing_waits_for_a_consumer_that_is_no_more(self, tmp_path: Path) -> None:
        async with self.open(tmp_path, retention=150.0) as log:
            await log.forget_consumer("mirror")  # There is no log yet, and no such consumer.
            await log.append(Tick(100.0))
            await log.append(Tick(900.0))
            await log.consumed("mirror", 0)
            await log.consumed("memory", 2)
            assert await kept(log) == [1, 2]
            await log.forget_consumer("mirror")
            assert await log.consumers() == {"memory": 2}
            await log.consumed("memory", 2)
            assert await kept(log) == [2]
            await log.consumed("mirror", 1)  # It may come again, and is waited for again.
            await log.append(Tick(2000.0))
            await log.consumed("memory", 3)
            assert await kept(log) == [2, 3]

    async def test_the_last_record_never_goes_and_offsets_go_on(self, tmp_path: Path) -> None:
        async with self.open(tmp_path, retention=0.0) as log:
            await log.consumed("memory", 0)
            for n in range(1300):
                await log.append(Tick(float(n)))
            await log.consumed("memory", 1300)
            assert await kept(log) == [1300]
        async with self.open(tmp_path, retention=0.0) as log:
            assert await log.end() == (1300, 1299.0)
            assert await log.append(Tick(5.0)) == 1301
            assert await log.read(0, 10) == [(1300, Tick(1299.0)), (1301, Tick(1299.0))]
            await log.append(Tick(9000.0))
            await log.consumed("memory", 1302)
            assert await log.read(0, 10) == [(1302, Tick(9000.0))]

    async def test_without_a_retention_everything_stays(self, tmp_path: Path) -> None:
        async with self.open(tmp_path) as log:
            await log.append(Tick(1.0))
            await log.append(Tick(10.0**9))
            await log.consumed("memory", 2)
            assert await kept(log) == [1, 2]

    # --- for backups ---

    async def test_its_entries_and_what_is_known_make_the_same_log_elsewhere(self, tmp_path: Path) -> None:
        async with self.two(tmp_path) as (one, other):
            await filled(one)
            await copied(one, other)
            assert await other.read(0, 100) == await one.read(0, 100)
            assert await other.end() == await one.end()
            for query in ("q1", "q2", "q3"):
                assert await other.impression(query, soon()) == await one.impression(query, soon())
                assert await other.interactions(query, soon()) == await one.interactions(query, soon())
            for log in (one, other):  # and both go on alike
                assert await log.append(Tick(5.0)) == 9
                again = [(make_interaction(), "d1"), (make_interaction("e9"), "d9"), (make_interaction("e1"), "other")]
                assert await log.accept(again) == ["duplicate", "duplicate", "invalid"]
                assert await log.accept([(make_interaction("e8", query_id="q3", object_id=None), "d")]) == ["accepted"]
                with pytest.raises(ValueError, match="in the log already"):
                    await log.append(make_impression("q2"))
                assert await log.forget("bob", 6000.0) == 2
            assert [o for o, _ in await other.read(0, 100)] == [o for o, _ in await one.read(0, 100)]

    async def test_a_log_without_its_beginning_is_copied_with_its_offsets(self, tmp_path: Path) -> None:
        async with self.two(tmp_path, retention=250.0) as (one, other):
            for n in range(1, 6):
                await one.append(make_impression(f"q{n}", at=100.0 * n))
            await one.consumed("memory", 3)
            await one.consumed("policy", 5)
            await copied(one, other)
            assert [offset for offset, _ in await other.read(0, 10)] == [3, 4, 5]
            assert await other.consumers() == await one.consumers() == {"memory": 3, "policy": 5}
            assert await other.append(Tick(501.0)) == 6

    async def test_an_empty_log_is_copied_too(self, tmp_path: Path) -> None:
        async with self.two(tmp_path) as (one, other):
            assert await one.entries(0, 0) == []
            assert await one.consumers() == {}
            await copied(one, other)
            assert await other.end() == (0, 0.0)
            assert await other.append(Tick(1.0)) == 1

    async def test_what_is_known_is_of_the_log_up_to_an_end_while_others_write(self, tmp_path: Path) -> None:
        """All events up to the end and none of the later ones, which would otherwise count twice, or never."""
        async with self.open(tmp_path) as log:
            stop = asyncio.Event()

            async def write(name: str) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    events = [
                        make_interaction(f"{name}-{number}-{n}", query_id=f"{name}-{number}", object_id=str(n))
                        for n in range(3)
                    ]
                    assert await log.accept([(event, "d") for event in events]) == ["accepted"] * 3

            writers = [asyncio.create_task(write(name)) for name in "abc"]
            while (await log.end())[0] < 3000:  # noqa: ASYNC110 - the writers are real
                await asyncio.sleep(0.01)
            for _ in range(5):
                known: list[Known | Counted] = []
                end = await log.known(known.extend)
                assert end >= 3000
                records = [record for _, record in await log.read(0, end)]
                events = {record.event_id for record in records if isinstance(record, Interaction)}
                assert len(events) == end
                assert {one.event_id for one in known if isinstance(one, Known)} == events
                counted = {(one.query_id, one.object_id) for one in known if isinstance(one, Counted)}
                assert counted == {(r.query_id, r.object_id) for r in records if isinstance(r, Interaction)}
            stop.set()
            await asyncio.gather(*writers)


async def filled(log: EventLog) -> None:
    """Eight records of all kinds, one person forgotten, one clock that went back."""
    await log.append(make_impression(at=2000.0))
    await log.append(make_impression("q2", user_id="bob", at=1000.0))
    await log.accept([(make_interaction(), "d1"), (make_interaction("e2", query_id="q2", user_id="bob"), "d2")])
    await log.accept([(make_interaction("e3", status="late", action_name="play"), "d3")])
    await log.append(make_impression("q3", user_id=None))
    await log.append(Tick(3000.0))
    await log.forget("ann", 3001.0)


async def copied(one: EventLog, other: EventLog) -> None:
    portions: list[Sequence[Known | Counted]] = []
    end = await one.known(portions.append)
    for known in portions:
        await other.put_known(known)
    after = 0
    while entries := await one.entries(after, end):
        await other.put_entries(entries)
        after = entries[-1].offset
    for name, offset in (await one.consumers()).items():
        await other.consumed(name, offset)


async def kept(log: EventLog) -> list[int]:
    return [offset for offset, _ in await log.read(0, 10**6)]
