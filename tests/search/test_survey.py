"""Surveys: what all arms had in full, taken down after an answer has left, and what is never surveyed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services import metrics
from services.errors import ArmFailed, StorageFailed
from services.policies.base import FACTS, PLAN_ARMS, part
from services.policies.fixed import FixedPolicy
from services.policies.modes import PolicySwitch
from services.rankers.features import NAMES, rows
from services.rankers.fusion import FUSION_WEIGHTS, adapt, fuse, slot_coverage
from services.search.arm_pool import ArmPool
from services.search.survey import MAX_WAITING, Surveyor, SurveyRequest
from services.types import (
    Alternative,
    ArmOption,
    Candidate,
    Context,
    Deadline,
    Field,
    Impression,
    Interpretation,
    Query,
    Role,
    Schema,
    Slot,
    Survey,
    Understanding,
)
from tests.metric_values import value_of
from tests.service import Service, replaced, with_tracks


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("survey") / "data", survey_share=1.0) as service:
        yield service


def surveys(service: Service) -> list[Survey]:
    """The surveys in the log once none is waiting."""

    async def read() -> list[Survey]:
        await service.system.surveyor.catch_up()
        end, _ = await service.system.log.end()
        records = await service.system.log.read(0, end) if end else []
        return [record for _, record in records if isinstance(record, Survey)]

    return service.run(read())


def search(service: Service, **changes: Any) -> dict[str, Any]:
    response = service.request("POST", "/v1/search", json={"query": "winter song"} | changes)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def context_of(service: Service, text: str) -> tuple[Context, tuple[ArmOption, ...]]:
    engine = service.system.search
    found = service.run(engine.collect(Query(text, timeout=10.0), service.system.switch))
    return found.context, found.options


def wait_for(service: Service, query_id: str) -> Survey:
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        for survey in surveys(service):
            if survey.query_id == query_id:
                return survey
    raise AssertionError("no survey came")


def test_a_search_is_followed_by_what_every_arm_had(service: Service) -> None:
    answer = search(service)
    survey = wait_for(service, answer["query_id"])
    assert {"lexical", "vector", "explore"} <= survey.ranks.keys()
    lengths = {len(column) for column in (*survey.ranks.values(), *survey.facts.values())}
    assert len(lengths) == 1
    for arm, ranks in survey.ranks.items():
        held = sorted(rank for rank in ranks if rank)
        assert held == list(range(1, len(held) + 1)), f"{arm}: every place of the list once"
    assert max(survey.ranks["vector"]) > 25, "more than was taken for the answer"
    assert len(survey.shown) == len(answer["hits"])
    assert all(0 <= place < lengths.copy().pop() for place in survey.shown)


def test_items_stand_in_fused_order_and_facts_are_the_rankers(service: Service) -> None:
    """Against lists and tables made anew."""
    context, options = context_of(service, "harbour song")
    engine, schema = service.system.search, service.system.search.active.schema
    shown = ("t001", "nowhere")

    async def work() -> tuple[Survey | None, list[str], Any]:
        deadline = Deadline.after(10.0)
        made = await service.system.surveyor.survey(SurveyRequest("q", context, options, schema, shown), deadline)
        lists = {
            arm.name: await arm.retrieve(context, arm.counts[-1], deadline)
            for arm in engine.arms.arms
            if arm.available(context)
        }
        pool = fuse(lists, adapt(FUSION_WEIGHTS, *slot_coverage(context.understanding, schema.title)))
        documents = await service.system.items.get([pooled.object_id for pooled in pool], deadline)
        return made, [pooled.object_id for pooled in pool], rows(context, pool, documents, schema)

    survey, ids, table = service.run(work())
    assert survey is not None
    assert survey.at == context.at
    assert len(survey.ranks["lexical"]) == len(ids)
    assert survey.shown == (ids.index("t001") if "t001" in ids else -1, -1)
    for name in FACTS:
        assert survey.facts[name] == pytest.approx(table[:, NAMES.index(name)].tolist(), abs=6e-4)
    assert any(survey.facts["title_query_share"])
    parts = np.sum([survey.facts[part(arm)] for arm in survey.ranks if arm in PLAN_ARMS], axis=0)
    assert parts == pytest.approx(table[:, NAMES.index("fused")], abs=FUSION_WEIGHTS["explore"] + 5 * 5e-4)


@pytest.mark.parametrize("changes", [{"learn": False}, {"offset": 10}, {"query": ""}, {"sort": "-year"}])
def test_what_is_not_learned_from_is_not_surveyed(service: Service, changes: dict[str, Any]) -> None:
    before = len(surveys(service))
    search(service, **changes)
    assert len(surveys(service)) == before


def test_a_degraded_answer_is_not_surveyed(service: Service) -> None:
    async def fail(_: int) -> Any:
        raise ArmFailed("unavailable")

    before, tried = len(surveys(service)), count("incomplete")
    service.system.switch.learned = Curious()
    with replaced(service, {"vector"}, fail):
        assert search(service)["degraded"]
        assert len(surveys(service)) == before
    assert count("incomplete") == tried


def test_too_many_that_wait_are_dropped_and_counted(service: Service) -> None:
    context, options = context_of(service, "garden song")
    schema = service.system.search.active.schema
    dropped = metrics.SURVEYS.labels("dropped")
    before, counted = len(surveys(service)), value_of(dropped)
    service.system.switch.learned = Curious()

    async def offer() -> None:
        for number in range(MAX_WAITING + 3):  # at once: nothing is surveyed in between
            service.system.surveyor.offer(SurveyRequest(f"q{number}", context, options, schema, ()), number)

    service.run(offer())
    assert len(surveys(service)) == before + MAX_WAITING
    assert value_of(dropped) == counted + 3


class Curious(FixedPolicy):
    def __init__(self, survey_share: float = 1.0) -> None:
        super().__init__()
        self.survey_share = survey_share


@pytest.mark.parametrize(
    ("wished", "most", "share"), [(0.3, 1.0, 0.3), (0.9, 0.2, 0.2), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)]
)
def test_as_many_are_surveyed_as_the_policy_wishes_and_the_settings_allow(
    wished: float, most: float, share: float
) -> None:
    for mode in ("learned", "static", "shadow"):
        switch = PolicySwitch(Curious(wished), FixedPolicy(), mode, surveyed=most)
        drawn = [switch.should_survey(seed) for seed in range(4000)]
        assert sum(drawn) / 4000 == pytest.approx(share, abs=0.025)
        assert drawn == [switch.should_survey(seed) for seed in range(4000)], "the seed alone decides"


def test_the_log_keeps_the_survey_behind_its_answer(service: Service) -> None:
    service.system.switch.learned = Curious()
    query_id = search(service, query="meadow song")["query_id"]
    wait_for(service, query_id)

    async def read() -> list[Any]:
        end, _ = await service.system.log.end()
        return [record for _, record in await service.system.log.read(0, end)]

    of = [type(r) for r in service.run(read()) if isinstance(r, Impression | Survey) and r.query_id == query_id]
    assert of == [Impression, Survey]


def test_a_policy_that_cannot_say_what_it_wishes_fails_no_search() -> None:
    class Broken(FixedPolicy):
        @property
        def survey_share(self) -> float:  # type: ignore[override]
            raise RuntimeError("the model is broken")

    assert not PolicySwitch(Broken(), FixedPolicy(), surveyed=1.0).should_survey(1)


class Listing:
    """An arm that has this list, best first, or fails."""

    counts = (0, 2, 25)

    def __init__(self, name: str, *listed: str, error: Exception | None = None) -> None:
        self.name = name
        self.error = error
        self.listed = listed
        self.asked: list[int] = []

    def available(self, context: Context) -> bool:
        return True

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        self.asked.append(count)
        if self.error is not None:
            raise self.error
        return [Candidate(object_id, 0.9 - 0.1 * place) for place, object_id in enumerate(self.listed[:count])]


class Items:
    """Everything that is asked for but `gone`."""

    async def get(self, ids: list[str], deadline: Deadline) -> dict[str, dict[str, str]]:
        titles = {"a": "Winter Song", "b": "Winter"}
        return {i: {"id": i, "title": titles.get(i, "Comet")} for i in ids if i != "gone"}


class Log(list[Survey]):
    async def append(self, survey: Survey) -> int:
        super().append(survey)
        return len(self)


SCHEMA = Schema(fields=(Field("title", Role.TEXT),), title="title")
TOKENS = ("winter", "song")
READ = Understanding(
    "winter song",
    TOKENS,
    tuple((Alternative(token, 1.0),) for token in TOKENS),
    None,
    "en",
    (Interpretation(1.0, (), TOKENS),),
)


def surveyor(log: Any, *arms: Listing, curious: bool = True) -> Surveyor:
    return Surveyor(ArmPool(arms), Items(), log, lambda seed: curious)  # type: ignore[arg-type]


def answered(query_id: str, *unable: str) -> SurveyRequest:
    """The survey of an answer for which the arms in `unable` were not available."""
    arms = ("lexical", "vector", "memory", "explore")
    options = tuple(ArmOption(arm, (0,) if arm in unable else Listing.counts) for arm in arms)
    return SurveyRequest(query_id, Context(Query("winter song"), READ, 7.0), options, SCHEMA, ("c", "gone", "a"))


def count(outcome: str) -> float:
    return value_of(metrics.SURVEYS.labels(outcome))


async def test_a_survey_has_each_arms_places_and_no_names() -> None:
    lexical, vector = Listing("lexical", "a", "b", "c"), Listing("vector", "c", "d")
    memory, explore = Listing("memory", "a"), Listing("explore", "gone", "e")
    log, made = Log(), count("made")
    taking = surveyor(log, lexical, vector, memory, explore)
    taking.offer(answered("q1", "memory"), 1)
    assert await taking.catch_up() == 75, "what it cost: all that could be asked, in full"
    assert (lexical.asked, vector.asked, memory.asked, explore.asked) == ([25], [25], [], [25])
    # Fused: a .4, c .08 + .216, b .24, d .043, e; what is gone from the catalogue is no item.
    (survey,) = log
    nothing = (0.0,) * 5
    assert survey == Survey(
        "q1",
        7.0,
        {"lexical": (1, 3, 2, 0, 0), "vector": (0, 1, 0, 2, 0), "explore": (0, 0, 0, 0, 2)},
        {
            "lexical_part": (0.4, 0.08, 0.24, 0.0, 0.0),
            "vector_part": (0.0, 0.216, 0.0, 0.043, 0.0),
            "title_query_share": (1.0, 0.0, 0.5, 0.0, 0.0),
            "title_trigrams": (1.0, 0.0, 0.737, 0.0, 0.0),  # "winter" has 7, the query 12, they share 7: 14/19
            "slots_first": nothing,
            "slots_best": nothing,
            "slots_expected": nothing,
        },
        (1, -1, 0),
    )
    assert count("made") == made + 1


async def test_facts_say_how_far_items_meet_every_reading_of_the_query() -> None:
    def reading(likelihood: float, *titles: str) -> Interpretation:
        return Interpretation(likelihood, tuple(Slot("title", title, 0, 6, 0.8) for title in titles), ())

    readings = reading(0.5, "Winter"), reading(0.3, "Winter", "Comet")
    asked = Context(Query("winter song"), replace(READ, interpretations=readings), 7.0)
    log = Log()
    taking = surveyor(log, Listing("lexical", "a", "b", "c"))
    taking.offer(replace(answered("q1", "vector", "memory", "explore"), context=asked), 1)
    await taking.catch_up()
    facts = log[0].facts
    assert facts["slots_first"] == (0.0, 1.0, 0.0), "all of the first reading"
    assert facts["slots_best"] == (0.0, 0.5, 0.15), "all of a reading of 0.5, half of one of 0.3"
    assert facts["slots_expected"] == (0.0, 0.65, 0.15), "both"


async def test_nothing_to_be_found_is_a_survey_as_well() -> None:
    log = Log()
    taking = surveyor(log, Listing("lexical"), Listing("vector"))
    taking.offer(answered("q1", "memory", "explore"), 1)
    await taking.catch_up()
    facts = dict.fromkeys((*FACTS, "lexical_part", "vector_part"), ())
    assert log == [Survey("q1", 7.0, {"lexical": (), "vector": ()}, facts, (-1, -1, -1))]


@pytest.mark.parametrize("error", [ArmFailed("unavailable"), TimeoutError(), RuntimeError("boom")])
async def test_one_arm_that_fails_leaves_no_record_and_the_next_answer_is_surveyed(error: Exception) -> None:
    log, before = Log(), (count("made"), count("incomplete"))
    taking = surveyor(log, Listing("lexical", "a"), Listing("vector", error=error))
    taking.offer(answered("q1", "memory", "explore"), 1)
    taking.offer(answered("q2", "memory", "explore", "vector"), 2)
    await taking.catch_up()
    assert [survey.query_id for survey in log] == ["q2"]
    assert (count("made"), count("incomplete")) == (before[0] + 1, before[1] + 1)


async def test_a_log_that_fails_ends_nothing() -> None:
    class Full(Log):
        async def append(self, survey: Survey) -> int:
            if survey.query_id == "q1":
                raise StorageFailed("full")
            return await super().append(survey)

    log, incomplete = Full(), count("incomplete")
    taking = surveyor(log, Listing("lexical", "a"))
    for query_id in ("q1", "q2"):
        taking.offer(answered(query_id), 1)
    await taking.catch_up()
    assert [survey.query_id for survey in log] == ["q2"]
    assert count("incomplete") == incomplete + 1


async def test_no_answer_waits_that_nobody_is_curious_about() -> None:
    arm = Listing("lexical", "a")
    taking = surveyor(Log(), arm, curious=False)
    taking.offer(answered("q1"), 1)
    assert await taking.catch_up() == 0
    assert arm.asked == []


async def test_what_waits_at_the_end_is_dropped() -> None:
    """A process that is told to stop must not first ask all arms for all that waits."""
    stop = asyncio.Event()

    class Last(Log):
        async def append(self, survey: Survey) -> int:
            stop.set()
            return await super().append(survey)

    log = Last()
    taking = surveyor(log, Listing("lexical", "a"))
    for number in range(3):
        taking.offer(answered(f"q{number}"), number)
    await asyncio.wait_for(taking.run(stop), 10.0)
    assert [survey.query_id for survey in log] == ["q0"]


async def test_an_idle_surveyor_ends_at_once() -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(surveyor(Log()).run(stop))
    await asyncio.sleep(0.01)
    stop.set()
    for _ in range(10):  # turns of the loop, in which no time passes
        await asyncio.sleep(0)
    assert running.done()
