from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.datasets.folder import Dataset, DatasetQuery
from services.errors import InvalidRequest
from services.simulation.drift import Arrival, Drift, IntentSwap, Outage, schedule_arrivals, swap_queries, swap_users

JUDGMENTS = {"q1": {"a": 2.0, "b": 1.0, "c": 0.0}, "q2": {"x": 1.0, "y": 0.0}, "q3": {"a": 1.0, "z": 1.0}}


def query(query_id: str, slice: str = "", text: str = "", user_id: str | None = None) -> DatasetQuery:
    return DatasetQuery(query_id, "train", text or query_id, slice, user_id)


class TestArrivals:
    def test_items_are_absent_before_their_moment(self) -> None:
        drift = Drift((Arrival(20, frozenset("c")), Arrival(10, frozenset("ab"))))
        assert [set(drift.missing_items(index)) for index in (0, 9, 10, 19, 20, 99)] == [
            *({"a", "b", "c"}, {"a", "b", "c"}),
            *({"c"}, {"c"}),
            *(set(), set()),
        ]
        assert Drift().missing_items(0) == frozenset()

    @given(
        arrivals=st.lists(st.tuples(st.integers(0, 20), st.frozensets(st.sampled_from("abcd"))), max_size=6),
        index=st.integers(0, 25),
    )
    def test_by_definition(self, arrivals: list[tuple[int, frozenset[str]]], index: int) -> None:
        drift = Drift(tuple(Arrival(at, items) for at, items in arrivals))
        assert drift.missing_items(index) == {item for at, items in arrivals for item in items if index < at}

    def test_a_share_of_the_catalogue_comes_in_waves(self) -> None:
        ids = [f"i{n}" for n in range(2000)]
        waves = schedule_arrivals(ids, 0.2, [100, 200, 300, 400], seed=5)
        assert [wave.at for wave in waves] == [100, 200, 300, 400]
        assert all(70 <= len(wave.items) <= 130 for wave in waves)
        assert 340 <= len(frozenset().union(*(wave.items for wave in waves))) <= 460
        assert sum(len(wave.items) for wave in waves) == len(Drift(waves).missing_items(0))
        assert schedule_arrivals(ids[::-1], 0.2, [100, 200, 300, 400], seed=5) == waves
        assert schedule_arrivals(ids, 0.2, [100, 200, 300, 400], seed=6) != waves

    def test_all_and_nothing(self) -> None:
        assert schedule_arrivals(["a", "b"], 1.0, [7]) == (Arrival(7, frozenset("ab")),)
        assert schedule_arrivals(["a", "b"], 0.0, [7]) == (Arrival(7, frozenset()),)

    @pytest.mark.parametrize(("share", "moments"), [(1.1, [1]), (-0.1, [1]), (float("nan"), [1]), (0.5, [])])
    def test_what_cannot_be_is_refused(self, share: float, moments: list[int]) -> None:
        with pytest.raises(InvalidRequest, match="a share of"):
            schedule_arrivals(["a"], share, moments)


