"""The learner: everything once, in log order, and after any crash the very same bytes."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.backends.base import Forget, MemoryChange, Record, Tick
from services.backends.sqlite.log import SqliteLog
from services.backends.sqlite.memory import SqliteMemory
from services.errors import ModelInvalid, StorageFailed
from services.learning.learner import Learner
from services.learning.snapshots import KIND
from services.memory.keys import memory_key
from services.models.store import ModelStore
from services.policies.base import LearningPolicy, Outcome
from services.policies.fixed import FixedPolicy
from services.policies.vw import VWPolicy
from services.rewards.windows import Windows
from services.types import ArmChoice, ArmOption, Deadline, Decision, Impression, Interaction, Survey
from tests.builders.records import make_impression, make_interaction

WINDOW = 1800.0
WEIGHTS = {"click": 1.0, "purchase": 5.0, "dislike": -1.0, "dwell": 1.0}
ARMS = ("lexical", "memory", "vector")


class MeanPolicy:
    """Remembers how much was taken of each item shown. Means of floats: another order gives other bytes."""

    name = "mean"
    version = None
    survey_share = 1.0

    def __init__(self, model: bytes = b"{}") -> None:
        try:
            self.sums: dict[str, list[float]] = json.loads(model)
        except ValueError as error:
            raise ModelInvalid("not a mean policy") from error
        self.outcomes: list[Outcome] = []

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        return {option.name: ArmChoice(0, 1.0, ((0, 1.0),)) for option in options}

    def learn(self, outcome: Outcome) -> None:
        if outcome.features.get("poison"):
            raise ValueError("poison")
        for place, taken in enumerate(outcome.clicked):
            entry = self.sums.setdefault(f"{place} {outcome.survey is not None}", [0.0, 0.0])
            entry[0] += outcome.weight
            entry[1] += 0.1 * outcome.weight * (taken - entry[1])
        self.outcomes.append(outcome)

    def dump(self) -> bytes:
        return json.dumps(self.sums, sort_keys=True).encode()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """A learner on real stores in a folder; the log may stand elsewhere."""

    def __init__(
        self,
        folder: Path,
        log: Path | None = None,
        policy: LearningPolicy | None = None,
        load: Callable[[bytes], LearningPolicy] = MeanPolicy,
        memory: type[SqliteMemory] = SqliteMemory,
        **options: Any,
    ) -> None:
        self.log = SqliteLog((log or folder) / "log.db")
        self.memory = memory(folder / "memory.db", 30 * 86400.0)
        self.store = ModelStore(folder / "models")
        self.policy = policy or MeanPolicy()
        self.published: list[tuple[str, bytes]] = []
        self.clock = Clock()
        settings: dict[str, Any] = {
            "attribution": WINDOW, "weights": WEIGHTS, "principal_cap": 5, "snapshot_seconds": 5.0,
        }  # fmt: skip
        self.learner = Learner(
            self.log,
            self.memory,
            self.store,
            self.policy,
            load,
            on_publish=lambda version, model: self.published.append((version, model)),
            clock=self.clock,
            **settings | options,
        )

    async def __aenter__(self) -> Rig:
        await self.learner.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.log.close()
        await self.memory.close()

    async def append(self, *records: Record) -> None:
        for number, record in enumerate(records):
            if isinstance(record, Interaction):
                await self.log.accept([(record, f"{record.event_id} {number}")])
            else:
                await self.log.append(record)

    async def clicks(self) -> dict[str, float]:
        """Items remembered for the query of `make_impression`."""
        found = await self.memory.remembered("story toy", 50, Deadline.after(10.0))
        return {entry.object_id: entry.clicks for entry in found}

    async def snapshots(self) -> list[tuple[str, bytes]]:
        return self.published

    async def model(self) -> bytes:
        await self.learner.catch_up()
        version = await self.learner.publish()
        assert version is not None
        return self.store.load(KIND, version).files["policy.bin"]


def outcomes(rig: Rig) -> list[Outcome]:
    assert isinstance(rig.policy, MeanPolicy)
    return rig.policy.outcomes


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20.0):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens on disk
            await asyncio.sleep(0.01)


def page_of(root: Impression, query_id: str, **changes: Any) -> Impression:
    return make_impression(
        query_id, root_id=root.query_id, offset=3, shown=("4",), lists={}, ranking=(), scores=(), rows=(), **changes
    )


# --- windows ---


def test_a_window_closes_in_log_order_at_the_record_that_reaches_its_end() -> None:
    windows = Windows(10.0)
    assert windows.take(1, make_impression("a", at=0.0)) == []
    assert windows.take(2, make_impression("b", at=1.0)) == []
    assert windows.take(3, make_interaction(query_id="b", at=9.9)) == []
    assert len(windows) == 2
    (a,) = windows.take(4, make_interaction("e2", query_id="a", at=10.0))
    assert (a.query_id, a.offset, [i.event_id for i in a.interactions]) == ("a", 1, ["e2"])
    assert windows.take(5, make_interaction("e3", query_id="a", at=10.5)) == []
    (b,) = windows.take(6, Tick(11.0))
    assert [i.event_id for i in b.interactions] == ["e1"]
    assert windows.oldest is None


def test_events_of_later_pages_count_for_the_first() -> None:
    windows = Windows(10.0)
    root = make_impression("a", at=0.0)
    windows.take(1, root)
    windows.take(2, page_of(root, "a2", at=1.0))
    windows.take(3, page_of(root, "a:tail", at=1.0, learn=False))
    windows.take(4, make_interaction("e1", query_id="a2", at=2.0))
    windows.take(5, make_interaction("e2", query_id="a:tail", at=2.0))
    (a,) = windows.take(6, Tick(10.0))
    assert [i.event_id for i in a.interactions] == ["e1"]
    assert windows.take(7, make_interaction("e4", query_id="a2", at=20.0)) == []
    assert windows.take(8, page_of(root, "a3", at=21.0)) == []
    assert len(windows) == 0


def test_what_is_not_to_be_learned_opens_no_window() -> None:
    windows = Windows(10.0)
    listing = Decision("none", "learned", None, 0, {})
    windows.take(1, make_impression("a", learn=False))
    windows.take(2, make_impression("b", decision=listing, options=()))
    windows.take(3, make_interaction("e1", query_id="a"))
    assert len(windows) == 0
    windows.take(4, make_impression("c", decision=Decision("fixed", "static", None, 0, {})))
    windows.take(5, make_interaction("late", query_id="c", status="late"))
    assert windows.oldest is not None
    assert windows.oldest.interactions == []


# --- memory and histories ---


async def test_a_click_is_remembered_at_once_and_learned_when_its_window_closes(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.append(make_impression(at=0.0), make_impression("q2", at=1.0))
        await rig.append(make_interaction(at=2.0, object_id="2", position=2))
        assert await rig.learner.step() == 3
        assert await rig.clicks() == {"2": pytest.approx(1.585, abs=1e-3)}
        person = await rig.memory.person("u:ann", 5, Deadline.after(10.0))
        assert person.recent == (("2", 1.0, 2.0),)
        assert outcomes(rig) == []
        await rig.append(Tick(WINDOW + 1.0))
        await rig.learner.catch_up()
        clicked, unclicked = outcomes(rig)
        assert clicked.clicked == (0.0, 1.0, 0.0)
        assert unclicked.clicked == (0.0, 0.0, 0.0)
        assert clicked.examination == pytest.approx((1.0, 0.631, 0.5), abs=1e-3)
        assert clicked.features == {"length": 2.0, "idf": 0.25}
        assert clicked.survey is unclicked.survey is None
        assert await rig.learner.step() == 0


def survey_of(impression: Impression, at: float) -> Survey:
    """Two arms' full lists; what was shown is at their top."""
    ranks = {"lexical": (1, 2, 3, 0, 4), "memory": (2, 1, 0, 3, 0)}
    return Survey(impression.query_id, at, ranks, {"title_trigrams": (0.9, 0.5, 0.2, 0.1, 0.0)}, (0, 1, 2))


