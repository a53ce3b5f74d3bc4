from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from services.datasets.folder import Dataset, DatasetQuery
from services.errors import InvalidRequest
from services.simulation.traffic import (
    BLOCK_SIZE,
    FILMS_MIX,
    MAX_SESSION_SECONDS,
    Search,
    SearchBehaviour,
    Traffic,
    traffic_mix,
    uniforms,
)

COUNT = 20 * BLOCK_SIZE


def query(query_id: str, slice: str, text: str = "", user_id: str | None = None, weight: float = 1.0) -> DatasetQuery:
    return DatasetQuery(query_id, "train", text or query_id, slice, user_id, weight)


WORDS = ("red", "green", "blue", "old", "new")
QUERIES = [
    *(query(f"t{i}", "title", f"{WORDS[i % 5]} film{i}", weight=1.0 + i) for i in range(20)),
    *(query(f"y{i}", "typo", f"{WORDS[i % 5]} fiml{i}") for i in range(20)),
    *(query(f"p{i}", "personal", f"drama {i}", f"u{i % 6}", 1.0 + i % 2) for i in range(18)),
]
SHARES = {"title": 0.5, "typo": 0.3, "personal": 0.2}


def searches(count: int = COUNT, seed: int = 1, behaviour: SearchBehaviour | None = None) -> list[Search]:
    return list(islice(Traffic(QUERIES, seed, SHARES, behaviour).since(), count))


@pytest.fixture(scope="module")
def traffic() -> list[Search]:
    return searches()


def chi_square(counted: Sequence[float], expected: Sequence[float]) -> float:
    """Pearson's chi-squared statistic minus its degrees of freedom, in standard deviations: about normal for many
    cells."""
    value = sum((c - e) ** 2 / e for c, e in zip(counted, expected, strict=True))
    freedom = len(counted) - 1
    return (value - freedom) / math.sqrt(2 * freedom)


class TestSequence:
    def test_a_search_is_the_same_whatever_was_had_before(self, traffic: list[Search]) -> None:
        for index in (0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, 7 * BLOCK_SIZE + 13, COUNT - 1):
            assert Traffic(QUERIES, 1, SHARES).search(index) == traffic[index]
        backwards = Traffic(QUERIES, 1, SHARES)
        assert [backwards.search(index) for index in range(6 * BLOCK_SIZE, -1, -371)] == traffic[6 * BLOCK_SIZE :: -371]

    def test_it_goes_on_where_it_was_left(self, traffic: list[Search]) -> None:
        assert list(islice(Traffic(QUERIES, 1, SHARES).since(1500), 2000)) == traffic[1500:3500]
        assert [search.index for search in traffic] == list(range(COUNT))

    def test_it_has_no_end(self) -> None:
        far = Traffic(QUERIES, 1, SHARES).search(10**9)
        assert far.index == 10**9
        assert far.at == pytest.approx(SearchBehaviour().start + 10**9 / 5000 * 86400, abs=86400)
        with pytest.raises(IndexError):
            Traffic(QUERIES, 1, SHARES).search(-1)

    def test_seeds_differ(self, traffic: list[Search]) -> None:
        other = searches(2000, seed=-5)
        same = sum(a.query == b.query for a, b in zip(traffic, other, strict=False)) / 2000
        assert same < 0.1
        assert not {a.at for a in other} & {b.at for b in traffic[:2000]}

    def test_blocks_differ(self, traffic: list[Search]) -> None:
        one, two = traffic[:BLOCK_SIZE], traffic[BLOCK_SIZE : 2 * BLOCK_SIZE]
        assert sum(a.query == b.query for a, b in zip(one, two, strict=True)) < 0.1 * BLOCK_SIZE


