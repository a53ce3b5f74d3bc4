"""POST and GET /v1/search against the contract: fields, types, filters, facets, sorts, browsing, highlights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from app.http.schemas import SearchResponse
from tests.builders.catalogue import TRACKS
from tests.service import Service, running, with_tracks

BY_ID = {track["id"]: track for track in TRACKS}
ARMS = {"lexical", "structured", "vector", "memory", "personal", "explore"}
NASTY = {
    "id": "nasty",
    "title": "Thunder <script>alert('1')</script> & \"more\"",
    "description": "<img src=x onerror=alert(1)> thunder",
    "artist": "<b>Thunder</b>",
    "genres": ["Folk"],
    "year": 2001,
    "released": "2001-01-01",
    "popularity": 1,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("search") / "data") as service:
        yield service


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["object_id"] for hit in answer["hits"]]


class TestAnswer:
    def test_has_every_field_of_the_contract_and_no_other(self, service: Service) -> None:
        response = service.request(
            "POST", "/v1/search", json={"query": "winter song", "facets": ["genres"], "timeout_ms": 10_000}
        )
        SearchResponse.model_validate_json(response.content, strict=True, extra="forbid")
        answer = response.json()
        assert set(answer) == {
            "query_id", "took_ms", "total", "hits", "facets", "understanding", "decision", "degraded"
        }  # fmt: skip
        assert response.headers["X-Query-Id"] == answer["query_id"]
        assert answer["took_ms"] > 0
        assert answer["degraded"] == []
        assert {"normalized", "corrected", "slots"} <= set(answer["understanding"])
        assert answer["understanding"]["normalized"] == "winter song"
        assert [hit["position"] for hit in answer["hits"]] == list(range(1, 11))
        for hit in answer["hits"]:
            assert set(hit) == {"object_id", "position", "score", "document", "highlights", "arms"}
            assert hit["document"] == BY_ID[hit["object_id"]]

    def test_names_every_arm_with_its_count_and_propensity(self, service: Service) -> None:
        decision = service.search("winter song")["decision"]
        assert set(decision) == {"policy", "mode", "model_version", "arms"}
        assert set(decision["arms"]) == ARMS
        assert decision["arms"]["personal"] == {"count": 0, "propensity": 1.0}, "nobody is known to this search"
        for choice in decision["arms"].values():
            assert set(choice) == {"count", "propensity"}
            assert isinstance(choice["count"], int)
            assert 0 < choice["propensity"] <= 1

    def test_says_which_arm_found_a_hit_where(self, service: Service) -> None:
        answer = service.search("winter song", limit=100)
        asked = {name for name, choice in answer["decision"]["arms"].items() if choice["count"]}
        ranks: dict[str, list[int]] = {}
        for hit in answer["hits"]:
            for name, found in hit["arms"].items():
                ranks.setdefault(name, []).append(found["rank"])
        assert set(ranks) <= asked
        assert "lexical" in ranks
        for name, places in ranks.items():
            assert len(places) == len(set(places)), name
            assert max(places) <= answer["decision"]["arms"][name]["count"]

    def test_explains_scores_when_asked_to(self, service: Service) -> None:
        assert "explanation" not in service.search("winter song")["hits"][0]
        hit = service.search("winter song", explain=True)["hits"][0]
        assert hit["explanation"]
        assert all(isinstance(value, float) for value in hit["explanation"].values())

    def test_ids_never_repeat_and_cannot_be_counted_on(self, service: Service) -> None:
        seen = [service.search("winter song")["query_id"] for _ in range(20)]
        assert len(set(seen)) == 20
        assert len({query_id[-30:] for query_id in seen}) == 20

    def test_is_the_same_by_address(self, service: Service) -> None:
        fields = {"limit": 5, "offset": 2, "sort": "-year", "timeout_ms": 10_000, "context": {"device": "tv"}}
        filters = {"genres": ["Jazz"], "year": {"gte": 1980}}
        posted = service.search("song", filters=filters, facets=["genres", "artist"], **fields)
        parameters = {
            "q": "song",
            **fields,
            "filters": json.dumps(filters),
            "context": json.dumps({"device": "tv"}),
            "facets": "genres,artist",
            "learn": "false",
        }
        got = service.request("GET", "/v1/search", params=parameters).json()
        assert ids(got) == ids(posted)
        assert len(got["hits"]) == 5
        assert got["facets"] == posted["facets"]
        assert got["total"] == posted["total"]


class TestFilters:
    @pytest.mark.parametrize(
        ("filters", "meets"),
        [
            ({"genres": "Jazz"}, lambda t: "Jazz" in t["genres"]),
            ({"genres": ["Jazz", "Folk"]}, lambda t: {"Jazz", "Folk"} & set(t["genres"])),
            ({"year": {"gte": 1980, "lt": 1990}}, lambda t: 1980 <= t["year"] < 1990),
            ({"year": {"gt": 1980, "lte": 1990}}, lambda t: 1980 < t["year"] <= 1990),
            ({"year": [1971, 1973]}, lambda t: t["year"] in (1971, 1973)),
            ({"bpm": {"gte": 0}}, lambda t: "bpm" in t),
            (
                {"released": {"gte": "1990-01-01", "lt": "2000-01-01"}},
                lambda t: date(1990, 1, 1) <= date.fromisoformat(t["released"]) < date(2000, 1, 1),
            ),
            (
                {"artist": ["Mira Holt"], "genres": ["Rock"]},
                lambda t: t["artist"] == "Mira Holt" and "Rock" in t["genres"],
            ),
        ],
    )
    @pytest.mark.parametrize("query", ["winter song", "jazz from the 80s", ""])
    def test_hold_for_every_hit_of_every_arm(self, service: Service, query: str, filters: Any, meets: Any) -> None:
        fitting = {track["id"] for track in TRACKS if meets(track)}
        answer = service.search(query, filters=filters, limit=100, user_id="listener")
        assert ids(answer)
        assert set(ids(answer)) <= fitting
        if not query:
            assert set(ids(answer)) == fitting
            assert answer["total"] == len(fitting)

    def test_hold_for_what_memory_and_history_bring(self, service: Service) -> None:
        first = service.search("harbour song", user_id="fan", limit=3)
        events = [
            {"event_id": f"f-{n}", "query_id": first["query_id"], "object_id": object_id, "action_name": "click"}
            for n, object_id in enumerate(ids(first))
        ]
        assert service.feedback(*events) == ["accepted"] * 3
        service.run(service.system.learner.catch_up(policy=False))
        again = service.search("harbour song", user_id="fan", limit=100)
        assert {"memory", "personal"} <= {name for hit in again["hits"] for name in hit["arms"]}
        kept = service.search("harbour song", user_id="fan", limit=100, filters={"genres": ["Ambient"]})
        assert all("Ambient" in hit["document"]["genres"] for hit in kept["hits"])

    def test_that_nothing_meets_give_an_empty_answer(self, service: Service) -> None:
        answer = service.search("winter song", filters={"year": {"gte": 3000}}, facets=["genres"])
        assert answer["hits"] == []
        assert answer["total"] == 0
        assert answer["facets"] == {"genres": []}


class TestFacets:
    def test_count_over_all_that_matches_and_not_only_the_page(self, service: Service) -> None:
        answer = service.search("", facets=["genres", "artist"], filters={"year": {"lt": 2000}}, limit=1)
        matching = [track for track in TRACKS if track["year"] < 2000]
        assert answer["total"] == len(matching)
        for name in ("genres", "artist"):
            counted = {entry["value"]: entry["count"] for entry in answer["facets"][name]}
            values = [v for track in matching for v in (track[name] if name == "genres" else [track[name]])]
            assert counted == {value: values.count(value) for value in set(values)}

    def test_stay_the_same_on_every_page(self, service: Service) -> None:
        first = service.search("song", facets=["genres"], limit=5)
        second = service.search("song", facets=["genres"], limit=5, offset=5, query_id=first["query_id"])
        assert second["facets"] == first["facets"]


class TestSort:
    @pytest.mark.parametrize(("sort", "descending"), [("year", False), ("-year", True), ("bpm", False), ("-bpm", True)])
    @pytest.mark.parametrize("query", ["", "song"])
    def test_orders_all_that_matches_with_missing_values_last(
        self, service: Service, sort: str, descending: bool, query: str
    ) -> None:
        answer = service.search(query, sort=sort, limit=100)
        field = sort.removeprefix("-")
        values = [hit["document"].get(field) for hit in answer["hits"]]
        present = [value for value in values if value is not None]
        assert values == sorted(present, reverse=descending) + [None] * (len(values) - len(present))
        best = sorted((t[field] for t in TRACKS if field in t), reverse=descending)[:10]
        assert values[:10] == best

    def test_takes_no_decision(self, service: Service) -> None:
        decision = service.search("song", sort="-year")["decision"]
        assert decision["policy"] == "none"
        assert set(decision["arms"]) == ARMS
        assert {choice["count"] for choice in decision["arms"].values()} == {0}

    def test_empty_query_browses_popular_first(self, service: Service) -> None:
        for query in ("", "   ", "\u200b\t\n"):
            answer = service.search(query, limit=100)
            assert ids(answer) == [track["id"] for track in TRACKS][:100]
            assert answer["total"] == len(TRACKS)
            assert not any("tail" in hit for hit in answer["hits"])


def test_highlights_escape_everything_but_their_marks(tmp_path: Any) -> None:
    with running(tmp_path / "data") as service:
        service.put(*TRACKS[:30], NASTY)
        (hit, *_) = service.search("thunder")["hits"]
        assert hit["object_id"] == "nasty"
        assert hit["document"]["title"] == NASTY["title"], "the document is as it was given"
        assert "<mark>Thunder</mark> &lt;script&gt;" in hit["highlights"]["title"]
        for text in hit["highlights"].values():
            bare = text.replace("<mark>", "").replace("</mark>", "")
            assert not set("<>\"'") & set(bare), text


class TestNotLearned:
    def test_answers_that_asked_not_to_be(self, service: Service) -> None:
        answer = service.search("orchard song", learn=False, user_id="shy")
        event = {"event_id": "shy-1", "query_id": answer["query_id"], "action_name": "click"}
        assert service.feedback(event | {"object_id": ids(answer)[0]}) == ["accepted"]
        logged = service.run(service.system.log.read(0, 10_000))
        assert [
            r.learn for _, r in logged if getattr(r, "query_id", "") == answer["query_id"] and hasattr(r, "learn")
        ] == [False]

    def test_explain_tells_what_happened_to_an_answer(self, service: Service) -> None:
        answer = service.search("comet song")
        told = service.request("GET", f"/v1/explain/{answer['query_id']}").json()
        assert told["query"] == "comet song"
        assert set(told["decision"]["arms"]) == ARMS
        for choice in told["decision"]["arms"].values():
            assert sum(entry["probability"] for entry in choice["distribution"]) == pytest.approx(1.0)
        assert [hit["object_id"] for hit in told["hits"]] == ids(answer)
        assert all(hit["features"] and hit["contributions"] is not None for hit in told["hits"])
        assert {entry["arm"] for entry in told["not_called"]} == {
            name for name, choice in told["decision"]["arms"].items() if choice["count"] == 0
        }