class TestTaste:
    def test_an_exchange(self) -> None:
        drift = Drift(swaps=(IntentSwap(10, {"q1": "q2", "q2": "q1"}),))
        assert drift.grades(JUDGMENTS, "q1", 9) == JUDGMENTS["q1"]
        assert drift.grades(JUDGMENTS, "q1", 10) == JUDGMENTS["q2"]
        assert drift.grades(JUDGMENTS, "q2", 10) == JUDGMENTS["q1"]
        assert drift.grades(JUDGMENTS, "q3", 10) == JUDGMENTS["q3"]
        assert drift.grades(JUDGMENTS, "unjudged", 10) == {}

    def test_swaps_follow_one_another_by_time(self) -> None:
        first, second = IntentSwap(10, {"q1": "q3", "q3": "q1"}), IntentSwap(20, {"q1": "q2", "q2": "q1"})
        for swaps in ((first, second), (second, first)):
            drift = Drift(swaps=swaps)
            assert drift.grades(JUDGMENTS, "q2", 20) == JUDGMENTS["q3"]
            assert drift.grades(JUDGMENTS, "q1", 20) == JUDGMENTS["q2"]
            assert drift.grades(JUDGMENTS, "q3", 20) == JUDGMENTS["q1"]
            assert [drift.era(index) for index in (9, 10, 19, 20, 99)] == [0, 1, 1, 2, 2]

    def test_judgments_stay_as_they_are(self) -> None:
        before: Mapping[str, dict[str, float]] = {name: dict(grades) for name, grades in JUDGMENTS.items()}
        Drift(swaps=(IntentSwap(0, {"q1": "q2"}),)).grades(JUDGMENTS, "q1", 0)
        assert before == JUDGMENTS

    def test_queries_are_swapped_within_their_slice(self) -> None:
        queries = [query(f"{slice}{n}", slice) for slice in ("s", "t") for n in range(21)]
        queries += [query(f"p{n}", "s", user_id="u") for n in range(4)]
        exchange = swap_queries(queries, 50, seed=3)
        assert exchange.at == 50
        assert len(exchange.partners) == 40
        assert all(a != b and a[0] == b[0] for a, b in exchange.partners.items())
        assert all(exchange.partners[b] == a for a, b in exchange.partners.items())
        assert not [name for name in exchange.partners if name[0] == "p"]
        assert swap_queries(queries[::-1], 50, seed=3) == exchange
        assert swap_queries(queries, 50, seed=4) != exchange

    def test_persons_get_the_taste_of_another(self) -> None:
        queries = [
            *(query("a1", text="good action", user_id="a"), query("a2", text="crime movies", user_id="a")),
            *(query("b1", text="action movies", user_id="b"), query("b2", text="some crime", user_id="b")),
            *(query("b3", text="western", user_id="b"), query("c", text="of nobody")),
            *(query(f"n{n}", text="movies of nobody", user_id=None) for n in range(3)),
            *(query(f"x{n}", text=f"film{n}", user_id="a") for n in range(10)),
        ]
        partners = swap_users(queries, 5).partners
        assert partners == {"a1": "b1", "b1": "a1", "a2": "b2", "b2": "a2"}

    def test_each_has_one_partner_by_its_rarest_word(self) -> None:
        queries = [
            *(query("a1", text="old rare", user_id="a"), query("a2", text="old", user_id="a")),
            *(query("b1", text="film old", user_id="b"), query("b2", text="film rare", user_id="b")),
            *(query(f"x{n}", text=f"film{n}", user_id="a") for n in range(20)),
        ]
        partners = swap_users(queries, 5).partners
        assert partners == {"a1": "b2", "b2": "a1", "a2": "b1", "b1": "a2"}

    def test_words_that_everybody_says_make_nothing_alike(self) -> None:
        queries = [query(f"{user}{n}", text=f"good {user}{n}", user_id=user) for user in "ab" for n in range(3)]
        assert swap_users(queries, 5).partners == {}

    def test_films_mixed(self, shared: Path) -> None:
        queries = list(Dataset.open(shared / "data" / "films-mixed").queries("train"))
        persons = swap_users(queries, 0, seed=1).partners
        genres = [(a.split("-")[2], b.split("-")[2]) for a, b in persons.items()]
        assert len(genres) > 300
        assert sum(a == b for a, b in genres) / len(genres) > 0.95
        assert all(a.split("-")[1] != b.split("-")[1] for a, b in persons.items())


class TestOutages:
    def test_an_arm_dies_and_returns(self) -> None:
        drift = Drift(outages=(Outage("vector", 10, 20), Outage("memory", 15, 30), Outage("vector", 40, 41)))
        found = [sorted(drift.failed_arms(index)) for index in (9, 10, 15, 19, 20, 29, 30, 39, 40, 41)]
        assert found == [
            *([], ["vector"], ["memory", "vector"], ["memory", "vector"], ["memory"], ["memory"]),
            *([], [], ["vector"], []),
        ]
        assert Drift().failed_arms(10) == frozenset()

    def test_it_ends_after_its_start(self) -> None:
        with pytest.raises(InvalidRequest, match="vector ends at 10"):
            Outage("vector", 10, 10)