class TestMix:
    def test_slices_come_by_their_share(self, traffic: list[Search]) -> None:
        """Also among the further searches of sessions; five standard errors of independent draws, twice as wide since
        searches of a session hang together."""
        for some in (traffic, [search for search in traffic if search.follows is not None]):
            counted = Counter(search.query.slice for search in some)
            for name, share in SHARES.items():
                error = 2 * math.sqrt(share * (1 - share) / len(some))
                assert abs(counted[name] / len(some) - share) < 5 * error, name

    def test_queries_come_by_their_weight_within_a_slice(self) -> None:
        alone = searches(behaviour=SearchBehaviour(continue_probability=0.0))
        for name in SHARES:
            members = [q for q in QUERIES if q.slice == name]
            counted = Counter(search.query.query_id for search in alone if search.query.slice == name)
            scale = sum(counted.values()) / sum(q.weight for q in members)
            assert abs(chi_square([counted[q.query_id] for q in members], [q.weight * scale for q in members])) < 5

    def test_weight_zero_and_slices_outside_the_mix_are_not_asked(self) -> None:
        queries = [*QUERIES, query("never", "title", weight=0.0), query("other", "else")]
        asked = {s.query.query_id for s in islice(Traffic(queries, 3, SHARES).since(), 5000)}
        assert "never" not in asked
        assert "other" not in asked

    def test_shares_are_scaled(self) -> None:
        tenfold = {name: 10 * share for name, share in SHARES.items()}
        one, two = Traffic(QUERIES, 1, SHARES), Traffic(QUERIES, 1, tenfold)
        assert [one.search(k).query for k in range(2000)] == [two.search(k).query for k in range(2000)]

    def test_the_mix_of_a_data_set(self) -> None:
        assert traffic_mix(query(name, name) for name in FILMS_MIX) == FILMS_MIX
        assert traffic_mix([query("a", ""), query("b", "x", weight=3.0)]) == {"": 0.25, "x": 0.75}
        assert sum(FILMS_MIX.values()) == pytest.approx(1)

    @pytest.mark.parametrize("only", ["title", "personal"])
    def test_one_slice_alone(self, only: str) -> None:
        found = list(islice(Traffic(QUERIES, 1, {only: 1.0}).since(), 3000))
        assert {search.query.slice for search in found} == {only}
        assert len({search.query.query_id for search in found}) == sum(q.slice == only for q in QUERIES)

    @pytest.mark.parametrize(
        ("queries", "mix", "said"),
        [
            ([], None, "no queries"),
            ([query("a", "x", weight=0.0)], None, "no queries"),
            (QUERIES, {"title": 0.0}, "no queries"),
            (QUERIES, {"title": 0.5, "topic": 0.5}, "slice 'topic'"),
            (QUERIES, {"title": -0.5}, "share -0.5"),
            (QUERIES, {"title": math.nan}, "share nan"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, queries: list[DatasetQuery], mix: dict[str, float] | None, said: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=said):
            Traffic(queries, 1, mix)


class TestClock:
    def test_time_never_goes_back(self, traffic: list[Search]) -> None:
        assert all(a.at <= b.at for a, b in pairwise(traffic))
        assert traffic[0].at >= SearchBehaviour().start

    @pytest.mark.parametrize("start", [0.0, 43_200.0, 1e9 + 0.5])
    def test_it_starts_when_it_is_told_to(self, start: float) -> None:
        first = Traffic(QUERIES, 1, SHARES, SearchBehaviour(start=start)).search(0)
        assert start <= first.at < start + 300

    def test_gaps_are_those_of_a_poisson_process(self) -> None:
        """Without a rhythm: exponential, so the deviation is the mean and 1 - 1/e of them are below it."""
        at = np.array(
            [search.at for search in searches(behaviour=SearchBehaviour(daily_swing=0.0, searches_per_day=2000.0))]
        )
        gaps = np.diff(at)
        assert gaps.mean() == pytest.approx(86400 / 2000, rel=0.005)
        assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
        assert (gaps < gaps.mean()).mean() == pytest.approx(1 - 1 / math.e, abs=0.012)

    @pytest.mark.parametrize("start", [0.0, 43_200.0])
    def test_days_have_a_rhythm(self, start: float) -> None:
        """Searches per hour of the day against 1 + 0.6 cos(2π (t - peak)), integrated over the hour."""
        behaviour = SearchBehaviour(start=start, peak_hour=20.0, daily_swing=0.6, searches_per_day=BLOCK_SIZE)
        hours = Counter(int(search.at % 86400 // 3600) for search in searches(behaviour=behaviour))
        turn = 2 * math.pi / 24
        shares = [
            1 / 24 + 0.6 / (2 * math.pi) * (math.sin(turn * (h + 1 - 20)) - math.sin(turn * (h - 20)))
            for h in range(24)
        ]
        assert sum(shares) == pytest.approx(1)
        assert abs(chi_square([hours[h] for h in range(24)], [share * COUNT for share in shares])) < 5


class TestPeople:
    def test_sessions_are_of_one_user_within_half_an_hour(self, traffic: list[Search]) -> None:
        sessions: defaultdict[str, list[Search]] = defaultdict(list)
        for search in traffic:
            sessions[search.session_id].append(search)
        for found in sessions.values():
            assert len({(s.user_id, s.context["device"]) for s in found}) == 1
            assert found[-1].at - found[0].at <= MAX_SESSION_SECONDS
            assert [s.follows for s in found] == [None, *(s.index for s in found[:-1])]
            assert len(found) <= SearchBehaviour().max_session_searches
        sizes = Counter(map(len, sessions.values()))
        assert sizes[1] / len(sessions) == pytest.approx(0.5, abs=0.03)
        assert sizes[2] / len(sessions) == pytest.approx(0.25, abs=0.03)

    @pytest.mark.parametrize("pause", [1e-9, 900.0])
    def test_hasty_and_slow_sessions(self, pause: float) -> None:
        sessions: defaultdict[str, list[Search]] = defaultdict(list)
        for search in searches(behaviour=SearchBehaviour(mean_pause=pause, continue_probability=0.9)):
            sessions[search.session_id].append(search)
        spans = [found[-1].at - found[0].at for found in sessions.values()]
        assert max(spans) <= MAX_SESSION_SECONDS
        assert (max(spans) > 0.9 * MAX_SESSION_SECONDS) == (pause > 1)
        assert max(map(len, sessions.values())) == SearchBehaviour().max_session_searches

    def test_sessions_keep_to_a_slice(self, traffic: list[Search]) -> None:
        kept = [search.query.slice == traffic[search.follows].query.slice for search in traffic if search.follows]
        assert sum(kept) / len(kept) > 0.1 + 0.9 * (0.5 + 0.5 * sum(share**2 for share in SHARES.values())) - 0.03

    def test_personal_queries_are_asked_by_their_person(self, traffic: list[Search]) -> None:
        personal = [search for search in traffic if search.query.slice == "personal"]
        assert all(search.user_id == search.query.user_id for search in personal)
        assert {search.user_id for search in personal} == {f"u{i}" for i in range(6)}

    def test_persons_ask_other_things_too(self, traffic: list[Search]) -> None:
        theirs = [search for search in traffic if (search.user_id or "").startswith("u")]
        share = sum(search.query.slice == "personal" for search in theirs) / len(theirs)
        assert share == pytest.approx(SearchBehaviour().personal_share, abs=0.03)

    def test_some_are_nobody_and_some_return_often(self, traffic: list[Search]) -> None:
        started = [search for search in traffic if search.follows is None]
        others = [search.user_id for search in started if not (search.user_id or "").startswith("u")]
        assert sum(user is None for user in others) / len(others) == pytest.approx(
            SearchBehaviour().anonymous_share, abs=0.02
        )
        counted = Counter(user for user in others if user is not None)
        named = sum(counted.values())
        total = sum(rank**-0.7 for rank in range(1, 2001))
        for rank in (1, 2, 8):
            share = rank**-0.7 / total
            assert abs(counted[f"visitor-{rank}"] / named - share) < 5 * math.sqrt(share / named)

    def test_users_have_a_device_of_their_own(self, traffic: list[Search]) -> None:
        devices: defaultdict[str, list[str]] = defaultdict(list)
        for search in traffic:
            if search.follows is None and search.user_id is not None:
                devices[search.user_id].append(str(search.context["device"]))
        own = [Counter(found).most_common(1)[0][1] / len(found) for found in devices.values() if len(found) > 30]
        assert len(own) > 10
        assert min(own) > 0.6
        assert len({Counter(found).most_common(1)[0][0] for found in devices.values()}) > 1
        nobody = [s.context["device"] for s in traffic if s.follows is None and s.user_id is None]
        assert nobody.count("mobile") / len(nobody) == pytest.approx(0.5, abs=0.05)

    def test_queries_are_repeated_and_reworded_within_a_session(self, traffic: list[Search]) -> None:
        def related(found: list[Search]) -> tuple[float, float]:
            pairs = [(search.query, found[search.follows].query) for search in found if search.follows is not None]
            same = [a is b for a, b in pairs]
            near = [bool({*a.text.split()} & {*b.text.split()} & {*WORDS}) and a is not b for a, b in pairs]
            return sum(same) / len(same), sum(near) / len(near)

        same, near = related(traffic)
        chance_same, chance_near = related(
            searches(behaviour=SearchBehaviour(repeat_probability=0.0, reformulate_probability=0.0))
        )
        assert same - chance_same == pytest.approx(0.1, abs=0.05)
        assert near - chance_near > 0.15

    def test_a_slip_is_corrected(self) -> None:
        """Reformulation across slices: a rare word leads to the only query that shares it."""
        queries = [query("y", "typo", "rare slpi"), query("t", "title", "rare slip")]
        queries += [query(f"n{i}", "title", f"word{i} it") for i in range(200)]
        behaviour = SearchBehaviour(reformulate_probability=1.0, repeat_probability=0.0)
        found = list(islice(Traffic(queries, 1, {"typo": 0.5, "title": 0.5}, behaviour).since(), 3000))
        after = [s.query for s in found if s.follows is not None and found[s.follows].query.query_id == "y"]
        titles = [q.query_id for q in after if q.slice == "title"]
        assert len(titles) > 100
        assert set(titles) == {"t"}

    def test_a_near_query_is_another_one(self) -> None:
        queries = [query("a", "x", "one word"), query("b", "x", "other word"), query("c", "x", "alone")]
        found = list(
            islice(
                Traffic(queries, 1, None, SearchBehaviour(reformulate_probability=1.0, repeat_probability=0.0)).since(),
                3000,
            )
        )
        after = Counter(s.query.query_id for s in found if s.follows and found[s.follows].query.query_id == "a")
        assert after.keys() == {"b"}
        alone = Counter(s.query.query_id for s in found if s.follows and found[s.follows].query.query_id == "c")
        assert alone.keys() == {"a", "b", "c"}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("reformulate_probability", 1.1),
            ("continue_probability", -0.1),
            ("daily_swing", math.nan),
            ("searches_per_day", 0.0),
            ("returning_users", 0),
            ("mean_pause", math.inf),
        ],
    )
    def test_habits_that_cannot_be_are_refused(self, name: str, value: float) -> None:
        with pytest.raises(InvalidRequest, match=name):
            SearchBehaviour(**{name: value})  # type: ignore[arg-type]


class TestUniforms:
    def test_they_depend_on_seed_index_and_id_alone(self) -> None:
        ids = [f"item-{i}" for i in range(50)]
        one = dict(zip(ids, uniforms(7, 3, ids), strict=True))
        assert uniforms(7, 3, ids[::-3]) == [one[object_id] for object_id in ids[::-3]]
        for other in (uniforms(8, 3, ids), uniforms(7, 4, ids), uniforms(-7, 3, ids)):
            assert not set(other) & set(one.values())
        assert uniforms(1, 23, ["x"]) != uniforms(12, 3, ["x"])

    def test_they_are_of_this_value_on_every_machine(self) -> None:
        """BLAKE2b-64 of "7:3:Amélie" by another program (b2sum -l 64), its first 53 bits over 2^53."""
        assert uniforms(7, 3, ["Amélie"]) == [(0xE31673FD7A33A246 >> 11) / 2**53]

    def test_they_are_even_and_independent(self) -> None:
        table = np.array([uniforms(1, index, [str(i) for i in range(10)]) for index in range(2000)])
        assert table.min() >= 0.0
        assert table.max() < 1.0
        cells = np.histogram(table, bins=50, range=(0, 1))[0]
        assert abs(chi_square(cells.tolist(), [table.size / 50] * 50)) < 5
        correlation = np.corrcoef(table.T) - np.eye(10)
        assert np.abs(correlation).max() < 5 / math.sqrt(2000)
        assert abs(np.corrcoef(table[:-1, 0], table[1:, 0])[0, 1]) < 5 / math.sqrt(2000)


def test_films_mixed(shared: Path) -> None:
    dataset = Dataset.open(shared / "data" / "films-mixed")
    found = list(islice(Traffic(dataset.queries("train"), 11).since(), 10_000))
    counted = Counter(search.query.slice for search in found)
    for name, share in FILMS_MIX.items():
        assert counted[name] / len(found) == pytest.approx(share, abs=0.03), name
    assert {search.query.split for search in found} == {"train"}
    assert len({search.query.query_id for search in found}) < 0.75 * len(found)
