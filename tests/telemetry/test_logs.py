"""Log lines: one event, one line, that belongs to its request and that nothing sent can break."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http.middleware import Measure
from app.settings import Settings
from app.telemetry import logs
from services.resilience.log_throttle import LogThrottle
from services.search import engine as search
from tests.commands import called
from tests.service import Service, with_tracks

EVIL = (
    "winter\r\n2026-01-01T00:00:00.000Z INFO app.http.requests forged\x1b[2J\x9b31m\u2028\u202e\x00\x85 status=200 \"'"
)
"""Line ends of every kind, sequences that terminals act on, a change of direction, and what looks like a line."""
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ [\w.]+ ")
SECRET = "s3cret-admin-key"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    written = io.StringIO()
    with logs.logging_to(written):
        yield written


def configured(stream: io.StringIO, **given: Any) -> None:
    logs.configure(Settings.load({}, **given), stream)


def lines(stream: io.StringIO) -> list[str]:
    """Split as a line reader splits: at \\n alone, which a terminal or a collector would."""
    assert stream.getvalue().endswith("\n") or not stream.getvalue()
    return stream.getvalue().split("\n")[:-1]


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(stream)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("logs") / "data", policy="fixed") as service:
        yield service


class TestForms:
    def test_a_json_line(self, stream: io.StringIO) -> None:
        configured(stream, log_format="json")
        logging.getLogger("services.learning.learner").warning(
            "snapshot_failed kind=%s", "policy", extra={"took_ms": 1.5}
        )
        (event,) = events(stream)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("time"))
        assert event == {
            "level": "WARNING",
            "logger": "services.learning.learner",
            "message": "snapshot_failed kind=policy",
            "took_ms": 1.5,
        }

    def test_a_text_line(self, stream: io.StringIO) -> None:
        configured(stream)
        logging.getLogger("app.x").info("ready", extra={"count": 3, "words": "a b", "empty": ""})
        (line,) = lines(stream)
        assert LINE.match(line)
        assert line.endswith(' INFO app.x ready count=3 words="a b" empty=""')

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_levels_are_of_our_own_lines_and_others_only_warn(self, stream: io.StringIO, form: str) -> None:
        for level, heard in (("debug", 4), ("info", 3), ("warning", 2), ("error", 1)):
            stream.seek(0)
            stream.truncate()
            configured(stream, log_format=form, log_level=level)
            for name in ("app.x", "services.y", "somebody", "httpx"):
                logger = logging.getLogger(name)
                for say in (logger.debug, logger.info, logger.warning, logger.error):
                    say("said")
            others = 2 if level != "error" else 1
            assert len(lines(stream)) == 2 * heard + 2 * others

    def test_before_the_settings_are_known_a_command_says_what_is_wrong(self, stream: io.StringIO) -> None:
        logging.getLogger("app.x").info("said")
        logging.getLogger("app.x").warning("said")
        assert len(lines(stream)) == 1

    def test_what_was_configured_before_is_back_afterwards(self) -> None:
        def state() -> Any:
            root = logging.getLogger()
            return root.handlers[:], root.level, *(logging.getLogger(name).level for name in logs.OWN_PACKAGES)

        before = state()
        with logs.logging_to(io.StringIO()):
            configured(io.StringIO(), log_level="debug", log_format="json")
            assert state() != before
        assert state() == before


class TestNothingBreaksALine:
    @pytest.mark.parametrize("form", ["text", "json"])
    @settings(deadline=None)
    @given(text=st.one_of(st.just(EVIL), st.text(), st.text("\r\n\x1b\x9b\x85\u2028 =\"'\\")))
    def test_any_text_anywhere(self, form: str, text: str) -> None:
        written = io.StringIO()
        with logs.logging_to(written):
            configured(written, log_format=form)
            logger = logging.getLogger("app.x")
            logger.info("found %s", text)
            logger.info("found", extra={"query": text})
            logging.getLogger("uvicorn.error").warning(text)
        assert len(lines(written)) == 3
        if form == "json":
            assert events(written)[0]["message"] == f"found {text}"
            assert events(written)[1]["query"] == text
            assert written.getvalue().isascii()
        else:
            assert all(LINE.match(line) for line in lines(written))
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", written.getvalue())

    def test_a_value_in_a_text_line_ends_where_it_ends(self, stream: io.StringIO) -> None:
        configured(stream)
        logging.getLogger("app.x").info("request", extra={"query": "x status=200", "status": 503})
        assert lines(stream)[0].endswith(' request query="x status=200" status=503')

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_errors_say_type_and_place_and_never_what_was_sent(self, stream: io.StringIO, form: str) -> None:
        configured(stream, log_format=form)
        try:
            raise RuntimeError(f"cannot parse {EVIL}")
        except RuntimeError as error:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application", exc_info=error)
            try:
                raise ValueError("winter") from error
            except ValueError:
                logging.getLogger("app.x").exception("failed")
        assert len(lines(stream)) == 2
        assert "RuntimeError" in lines(stream)[0]
        assert "test_errors_say_type_and_place" in lines(stream)[0]
        assert "winter" not in stream.getvalue()

    def test_what_asyncio_tells_of_a_lost_task_quotes_nothing(self, stream: io.StringIO) -> None:
        """Uses a loop of its own: pytest's loop would report the errors to the test instead of the log."""
        configured(stream, log_format="json")

        async def fail() -> None:
            raise RuntimeError(EVIL)

        async def main() -> None:
            task = asyncio.create_task(fail(), name=EVIL)
            await asyncio.wait([task])
            del task
            gc.collect()
            asyncio.get_running_loop().call_soon(int, EVIL)
            await asyncio.sleep(0)

        asyncio.run(main())
        told = events(stream)
        assert [event["message"] for event in told] == [
            "Task exception was never retrieved",
            "Exception in callback int",
        ]
        assert "RuntimeError" in told[0]["error"]
        assert "winter" not in stream.getvalue()

    def test_warnings_and_lines_that_cannot_be_written_are_no_exception(
        self, stream: io.StringIO, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configured(stream, log_format="json")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"deprecated {EVIL}", stacklevel=1)
        logging.getLogger("app.x").warning("%d of it", "none")  # a mistake of ours must not quote what it was given
        assert len(events(stream)) == 1
        assert capsys.readouterr().err == ""


