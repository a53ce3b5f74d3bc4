"""Pages: one frozen list under one decision, whatever is written to the catalogue in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.builders.catalogue import TRACKS
from tests.service import Service, problem, running, with_tracks


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("paging") / "data") as service:
        yield service


def pages(service: Service, query: str, limit: int, **fields: Any) -> Iterator[dict[str, Any]]:
    """Every page of a list, each asked for with the id of the one before."""
    page = service.search(query, limit=limit, **fields)
    offset = 0
    while page["hits"]:
        yield page
        offset += limit
        page = service.search(query, limit=limit, offset=offset, query_id=page["query_id"], **fields)


def hits(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [hit for answer in answers for hit in answer["hits"]]


@pytest.mark.parametrize("fields", [{}, {"filters": {"genres": ["Jazz"]}}, {"sort": "-year"}, {"facets": ["genres"]}])
@pytest.mark.parametrize("query", ["song", "winter song", ""])
def test_walk_covers_everything_once(service: Service, query: str, fields: dict[str, Any]) -> None:
    walked = list(pages(service, query, 7, **fields))
    found = hits(walked)
    assert [hit["position"] for hit in found] == list(range(1, len(found) + 1))
    assert len({hit["object_id"] for hit in found}) == len(found)
    assert len({page["query_id"] for page in walked}) == len(walked)
    assert {page["total"] for page in walked} == {walked[0]["total"]}
    assert all(page["decision"] == walked[0]["decision"] for page in walked)
    matching = service.search(query, limit=100, sort="-popularity", filters=fields.get("filters", {}))
    assert {hit["object_id"] for hit in matching["hits"]} <= {hit["object_id"] for hit in found}
    assert len(found) >= walked[0]["total"]


def test_tail_comes_after_the_ranked_union_and_says_so(service: Service) -> None:
    first = service.search("song", limit=100)
    assert not any("tail" in hit for hit in first["hits"]), "the first request is covered by the union"
    marks = [hit.get("tail", False) for hit in hits(list(pages(service, "song", 10)))]
    assert True in marks
    assert marks == sorted(marks), "ranked ones first"


@pytest.mark.parametrize(("offset", "limit"), [(50, 10), (110, 10), (119, 100), (990, 10), (999, 1)])
def test_first_request_may_begin_far_down(service: Service, offset: int, limit: int) -> None:
    answer = service.search("song", offset=offset, limit=limit)
    everything = hits(list(pages(service, "song", 100)))
    assert len(answer["hits"]) >= min(limit, max(0, answer["total"] - offset))
    assert len(answer["hits"]) <= max(0, len(everything) - offset)
    assert not any("tail" in hit for hit in answer["hits"])
    before = service.search("song", offset=0, limit=50, query_id=answer["query_id"])
    assert [hit["position"] for hit in before["hits"]] == list(range(1, 51))
    assert not {h["object_id"] for h in before["hits"]} & {h["object_id"] for h in answer["hits"]}


def test_any_page_may_be_asked_for_again_by_the_id_of_any_page(service: Service) -> None:
    walked = list(pages(service, "winter song", 5))
    for page in walked:
        again = service.search("winter song", limit=5, offset=5, query_id=page["query_id"])
        assert [hit["object_id"] for hit in again["hits"]] == [hit["object_id"] for hit in walked[1]["hits"]]
        assert again["query_id"] not in {p["query_id"] for p in walked}


def test_writes_in_between_shift_nothing(tmp_path: Any) -> None:
    with with_tracks(tmp_path / "data") as service:
        walked: list[dict[str, Any]] = []
        deleted: set[str] = set()
        for number, page in enumerate(pages(service, "song", 10)):
            walked.append(page)
            if number >= 40:
                break
            service.put(*(TRACKS[n] | {"id": f"new-{number}-{n}", "popularity": 9999} for n in range(3)))
            gone = f"t{119 - number:03}"
            if service.request("DELETE", f"/v1/items/{gone}").status_code == 200:
                deleted.add(gone)
        found = [hit["object_id"] for hit in hits(walked)]
        assert len(set(found)) == len(found), "no repeats"
        assert {track["id"] for track in TRACKS} - set(found) <= deleted, "no gaps"
        assert {page["total"] for page in walked} == {walked[0]["total"]}
        fresh = service.search("song", limit=100)
        assert fresh["total"] > walked[0]["total"]


def test_ids_of_other_searches_are_refused(service: Service) -> None:
    first = service.search("song", filters={"genres": ["Jazz"]})
    same = {"query": "song", "filters": {"genres": ["Jazz"]}, "query_id": first["query_id"]}
    assert service.request("POST", "/v1/search", json=same | {"offset": 10}).status_code == 200
    for other in (
        {"query": "winter"},
        {"filters": {"genres": ["Folk"]}},
        {"filters": {}},
        {"filters": {"genres": ["Jazz"], "year": {"gte": 1}}},
        {"sort": "-year"},
        {"sort": "year"},
    ):
        document = problem(service.request("POST", "/v1/search", json=same | other), 422, "invalid-request")
        assert document["errors"][0]["field"] == "query_id"
    case = service.request("POST", "/v1/search", json=same | {"query": "  SONG "})
    assert case.status_code == 200, "the same words are the same query"


@pytest.mark.parametrize("change", ["first", "middle", "last", "kid", "cut", "longer", "empty"])
def test_forged_ids_are_refused(service: Service, change: str) -> None:
    query_id = service.search("song")["query_id"]
    kid, _, rest = query_id.partition(".")
    swapped = {c: "A" if c != "A" else "B" for c in rest}
    forged = {
        "first": f"{kid}.{swapped[rest[0]]}{rest[1:]}",
        "middle": f"{kid}.{rest[:28]}{swapped[rest[28]]}{rest[29:]}",
        "last": f"{kid}.{rest[:-1]}{swapped[rest[-1]]}",
        "kid": f"other.{rest}",
        "cut": query_id[:-4],
        "longer": query_id + "AAAA",
        "empty": "",
    }[change]
    response = service.request("POST", "/v1/search", json={"query": "song", "query_id": forged, "offset": 10})
    problem(response, 422, "invalid-request")
    event = {"event_id": f"forged-{change}", "query_id": forged, "object_id": "t001", "action_name": "click"}
    assert service.feedback(event) == ["invalid" if change == "empty" else "unknown_query"]
    assert service.request("GET", f"/v1/explain/{forged or 'x'}").status_code == 404


def test_expired_ids_are_refused(tmp_path: Any) -> None:
    with running(tmp_path / "data", query_ttl_seconds=100) as service:
        service.put(*TRACKS[:20])
        signer = service.system.search._signer
        answer = service.search("song")
        logged = service.run(service.system.log.read(0, 100))[0][1]
        old = signer.issue(logged.at - 101)
        response = service.request("POST", "/v1/search", json={"query": "song", "query_id": old})
        document = problem(response, 422, "invalid-request")
        assert "expired" in document["detail"]
        fresh = service.request("POST", "/v1/search", json={"query": "song", "query_id": answer["query_id"]})
        assert fresh.status_code == 200


def test_feedback_belongs_to_the_page_that_showed_it(service: Service) -> None:
    first = service.search("meadow song", limit=3)
    second = service.search("meadow song", limit=3, offset=3, query_id=first["query_id"])
    hit = second["hits"][1]
    event = {"object_id": hit["object_id"], "action_name": "click"}
    assert service.feedback(event | {"event_id": "page-1", "query_id": first["query_id"]}) == ["not_shown"]
    assert service.feedback(event | {"event_id": "page-2", "query_id": second["query_id"]}) == ["accepted"]
    assert service.feedback(event | {"event_id": "page-2", "query_id": second["query_id"]}) == ["duplicate"]
    told = service.request("GET", f"/v1/explain/{second['query_id']}").json()
    assert told["root_query_id"] == first["query_id"]
    assert [(e["object_id"], e["position"]) for e in told["events"]] == [(hit["object_id"], hit["position"])]


def test_pages_survive_a_restart(tmp_path: Any) -> None:
    folder = tmp_path / "data"
    with with_tracks(folder) as service:
        first = service.search("song", limit=10)
        second = service.search("song", limit=10, offset=10, query_id=first["query_id"])
    with running(folder) as service:
        again = service.search("song", limit=10, offset=10, query_id=first["query_id"])
        assert [h["object_id"] for h in again["hits"]] == [h["object_id"] for h in second["hits"]]


def test_two_that_page_into_the_tail_at_once_see_one_list(service: Service) -> None:
    first = service.search("garden song", limit=10)
    body = {"query": "garden song", "limit": 100, "offset": 10, "query_id": first["query_id"], "timeout_ms": 10_000}

    async def both() -> list[Any]:
        return await asyncio.gather(*(service.client.post("/v1/search", json=body) for _ in range(8)))

    lists = [[hit["object_id"] for hit in response.json()["hits"]] for response in service.run(both())]
    assert lists[0]
    assert all(one == lists[0] for one in lists)


def test_the_same_filters_in_another_order_are_the_same_search(service: Service) -> None:
    first = service.search("song", limit=3, filters={"genres": ["Jazz", "Pop"]})
    again = service.search("song", limit=3, offset=3, filters={"genres": ["Pop", "Jazz"]}, query_id=first["query_id"])
    assert not {hit["object_id"] for hit in again["hits"]} & {hit["object_id"] for hit in first["hits"]}


def test_a_deleted_item_leaves_its_place_empty(tmp_path: Any) -> None:
    with with_tracks(tmp_path / "data") as service:
        first = service.search("song", limit=2)
        asked = {"limit": 4, "offset": 2, "query_id": first["query_id"]}
        before = service.search("song", **asked)["hits"]
        service.request("DELETE", f"/v1/items/{before[1]['object_id']}")
        after = {hit["object_id"]: hit["position"] for hit in service.search("song", **asked)["hits"]}
        assert after == {hit["object_id"]: hit["position"] for hit in before if hit is not before[1]}
