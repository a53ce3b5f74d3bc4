"""Who may do what, and what must never be told: keys, Host and Origin, logs, metrics."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.http.security import OriginGuard
from services.types import Deadline
from tests.service import Service, problem, running, with_tracks

KEY = "a-key-of-the-operator"
ADMIN = {"Authorization": f"Bearer {KEY}"}
ADMIN_ROUTES = [
    ("PUT", "/v1/items"),
    ("PUT", "/v1/items/t001"),
    ("DELETE", "/v1/items/t001"),
    ("GET", "/v1/explain/any"),
    ("GET", "/v1/models"),
    ("POST", "/v1/models/ranker/v1/promote"),
    ("POST", "/v1/models/ranker/rollback"),
    ("GET", "/v1/policy"),
    ("PUT", "/v1/policy"),
    ("DELETE", "/v1/users/someone"),
    ("GET", "/metrics"),
    ("GET", "/pages/activity"),
]
OPEN_ROUTES = [
    ("GET", "/v1/search?q=winter"),
    ("GET", "/v1/autocomplete?q=win"),
    ("GET", "/v1/items/t001"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/"),
    ("GET", "/console"),
]
STRANGERS = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer"},
    {"Authorization": KEY},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": f"Bearer {KEY}x"},
    {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": f"Bearer {KEY.upper()}"},
    {"Authorization": f"Bearer Bearer {KEY}"},
    {"X-Api-Key": KEY},
    {"Cookie": f"key={KEY}"},
    {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("guarded") / "data", admin_key=KEY) as service:
        yield service


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("keyless") / "data") as service:
        yield service


class TestKey:
    @pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
    def test_admin_routes_refuse_strangers(self, guarded: Service, method: str, path: str) -> None:
        for headers in STRANGERS:
            response = guarded.request(method, path, headers=headers, content=b"{}")
            problem(response, 401, "unauthorized")
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert KEY not in response.text

    @pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
    def test_admin_routes_know_the_operator(self, guarded: Service, method: str, path: str) -> None:
        if path.startswith("/v1/items"):
            path = path.replace("t001", "other")
        for headers in (ADMIN, {"authorization": f"bearer {KEY}"}):
            response = guarded.request(method, path, headers=headers, content=b'{"id": "other", "title": "Other"}')
            assert response.status_code in (200, 404, 422), response.text

    def test_bytes_that_are_no_text_are_a_wrong_key(self, guarded: Service) -> None:
        response = guarded.request("GET", "/v1/models", headers=[(b"authorization", b"Bearer \xff\xfe")])
        problem(response, 401, "unauthorized")

    @pytest.mark.parametrize(("method", "path"), OPEN_ROUTES)
    def test_open_routes_stay_open(self, guarded: Service, method: str, path: str) -> None:
        for headers in STRANGERS:
            assert guarded.request(method, path, headers=headers).status_code == 200

    def test_every_documented_route_is_one_or_the_other(self, guarded: Service) -> None:
        paths = guarded.request("GET", "/openapi.json").json()["paths"]
        known = [path for _, path in ADMIN_ROUTES + OPEN_ROUTES] + ["/v1/search", "/v1/feedback"]
        for path, operations in paths.items():
            pattern = re.compile(re.sub(r"\{\w+\}", "[^/?]+", path) + r"(\?.*)?")
            assert any(pattern.fullmatch(k) for k in known), f"{path} is in neither list"
            for method, operation in operations.items():
                admin = any(m == method.upper() and pattern.fullmatch(p) for m, p in ADMIN_ROUTES)
                assert admin == ("401" in operation["responses"]), (method, path)

    def test_events_without_an_answer_need_it(self, guarded: Service) -> None:
        event = {"event_id": "e1", "object_id": "t001", "action_name": "play", "user_id": "u1"}
        stranger = guarded.request("POST", "/v1/feedback", json=event)
        assert stranger.json()["results"][0]["status"] == "invalid"
        assert "admin key" in stranger.json()["results"][0]["detail"]
        known = guarded.request("POST", "/v1/feedback", json=event, headers=ADMIN)
        assert known.json()["results"][0]["status"] == "accepted"

    def test_any_host_may_ask_when_there_is_a_key(self, guarded: Service) -> None:
        headers = {"Host": "search.shop.example", "Origin": "https://shop.example"}
        response = guarded.request("GET", "/v1/search?q=winter", headers=headers)
        assert response.status_code == 200
        assert not [name for name in response.headers if name.startswith("access-control")]


class TestWithoutKey:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
    def test_our_own_names_are_answered(self, keyless: Service, host: str) -> None:
        assert keyless.request("GET", "/livez", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1",
         "192.168.0.9", "localhost:8000@evil.example", "0.0.0.0"],
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["/livez", "/v1/search?q=x", "/", "/nope"])
    def test_rebinding_names_are_refused(self, keyless: Service, host: str, path: str) -> None:
        problem(keyless.request("GET", path, headers={"Host": host}), 421, "misdirected-request")

    @pytest.mark.parametrize(
        "origin",
        ["http://evil.example", "null", "", "http://localhost.evil.example:8000", "http://127.0.0.1:9", "file://",
         "http://127.0.0.1:8000@evil.example", "http://[", "chrome-extension://abc"],
    )  # fmt: skip
    def test_other_origins_are_refused(self, keyless: Service, origin: str) -> None:
        for method, path in (("POST", "/v1/search"), ("POST", "/v1/feedback"), ("PUT", "/v1/policy"), ("GET", "/")):
            response = keyless.request(method, path, headers={"Origin": origin}, content=b"{}")
            problem(response, 403, "forbidden")
            assert not [name for name in response.headers if name.startswith("access-control")]

    def test_the_services_own_pages_may_call(self, keyless: Service) -> None:
        headers = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}
        assert keyless.request("POST", "/v1/search", json={}, headers=headers).status_code == 200

    def test_forwarded_headers_change_nothing(self, keyless: Service) -> None:
        headers = {"Host": "evil.example", "X-Forwarded-Host": "127.0.0.1", "Forwarded": "host=127.0.0.1"}
        problem(keyless.request("GET", "/livez", headers=headers), 421, "misdirected-request")

    def test_admin_routes_are_open(self, keyless: Service) -> None:
        assert keyless.request("GET", "/v1/policy").status_code == 200

    def test_hosts_and_origins_can_be_listed(self) -> None:
        guard = OriginGuard(["Search.Example"], ["https://Shop.example/"])
        assert guard.refusal("search.example:80", "https://shop.example") is None
        assert guard.refusal("search.example", "https://shop.example.evil") is not None


def test_browsers_of_listed_origins_may_call(tmp_path: Any) -> None:
    with running(tmp_path / "data", admin_key=KEY, cors_origins=["https://shop.example"]) as service:
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        allowed = service.request("OPTIONS", "/v1/search", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
        assert "access-control-allow-credentials" not in allowed.headers
        answered = service.request("GET", "/v1/search", headers={"Origin": "https://shop.example"})
        assert answered.headers["access-control-expose-headers"] == "X-Query-Id, X-Request-Id, traceparent"
        other = service.request("OPTIONS", "/v1/search", headers=asked | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


class TestNothingIsTold:
    SECRET = "xyzzysecret"

    def test_text_of_people_is_in_no_log_and_no_label(self, guarded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logging.getLogger().addHandler(handler)
        root, client = logging.getLogger(), logging.getLogger("httpx")
        before = root.level, client.level
        root.setLevel(logging.DEBUG)
        client.setLevel(logging.WARNING)  # it is the test that calls, not the service
        try:
            self._say_it_everywhere(guarded, monkeypatch)
        finally:
            logging.getLogger().removeHandler(handler)
            root.setLevel(before[0])
            client.setLevel(before[1])
        logged = stream.getvalue()
        assert "unhandled_error" in logged, "the failure itself is logged"
        assert self.SECRET not in logged
        metrics = guarded.request("GET", "/metrics", headers=ADMIN).text
        assert 'route="/v1/items/{object_id' in metrics
        assert self.SECRET not in metrics
        assert KEY not in logged + metrics

    def _say_it_everywhere(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = self.SECRET
        for body in (
            {"query": secret},
            {"query": f"{secret}\n|A x:1", "user_id": secret, "session_id": secret, "client_id": secret},
            {"query": secret, "context": {secret: secret}},
            {"filters": {secret: secret}},
            {"filters": {"artist": secret}},
            {"filters": {"year": secret}},
            {"sort": secret},
            {secret: secret},
            {"query_id": secret},
        ):
            service.request("POST", "/v1/search", json=body)
        for path in (f"/v1/search?q={secret}&{secret}=1", f"/{secret}", f"/v1/items/{secret}", f"/v1/explain/{secret}",
                     f"/v1/autocomplete?q={secret}", f"/v1/users/{secret}", f"/static/{secret}"):  # fmt: skip
            service.request("GET", path, headers=ADMIN)
        service.request("DELETE", f"/v1/users/{secret}", headers=ADMIN)
        service.request("PUT", "/v1/items", content=f'{{"id": "{secret}", "year": "{secret}"}}', headers=ADMIN)
        service.request("PUT", "/v1/items", content=secret, headers=ADMIN)
        service.request("POST", "/v1/feedback", json={"event_id": secret, "action_name": secret, secret: 1})
        service.request("POST", f"/v1/models/{secret}/{secret}/promote", headers=ADMIN)

        async def crash(*_: Any) -> Any:
            raise RuntimeError(secret)

        with monkeypatch.context() as patch:
            patch.setattr(service.system.search, "collect", crash)
            problem(service.request("POST", "/v1/search", json={"query": secret}), 500, "internal-error")
        with monkeypatch.context() as patch:
            patch.setattr(service.system.memory, "remembered", crash)
            patch.setattr(service.system.memory, "popular_queries", crash)
            service.search(secret)
            service.request("GET", f"/v1/autocomplete?q={secret}")

    def test_answers_do_not_say_what_serves_them(self, guarded: Service) -> None:
        response = guarded.request("GET", "/v1/search")
        assert "server" not in response.headers
        assert "x-powered-by" not in response.headers

    def test_people_are_forgotten_on_disk(self, tmp_path: Any) -> None:
        folder = tmp_path / "data"
        secret = b"xyzzyforgetme"
        with with_tracks(folder) as service:
            first = service.search(f"winter {secret.decode()}song", user_id=secret.decode(), session_id="s")
            events = [
                {
                    "event_id": f"e{n}",
                    "query_id": first["query_id"],
                    "object_id": hit["object_id"],
                    "action_name": "play",
                }
                for n, hit in enumerate(first["hits"][:3])
            ]
            assert service.feedback(*events) == ["accepted"] * 3
            service.run(service.system.learner.catch_up(policy=False))
            person = service.run(service.system.memory.person(f"u:{secret.decode()}", 10, _soon()))
            assert len(person.recent) == 3
            forgotten = service.request("DELETE", f"/v1/users/{secret.decode()}")
            assert forgotten.json()["log_records"] == 4
            person = service.run(service.system.memory.person(f"u:{secret.decode()}", 10, _soon()))
            assert person.recent == ()
            told = service.request("GET", f"/v1/explain/{first['query_id']}")
            assert secret not in told.content
            completions = service.request("GET", "/v1/autocomplete?q=winter%20xyz").content
            assert secret not in completions
            again = service.request("DELETE", f"/v1/users/{secret.decode()}")
            assert again.json()["log_records"] == 0
        left = [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
        # The log keeps that this id is to be forgotten, so that a replay from a backup forgets it again.
        assert {path.name for path in left} <= {"log.sqlite3"}
        assert (folder / "log.sqlite3").read_bytes().count(secret + b"song") == 0


def _soon() -> Deadline:
    return Deadline.after(5.0)


def test_titles_are_the_documents_own(keyless: Service) -> None:
    """No field of an answer is taken from the query but `understanding`."""
    answer = keyless.search("<script>alert(1)</script> winter")
    answer.pop("understanding")
    assert "<script" not in str(answer)
