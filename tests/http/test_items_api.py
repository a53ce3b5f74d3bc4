"""Items, completions and models over HTTP: writes that a search sees, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.builders.catalogue import TRACKS
from tests.service import Service, problem, running, with_tracks

UNICORN = {"id": "unicorn", "title": "Unicorn Parade", "genres": ["Folk"], "year": 2020, "popularity": 10}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("items") / "data") as service:
        yield service


def found(service: Service, query: str) -> list[str]:
    return [hit["object_id"] for hit in service.search(query, limit=100)["hits"]]


def put(service: Service, body: bytes, kind: str = "application/x-ndjson") -> httpx.Response:
    return service.request("PUT", "/v1/items", content=body, headers={"content-type": kind})


class TestWrites:
    def test_are_seen_by_the_next_search(self, service: Service) -> None:
        for arm_query in ("unicorn parade", "unicron parade", "parade"):
            assert "unicorn" not in found(service, arm_query)
        service.put(UNICORN)
        for arm_query in ("unicorn parade", "unicron parade", "parade"):
            assert "unicorn" in found(service, arm_query)
        assert service.search("unicorn", filters={"year": 2020})["hits"][0]["object_id"] == "unicorn"
        service.put(UNICORN | {"title": "Griffin Parade", "year": 2021})
        assert "unicorn" in found(service, "griffin")
        assert "unicorn" not in [
            hit["object_id"] for hit in service.search("unicorn", filters={"year": 2020}, limit=100)["hits"]
        ]
        assert service.request("DELETE", "/v1/items/unicorn").json() == {"id": "unicorn", "status": "deleted"}
        assert "unicorn" not in found(service, "griffin parade")
        problem(service.request("DELETE", "/v1/items/unicorn"), 404, "not-found")
        problem(service.request("GET", "/v1/items/unicorn"), 404, "not-found")

    @pytest.mark.parametrize("kind", ["application/x-ndjson", "application/json", "text/plain"])
    def test_take_lines_and_arrays_whatever_they_are_called(self, service: Service, kind: str) -> None:
        items = [UNICORN | {"id": f"u{n}"} for n in range(3)]
        for body in (b"\n".join(json.dumps(i).encode() for i in items) + b"\n\n", json.dumps(items).encode()):
            answer = put(service, body, kind).json()
            assert answer == {
                "accepted": 3,
                "results": [{"id": i["id"], "status": "accepted", "detail": None} for i in items],
            }
        for item in items:
            assert service.request("DELETE", f"/v1/items/{item['id']}").status_code == 200

    def test_judge_each_item_by_itself(self, service: Service) -> None:
        lines = [json.dumps(UNICORN), "nope", "[]", '{"title": "no id"}', '{"id": "x", "year": "then"}', '{"id": true}']
        answer = put(service, "\n".join(lines).encode()).json()
        assert answer["accepted"] == 1
        assert [r["status"] for r in answer["results"]] == ["accepted"] + ["invalid"] * 5
        assert [r["id"] for r in answer["results"]][:5] == ["unicorn", None, None, None, "x"]
        assert all(r["detail"] for r in answer["results"][1:])
        assert "year" in answer["results"][4]["detail"]
        service.request("DELETE", "/v1/items/unicorn")

    @pytest.mark.parametrize("body", [b"", b"\n \n", b"[{]", b"[1, 2"])
    def test_of_nothing_or_broken_arrays_are_refused(self, service: Service, body: bytes) -> None:
        problem(put(service, body), 422, "invalid-request")

    def test_may_be_larger_than_other_bodies(self, tmp_path: Any) -> None:
        items = [UNICORN | {"id": f"big-{n}", "notes": "x" * 2000} for n in range(60)]
        with running(tmp_path / "data", max_body_bytes=50_000) as service:
            service.put(*items)
            small = service.request("PUT", "/v1/items/one", json=items[0] | {"id": "one", "notes": "x" * 60_000})
            problem(small, 413, "too-large")

    def test_of_one_item(self, service: Service) -> None:
        written = service.request("PUT", "/v1/items/solo", json={"title": "Solo Flight"})
        assert written.json() == {"id": "solo", "status": "accepted", "detail": None}
        assert service.request("GET", "/v1/items/solo").json() == {"id": "solo", "title": "Solo Flight"}
        for body in ({"id": "other"}, [], "text", None, {"id": "solo", "year": "then"}):
            problem(service.request("PUT", "/v1/items/solo", json=body), 422, "invalid-request")
        problem(service.request("PUT", "/v1/items/solo", content=b""), 422, "invalid-request")
        assert service.request("DELETE", "/v1/items/solo").status_code == 200

    @pytest.mark.parametrize("object_id", ["a/b", "a b", "ä", "100%", "a?b", "a#b", "..", "a/related", "x" * 128])
    def test_reach_ids_of_every_kind(self, service: Service, object_id: str) -> None:
        service.put(UNICORN | {"id": object_id})
        path = "/v1/items/" + "".join(f"%{byte:02X}" for byte in object_id.encode())
        assert service.request("GET", path).json()["id"] == object_id
        assert service.request("DELETE", path).status_code == 200

    @pytest.mark.parametrize("path", ["/v1/items/", "/v1/items/" + "x" * 129])
    def test_refuse_other_ids(self, service: Service, path: str) -> None:
        for method in ("GET", "PUT", "DELETE"):
            problem(service.request(method, path, json={}), 422, "invalid-request")


def test_an_empty_catalogue_answers(tmp_path: Any) -> None:
    with running(tmp_path / "data") as service:
        for query in ("", "anything at all"):
            answer = service.search(query)
            assert answer["hits"] == []
            assert answer["total"] == 0
        assert service.request("GET", "/v1/autocomplete?q=a").json() == {"suggestions": []}
        document = problem(service.request("POST", "/v1/search", json={"facets": ["genres"]}), 422, "invalid-request")
        assert "none" in document["detail"]


def test_items_survive_a_restart(tmp_path: Any) -> None:
    folder = tmp_path / "data"
    with with_tracks(folder) as service:
        before = service.search("winter song", limit=100, sort="-year")
    with running(folder) as service:
        assert service.request("GET", "/v1/items/t001").json() == TRACKS[1]
        after = service.search("winter song", limit=100, sort="-year")
        assert [h["object_id"] for h in after["hits"]] == [h["object_id"] for h in before["hits"]]


class TestCompletions:
    def test_have_the_contracts_form(self, service: Service) -> None:
        answer = service.request("GET", "/v1/autocomplete?q=win&session_id=s&limit=3").json()
        assert set(answer) == {"suggestions"}
        assert 0 < len(answer["suggestions"]) <= 3
        for suggestion in answer["suggestions"]:
            assert set(suggestion) == {"text", "score"}
            assert 0 <= suggestion["score"] <= 1

    @pytest.mark.parametrize("parameters", ["limit=0", "limit=51", "limit=1.0", "limit=true", "limit=", "session_id=",
                                            "query=x", "q=" + "x" * 1001])  # fmt: skip
    def test_refuse_what_cannot_be(self, service: Service, parameters: str) -> None:
        problem(service.request("GET", f"/v1/autocomplete?{parameters}"), 422, "invalid-request")

    @pytest.mark.parametrize("text", ["%00", "%FF", "%ED%A0%80", "*", "%22", "(", "%F0%9F%8E%B5", "%E2%80%AE", "%"])
    def test_answer_any_text(self, service: Service, text: str) -> None:
        assert service.request("GET", f"/v1/autocomplete?q={text}").status_code == 200


class TestModels:
    def test_that_do_not_exist_cannot_be_put_in_force(self, service: Service) -> None:
        assert service.request("GET", "/v1/models").status_code == 200
        for path in ("ranker/v1/promote", "ranker/rollback", "policy/v1/promote", "policy/rollback", "nope/v1/promote"):
            problem(service.request("POST", f"/v1/models/{path}"), 404, "not-found")

    @pytest.mark.parametrize("name", ["..", "%2e%2e", "%00", ".hidden", "-x", "a%0a", "x" * 81, "%FF", "a b"])
    def test_names_that_are_none_are_refused(self, service: Service, name: str) -> None:
        for path in (f"{name}/v1/promote", f"ranker/{name}/promote", f"{name}/rollback"):
            response = service.request("POST", f"/v1/models/{path}")
            assert response.status_code in (404, 422), response.text

    def test_promotions_say_why_in_few_words(self, service: Service) -> None:
        for body in ({"reason": 5}, {"force": "yes"}, {"why": "x"}, {"reason": "x" * 501}, []):
            problem(service.request("POST", "/v1/models/ranker/v1/promote", json=body), 422, "invalid-request")


def test_a_person_whose_id_has_a_slash_can_be_forgotten(service: Service) -> None:
    service.search("song", user_id="team/ann")
    assert service.request("DELETE", "/v1/users/team/ann").json()["log_records"] == 1