async def test_a_survey_is_learned_with_its_answer_whenever_it_comes_within_the_window(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        first, second, third = (make_impression(f"q{n}", at=float(n)) for n in range(3))
        await rig.append(first, second, third, survey_of(second, 1.0))
        await rig.append(make_interaction(query_id="q0", at=3.0, object_id="1"), survey_of(first, 0.0))
        await rig.append(Tick(WINDOW + 2.0), survey_of(third, 2.0))
        await rig.learner.catch_up()
        learned = outcomes(rig)
        assert [o.survey.query_id if o.survey else None for o in learned] == ["q0", "q1", None]
        assert learned[0].survey is not None
        assert learned[0].survey.ranks == survey_of(first, 0.0).ranks
        assert learned[0].clicked == (1.0, 0.0, 0.0)


async def test_a_survey_that_was_damaged_since_teaches_nothing_and_stops_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        first, second = make_impression("q1", at=0.0), make_impression("q2", at=1.0)
        await rig.append(first, survey_of(first, 0.0), second, survey_of(second, 1.0))
        await rig.learner.step()
        connection = sqlite3.connect(tmp_path / "log.db")
        connection.execute("UPDATE log SET body = substr(body, 1, 20) WHERE offset = 2")
        connection.commit()
        connection.close()
        await rig.append(Tick(WINDOW + 1.0))
        await rig.learner.catch_up()
        assert [outcome.survey is not None for outcome in outcomes(rig)] == [False, True]
        assert (await rig.learner.observe()).skipped == 1


async def test_what_was_disliked_in_the_end_was_not_taken(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.append(make_impression("q1", at=0.0))
        for n, (item, action) in enumerate((("1", "click"), ("1", "dislike"), ("2", "purchase"), ("2", "dislike"))):
            await rig.append(make_interaction(f"e{n}", query_id="q1", object_id=item, action_name=action, at=1.0))
        await rig.append(make_interaction("late", query_id="q1", object_id="3", status="late", at=1.0))
        await rig.append(Tick(WINDOW))
        await rig.learner.catch_up()
        assert outcomes(rig)[0].clicked == (0.0, 1.0, 0.0)


async def test_only_accepted_events_on_answers_that_may_be_learned_from_are_remembered(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        root = make_impression("q1", at=0.0)
        await rig.append(
            root,
            make_impression("q2", at=0.0, learn=False),
            make_impression("q3", at=0.0, memory_key="", normalized=""),
            page_of(root, "q4", at=0.0),
            make_interaction("e1", query_id="q1", status="late", object_id="1"),
            make_interaction("e2", query_id="q2", object_id="2"),
            make_interaction("e3", query_id="q3", object_id="3"),
            make_interaction("e4", query_id="q4", object_id="4", position=4),
            make_interaction("e5", query_id="gone", object_id="5"),
            make_interaction("e6", query_id=None, object_id="6", action_name="purchase", position=None),
            make_interaction("e7", query_id="q1", object_id=None, action_name="abandon", position=None),
            make_interaction("e8", query_id="q1", object_id="8", action_name="dwell", value=15.0),
            make_interaction("e9", query_id="q1", object_id="9", action_name="unheard"),
        )
        await rig.learner.catch_up()
        assert await rig.clicks() == {"4": 2.0, "8": 0.5}
        person = await rig.memory.person("u:ann", 50, Deadline.after(10.0))
        assert [(i, w) for i, w, _ in person.recent] == [("8", 0.5), ("6", 5.0), ("4", 1.0), ("3", 1.0)]
        assert await rig.memory.popular_queries("", 5, Deadline.after(10.0)) == [
            ("toy story", pytest.approx(1.0, abs=1e-3))
        ]


async def test_a_forgotten_user_is_gone_from_memory(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.append(make_impression(at=0.0), make_interaction(at=1.0))
        await rig.learner.catch_up()
        assert await rig.clicks() == {"1": 1.0}
        await rig.log.forget("ann", 2.0)
        await rig.append(make_interaction("e2", object_id="2", at=3.0, user_id=None, client_id=None))
        await rig.learner.catch_up(policy=False)
        assert await rig.clicks() == {}
        assert (await rig.memory.person("u:ann", 5, Deadline.after(10.0))).recent == ()
        await rig.append(Tick(WINDOW))
        await rig.learner.catch_up()
        assert len(outcomes(rig)) == 1
        assert b"ann" not in b"".join(p.read_bytes() for p in (tmp_path / "models").rglob("*") if p.is_file())


async def test_a_principal_beyond_its_share_weighs_less(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for n in range(8):
            await rig.append(make_impression(f"q{n}", at=float(n)))
        nobody = {"user_id": None, "client_id": None, "session_id": None}
        for n in range(8, 16):
            await rig.append(make_impression(f"q{n}", at=float(n), **nobody))
        await rig.append(make_impression("later", at=4000.0), Tick(9000.0))
        await rig.learner.catch_up()
        weights = [outcome.weight for outcome in outcomes(rig)]
        assert weights[:8] == [1.0] * 5 + [(5 / n) ** 2 for n in (6, 7, 8)]
        assert weights[8:] == [1.0] * 9


# --- exactly once ---


def make_log(seed: int, count: int) -> list[Record]:
    """Traffic of a few people, with pages, silence, refusals and requests to be forgotten, over several windows."""
    rng = random.Random(seed)
    records: list[Record] = []
    shown: list[Impression] = []
    surveys: list[Survey] = []
    at = 1_000_000.0
    for n in range(count):
        at += rng.expovariate(1 / 60.0)
        if surveys and rng.random() < 0.5:
            records.append(surveys.pop(0))  # some of them after the clicks, some too late
        user, kind = f"user{rng.randrange(5)}", rng.random()
        recent = [i for i in shown[-30:] if at - i.at < WINDOW]
        if kind < 0.5 or not recent:
            text = rng.choice(("toy story", "heat", "die hard", "andy toy story"))
            decision = Decision(
                rng.choice(("vw", "fixed", "none")),
                "learned",
                None,
                n,
                {arm: ArmChoice(rng.choice((0, 10)), 0.5, ((0, 0.5), (10, 0.5))) for arm in ARMS},
            )
            shown.append(
                make_impression(
                    f"q{n}", at=at, user_id=user, normalized=text, memory_key=memory_key(text), decision=decision,
                    learn=rng.random() < 0.9, features={"length": rng.random(), "idf": rng.random()},
                )
            )  # fmt: skip
            records.append(shown[-1])
            if rng.random() < 0.7:
                surveys.append(survey_of(shown[-1], at))
        elif kind < 0.9:
            of = rng.choice(recent)
            records.append(
                make_interaction(
                    f"e{n}", query_id=of.query_id, object_id=rng.choice(of.shown), at=at, user_id=of.user_id,
                    action_name=rng.choice(("click", "purchase", "dislike")), position=rng.randrange(1, 4),
                )
            )  # fmt: skip
        elif kind < 0.97:
            of = rng.choice(recent)
            if of.root_id == of.query_id:
                shown.append(page_of(of, f"p{n}", at=at, user_id=of.user_id, learn=of.learn, memory_key=of.memory_key))
                records.append(shown[-1])
        elif kind < 0.99:
            at += 2 * WINDOW
            records.append(Tick(at))
        else:
            records.append(Forget(user, at))
    return records


def rows(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(folder / "memory.db")
    try:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall()) for name in names}
    finally:
        connection.close()


def vw_policy(model: bytes | None = None) -> VWPolicy:
    return VWPolicy(FixedPolicy(), model=model)


POLICIES = {"mean": (MeanPolicy, MeanPolicy), "vw": (vw_policy, vw_policy)}


@pytest.fixture(scope="module")
async def busy_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    log = SqliteLog(folder / "log.db")
    for record in make_log(seed=1, count=400):
        if isinstance(record, Interaction):
            await log.accept([(record, "digest")])
        else:
            await log.append(record)
    await log.close()
    return folder


@pytest.mark.parametrize("name", sorted(POLICIES))
async def test_after_any_crash_the_model_and_the_memory_are_the_same_to_the_byte(
    tmp_path: Path, busy_log: Path, name: str
) -> None:
    """Straight through; in small steps with snapshots; killed at random points, some while windows wait to be learned;
    from scratch with the memory already there."""
    make, load = POLICIES[name]

    def rig(folder: str) -> Rig:
        return Rig(tmp_path / folder, busy_log, make(), load)

    async def straight(folder: str) -> bytes:
        async with rig(folder) as one:
            model = await one.model()
            progress = await one.learner.observe()
            assert progress.lag == {"memory": 0, "policy": 0}
            assert progress.learned > 80
            assert progress.skipped == 0
            if isinstance(one.policy, VWPolicy):
                assert vw_policy(model).relevance.answers > 50
            return model

    async def killed(folder: str, seed: int) -> bytes:
        rng = random.Random(seed)
        for _ in range(8):
            async with rig(folder) as one:
                for _ in range(rng.randrange(1, 8)):
                    await one.learner.step(rng.choice((1, 7, 40)))
                    if rng.random() < 0.4:
                        await one.learner.publish()
        return await straight(folder)

    expected = await straight("straight")
    tables = rows(tmp_path / "straight")
    for seed in range(3):
        assert await killed(f"killed{seed}", seed) == expected
        assert rows(tmp_path / f"killed{seed}") == tables
    (tmp_path / "killed0" / "models").rename(tmp_path / "old models")
    assert await straight("killed0") == expected
    assert rows(tmp_path / "killed0") == tables


async def test_a_crash_between_windows_that_one_record_closed_loses_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.learning.policy_consumer.OUTCOMES_A_STEP", 3)
    async with Rig(tmp_path / "a") as rig:
        for n in range(10):
            await rig.append(make_impression(f"q{n}", at=float(n), features={"n": float(n)}))
        await rig.append(make_interaction(query_id="q7", at=20.0), Tick(WINDOW + 100.0), Tick(WINDOW + 101.0))
        await rig.learner.step()
        assert len(outcomes(rig)) == 3
        assert rig.learner.offset == 11
        assert await rig.clicks() == {"1": 1.0}
        await rig.learner.publish()
        await rig.learner.step()
        assert len(outcomes(rig)) == 6
    async with Rig(tmp_path / "a") as rig:
        again = await rig.model()
        assert [outcome.features["n"] for outcome in rig.learner.policy.policy.outcomes] == [3, 4, 5, 6, 7, 8, 9]  # type: ignore[attr-defined]
        assert rig.learner.offset == 13
    async with Rig(tmp_path / "b", log=tmp_path / "a") as rig:
        assert await rig.model() == again


async def test_a_damaged_snapshot_gives_way_to_the_one_before_with_the_same_end(tmp_path: Path, busy_log: Path) -> None:
    async with Rig(tmp_path / "a", busy_log) as rig:
        expected = await rig.model()
    async with Rig(tmp_path / "b", busy_log) as rig:
        versions = []
        while await rig.learner.step(50):
            versions.append(await rig.learner.publish())
    assert len(set(versions)) > 3
    (tmp_path / "b" / "models" / KIND / "versions" / str(versions[-1]) / "policy.bin").write_bytes(b"{}")
    async with Rig(tmp_path / "b", busy_log) as rig:
        assert rig.published[0][0] in versions
        assert rig.published[0][0] != versions[-1]
        assert await rig.model() == expected


async def test_a_snapshot_of_another_policy_starts_learning_over(tmp_path: Path, busy_log: Path) -> None:
    async with Rig(tmp_path / "a", busy_log) as rig:
        expected = await rig.model()
    async with Rig(tmp_path / "a", busy_log, vw_policy(), vw_policy) as rig:
        assert rig.published == []
        assert await rig.model() != expected
    async with Rig(tmp_path / "a", busy_log) as rig:
        assert rig.published == []
        assert await rig.model() == expected


async def test_another_log_than_the_one_learned_from_is_refused(tmp_path: Path, busy_log: Path) -> None:
    async with Rig(tmp_path, busy_log) as rig:
        await rig.model()
    for path in (tmp_path / "memory.db", tmp_path / "memory.db-wal", tmp_path / "memory.db-shm"):
        path.unlink(missing_ok=True)
    with pytest.raises(StorageFailed, match="but the log ends at 0"):
        async with Rig(tmp_path):
            pass
    (tmp_path / "models").rename(tmp_path / "gone")
    async with Rig(tmp_path, busy_log) as rig:
        await rig.learner.catch_up()
    with pytest.raises(StorageFailed, match="the memory has read"):
        async with Rig(tmp_path):
            pass


async def test_going_back_to_an_earlier_model_does_not_learn_again_what_came_between(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.append(make_impression("q1", at=0.0), Tick(WINDOW))
        early = await rig.model()
        version = rig.published[-1][0]
        await rig.append(make_impression("q2", at=WINDOW + 1), make_interaction(query_id="q2", at=WINDOW + 2))
        await rig.append(make_impression("q3", at=WINDOW + 3), Tick(2 * WINDOW + 1))
        assert await rig.model() != early
        adopted = await rig.learner.adopt(version)
        assert rig.published[-1] == (adopted, early)
        assert rig.store.current_version(KIND) == adopted
    async with Rig(tmp_path) as rig:
        assert rig.published == [(adopted, early)]
        assert await rig.learner.step() == 0
        await rig.append(Tick(3 * WINDOW))
        await rig.learner.catch_up()
        assert len(rig.learner.policy.policy.outcomes) == 1  # type: ignore[attr-defined]


# --- what goes wrong ---


async def test_poison_is_skipped_counted_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    class Choosy(SqliteMemory):
        async def apply(self, changes: Sequence[MemoryChange], offset: int) -> None:
            if any(change.action is not None and change.action[1] == "bad" for change in changes):
                raise ValueError("bad")
            await super().apply(changes, offset)

    async with Rig(tmp_path, memory=Choosy) as rig:
        await rig.append(
            make_impression("q1", at=0.0, features={"poison": 1.0}),
            make_impression("q2", at=0.0),
            make_interaction("e1", object_id="bad", at=1.0),
            make_interaction("e2", object_id="2", at=2.0),
            Tick(WINDOW),
        )
        await rig.learner.catch_up()
        assert list(await rig.clicks()) == ["2"]
        assert len(outcomes(rig)) == 1
        progress = await rig.learner.observe()
        assert (progress.learned, progress.skipped, progress.lag["memory"]) == (1, 2, 0)


async def test_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    async def damage(*offsets: int) -> None:
        connection = sqlite3.connect(tmp_path / "log.db")
        with connection:
            connection.executemany("UPDATE log SET body = x'00' WHERE offset = ?", [(o,) for o in offsets])
        connection.close()

    async with Rig(tmp_path) as rig:
        for n in range(6):
            await rig.append(make_impression(f"q{n}", at=float(n)))
        await rig.append(make_interaction("e1", query_id="q1", at=10.0), make_interaction("e2", query_id="q5", at=10.0))
    await damage(1, 2, 5)
    async with Rig(tmp_path) as rig:
        await rig.learner.catch_up()
        assert await rig.clicks() == {"1": 1.0}
        assert (await rig.learner.observe()).skipped == 4  # and q1, which e1 was about
    await damage(3)
    async with Rig(tmp_path) as rig:
        await rig.append(Tick(WINDOW + 100))
        await rig.learner.catch_up()
        assert [o.weight for o in outcomes(rig)] == [1.0, 1.0]
        before = await rig.model()
    async with Rig(tmp_path) as rig:
        assert await rig.model() == before


async def test_a_failing_store_is_tried_again_and_loses_nothing(tmp_path: Path) -> None:
    class Failing(SqliteMemory):
        failures = 2

        async def apply(self, changes: Sequence[MemoryChange], offset: int) -> None:
            if self.failures:
                self.failures -= 1
                raise StorageFailed("disk full")
            await super().apply(changes, offset)

    async with Rig(tmp_path, memory=Failing) as rig:
        await rig.append(make_impression(at=0.0), make_interaction(at=1.0), Tick(WINDOW))
        for _ in range(2):
            with pytest.raises(StorageFailed):
                await rig.learner.step()
        await rig.learner.catch_up()
        assert await rig.clicks() == {"1": 1.0}
        assert len(outcomes(rig)) == 1


async def test_a_commit_that_was_reported_as_failed_counts_once(tmp_path: Path) -> None:
    class Doubtful(SqliteMemory):
        failures = 1

        async def apply(self, changes: Sequence[MemoryChange], offset: int) -> None:
            await super().apply(changes, offset)
            if self.failures:
                self.failures -= 1
                raise StorageFailed("committed, but the answer was lost")

    async with Rig(tmp_path, memory=Doubtful) as rig:
        await rig.append(make_impression(at=0.0), make_interaction(at=1.0))
        with pytest.raises(StorageFailed):
            await rig.learner.step()
        await rig.append(Tick(WINDOW))
        await rig.learner.catch_up()
        assert await rig.clicks() == {"1": 1.0}


# --- the running learner ---


async def test_running_it_follows_the_log_lets_time_pass_and_writes_snapshots(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        stop = asyncio.Event()
        task = asyncio.create_task(rig.learner.run(stop))
        await rig.append(make_impression(at=0.0), make_interaction(at=1.0))
        rig.learner.notify()

        await until(rig.clicks)
        assert (await rig.log.end())[0] == 2  # no Tick before the window's end
        rig.clock.now = WINDOW + 1

        await until(rig.snapshots)
        assert len(outcomes(rig)) == 1
        assert await rig.log.end() == (3, WINDOW + 1)
        assert rig.store.current_version(KIND) == rig.published[0][0]
        rig.clock.now = 10 * WINDOW
        await asyncio.sleep(0.3)
        assert (await rig.log.end())[0] == 3  # nothing open: no further Tick
        assert len(rig.published) == 1
        await rig.append(make_impression("q2", at=10 * WINDOW + 1), Tick(11 * WINDOW + 1))
        stop.set()
        await task
        assert (await rig.learner.observe()).snapshot == rig.store.current_version(KIND)


async def test_running_it_survives_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.learning.learner.RETRY_SECONDS", 0.01)

    class Failing(MeanPolicy):
        dumps = 0

        def dump(self) -> bytes:
            self.dumps += 1
            if self.dumps < 3:
                raise RuntimeError("no")
            return super().dump()

    policy = Failing()
    async with Rig(tmp_path, policy=policy, snapshot_seconds=0.0) as rig:
        stop = asyncio.Event()
        task = asyncio.create_task(rig.learner.run(stop))
        await rig.append(make_impression(at=0.0), Tick(WINDOW))
        await until(rig.snapshots)
        assert not task.done()
        stop.set()
        await task
        assert policy.dumps == 3


async def test_old_snapshots_go(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for n in range(15):
            await rig.append(make_impression(f"q{n}", at=n * WINDOW), Tick((n + 1) * WINDOW))
            await rig.model()
        assert len(rig.store.versions(KIND)) == 10
        assert [v.meta["offset"] for v in rig.store.versions(KIND)] == sorted(range(12, 31, 2), reverse=True)