class TestRequests:
    def test_each_request_has_one_line(self, service: Service, stream: io.StringIO) -> None:
        configured(stream, log_format="json")
        service.search("winter song")
        service.request("POST", "/v1/search", json={"query": 7})
        service.request("GET", "/livez")
        service.request("GET", "/nowhere/at/all")
        told = [event for event in events(stream) if event["logger"] == "app.http.requests"]
        assert [(e["method"], e["route"], e["status"]) for e in told] == [
            ("POST", "/v1/search", 200),
            ("POST", "/v1/search", 422),
            ("GET", "/livez", 200),
            ("GET", "other", 404),
        ]
        assert all(e["message"] == "request" and e["took_ms"] > 0 and len(e["request_id"]) == 32 for e in told)
        assert len({e["request_id"] for e in told}) == 4
        assert "winter" not in stream.getvalue()

    def test_request_lines_follow_the_level(self, service: Service, stream: io.StringIO) -> None:
        configured(stream, log_level="warning")
        service.request("GET", "/livez")
        assert not stream.getvalue()

    @pytest.mark.parametrize("given", ["a", "01J8-req_7.x~", "A" * 64])
    def test_a_plain_request_id_is_taken_over(self, service: Service, stream: io.StringIO, given: str) -> None:
        configured(stream, log_format="json")
        response = service.request("GET", "/livez", headers={"X-Request-Id": given})
        assert response.headers["X-Request-Id"] == given
        assert events(stream)[0]["request_id"] == given

    @pytest.mark.parametrize(
        "given", [b"", b"A" * 65, b"a b", b"a,b", b'a"b', b"a\x1b[31m", b"\xc3\xa4", b"a;b", b"a\tb", b"{}", b"a\\nb"]
    )
    def test_any_other_is_replaced(self, service: Service, stream: io.StringIO, given: bytes) -> None:
        configured(stream, log_format="json")
        response = service.request("GET", "/livez", headers=[(b"X-Request-Id", given)])
        assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-Id"])
        assert events(stream)[0]["request_id"] == response.headers["X-Request-Id"]

    def test_every_line_of_a_request_says_whose_it_is(
        self, service: Service, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also those from tasks of the request, and the one of an error that nobody expected."""

        async def crash(*_: Any, **__: Any) -> Any:
            raise RuntimeError(EVIL)

        configured(stream, log_format="json")
        with monkeypatch.context() as patch:
            patch.setattr(search, "_log_throttle", LogThrottle())  # nothing of it was said before
            patch.setattr(service.system.memory, "remembered", crash)
            service.request("POST", "/v1/search", json={"query": "winter song"}, headers={"X-Request-Id": "one"})
        with monkeypatch.context() as patch:
            patch.setattr(service.system.search, "answer", crash)
            response = service.request(
                "POST", "/v1/search", json={"query": "winter song"}, headers={"X-Request-Id": "two"}
            )
        assert response.status_code == 500
        assert response.headers["X-Request-Id"] == "two"
        told = [(e["message"].split()[0], e.get("request_id")) for e in events(stream)]
        assert told == [
            ("part_failed", "one"),
            ("request", "one"),
            ("unhandled_error", "two"),
            ("request", "two"),
        ]
        assert "winter" not in stream.getvalue()

    def test_the_trace_of_the_caller_is_named_even_when_nothing_is_traced(
        self, service: Service, stream: io.StringIO
    ) -> None:
        configured(stream, log_format="json")
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        for traceparent in (f"00-{trace_id}-b7ad6b7169203331-01", f"00-{trace_id}-b7ad6b7169203331", "00-\n", EVIL):
            service.request("GET", "/livez", headers=[(b"traceparent", traceparent.encode())])
        assert [event.get("trace_id") for event in events(stream)] == [trace_id, None, None, None]

    @pytest.mark.parametrize("allowed", [True, False])
    @pytest.mark.parametrize("form", ["text", "json"])
    async def test_queries_are_logged_only_where_they_may_be(
        self, stream: io.StringIO, allowed: bool, form: str
    ) -> None:
        configured(stream, log_format=form, log_queries=allowed)

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            logs.note(query=EVIL)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

        assert (await got(Measure(noting, log_queries=allowed))).status_code == 200
        assert len(lines(stream)) == 1
        assert ("winter" in stream.getvalue()) is allowed
        if form == "json":
            assert events(stream)[0].get("query") == (EVIL if allowed else None)

    def test_a_note_outside_of_a_request_is_no_error(self) -> None:
        logs.note(query="winter")

    def test_a_service_that_is_fed_with_everything_bad_tells_one_line_each(
        self, service: Service, stream: io.StringIO
    ) -> None:
        configured(stream, log_format="json")
        asked = 0
        for value in (EVIL, "\x1b]0;title\x07", "a\nb", '{"level": "ERROR"}'):
            for body in (
                {"query": value},
                {"query": "song", "user_id": value, "session_id": value},
                {"query": "song", "filters": {value: value}},
                {"query": "song", "sort": value},
                {value: value},
            ):
                service.request("POST", "/v1/search", json=body, headers=[(b"User-Agent", value.encode())])
                service.request("POST", "/v1/feedback", json=body)
                service.request("GET", "/v1/autocomplete", params={"q": value, value: value})
                service.request("GET", f"/v1/{value.encode().hex()}%0a%1b/x")
                asked += 4
        told = events(stream)
        assert len([e for e in told if e["message"] == "request"]) == asked
        assert all(e["logger"].startswith(("app", "services")) for e in told)
        assert "forged" not in stream.getvalue()


async def got(app: ASGIApp) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        return await client.get("/")


async def test_the_server_logs_like_everybody_when_it_configures_nothing(stream: io.StringIO) -> None:
    """Bytes that are no request, over a real socket."""
    configured(stream, log_format="json")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError(EVIL)

    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", access_log=False, log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    for sent in (b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await reader.readline()
        writer.close()
    server.should_exit = True
    await serving
    told = events(stream)
    assert {"Invalid HTTP request received.", "Exception in ASGI application\n"} <= {e["message"] for e in told}
    assert "winter" not in stream.getvalue()


def test_secrets_of_the_settings_are_in_no_line(tmp_path: Path) -> None:
    ended = called(
        tmp_path, "serve", admin_key=SECRET, redis_url=f"redis://user:{SECRET}@127.0.0.1:1/0", log_format="json"
    )
    assert ended.returncode != 0
    assert SECRET not in ended.stdout + ended.stderr
