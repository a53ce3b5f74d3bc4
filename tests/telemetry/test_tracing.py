"""Traces as a collector gets them: over HTTP, in OTLP's protobuf."""

from __future__ import annotations

import asyncio
import gzip
import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.types import Receive, Scope, Send

from app.http.middleware import Measure
from app.settings import Settings
from app.telemetry import logs, tracing
from services import metrics
from services.arms.retrieval import retrieve
from services.errors import Unavailable
from services.resilience.remote import Remote
from services.tracing import NOTHING, outgoing_headers, span
from services.types import Candidate, Context, Deadline, Query, Understanding

ROOT = Path(__file__).parents[2]
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = Context(Query("winter song"), Understanding("winter song", (), (), None, "en", ()), 1000.0)


class Collector:
    """Takes what is exported, or does not: `hang` until told."""

    def __init__(self, status: int = 200, hang: bool = False) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.release = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if hang:
                    collector.release.wait(30.0)
                collector.take(self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(values(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def named(self, name: str) -> Span:
        (found,) = [one for one in self.spans if one.name == name]
        return found

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def sampled(headers: dict[str, str]) -> bool:
    return bool(int(headers["traceparent"][-2:], 16) & 1)


def failed(one: Span) -> bool:
    return one.status.code == one.status.STATUS_CODE_ERROR


@contextmanager
def collected(**given: Any) -> Iterator[tuple[Collector, Settings]]:
    with Collector() as collector:
        yield collector, Settings.load({}, otlp_endpoint=collector.endpoint, **given)


class Stub:
    counts = (0, 5)

    def __init__(self, name: str, behave: Any) -> None:
        self.name = name
        self.behave = behave

    def available(self, context: Context) -> bool:
        return True

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> Any:
        return await self.behave(deadline)


async def answer(deadline: Deadline) -> Any:
    return [Candidate("t1", 1.0)]


async def hang(deadline: Deadline) -> Any:
    await asyncio.Event().wait()


async def crash(deadline: Deadline) -> Any:
    raise RuntimeError("winter song")


def application(sent: list[dict[str, str]]) -> Any:
    """A request that goes through a stage, arms and an engine; `sent` gets the headers that the engine would."""
    engine = Remote("redis", (ConnectionError,))

    async def ask(seconds: float) -> None:
        sent.append(outgoing_headers())

    async def by_engine(deadline: Deadline) -> Any:
        await engine.read(ask, deadline)
        return [Candidate("t2", 1.0), Candidate("t3", 0.5)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        logs.note(query="winter song")
        with metrics.stage("retrieve"):
            arms = [Stub("lexical", answer), Stub("vector", hang), Stub("memory", crash), Stub("personal", by_engine)]
            await retrieve(arms, {arm.name: 5 for arm in arms}, CONTEXT, Deadline.after(0.2))
        status = 503 if scope["path"] == "/broken" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    return app


async def ask(app: Any, path: str = "/", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        return await client.get(path, headers=headers)


async def test_a_request_its_stage_its_arms_side_by_side_and_the_engine_below() -> None:
    sent: list[dict[str, str]] = []
    with collected() as (collector, settings):
        app = Measure(application(sent))
        async with tracing.exporting(settings):
            await ask(app)
    assert set(collector.paths) == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "ltrr"
    request, stage, engine = (collector.named(name) for name in ("GET other", "retrieve", "redis"))
    arms = {name: collector.named(f"arm {name}") for name in ("lexical", "vector", "memory", "personal")}
    assert len(collector.spans) == 7
    assert len({one.trace_id for one in collector.spans}) == 1
    assert request.parent_span_id == b""
    assert stage.parent_span_id == request.span_id
    assert {arm.parent_span_id for arm in arms.values()} == {stage.span_id}
    assert engine.parent_span_id == arms["personal"].span_id
    assert request.kind == Span.SPAN_KIND_SERVER
    assert engine.kind == Span.SPAN_KIND_CLIENT
    told = values(request.attributes)
    assert told == {"http.request.method": "GET", "http.route": "other", "http.response.status_code": 200}
    outcomes = {name: values(arm.attributes)["ltrr.outcome"] for name, arm in arms.items()}
    assert outcomes == {"lexical": "ok", "vector": "timeout", "memory": "error", "personal": "ok"}
    assert {name for name, arm in arms.items() if failed(arm)} == {"vector", "memory"}
    assert values(arms["memory"].attributes)["error.type"] == "RuntimeError"
    assert values(arms["personal"].attributes)["ltrr.found"] == 2
    assert all(0 < values(arm.attributes)["ltrr.deadline_ms"] <= 200 for arm in arms.values())
    assert values(engine.attributes)["db.system.name"] == "redis"
    assert values(engine.attributes)["ltrr.outcome"] == "ok"
    assert sent[0]["traceparent"].startswith(f"00-{engine.trace_id.hex()}-{engine.span_id.hex()}-")
    assert sampled(sent[0])
    assert "winter" not in str(collector.spans), "neither queries nor messages of errors"


async def test_queries_are_in_traces_only_where_they_may_be() -> None:
    with collected(log_queries=True) as (collector, settings):
        app = Measure(application([]), log_queries=settings.log_queries)
        async with tracing.exporting(settings):
            await ask(app)
    assert values(collector.named("GET other").attributes)["ltrr.query"] == "winter song"


async def test_the_trace_of_the_caller_goes_on_and_is_named_to_him_and_in_the_log() -> None:
    stream = io.StringIO()
    answers = []
    with collected() as (collector, settings), logs.logging_to(stream):
        logs.configure(settings, stream)
        async with tracing.exporting(settings):
            app = Measure(application([]))
            answers.append(await ask(app, "/broken", traceparent=f"00-{TRACE}-{CALLER}-01", tracestate="a=1"))
    request = collector.named("GET other")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    assert request.trace_state == "a=1"
    assert failed(request), "503"
    assert answers[0].headers["traceparent"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert f"trace_id={TRACE}" in stream.getvalue()


@pytest.mark.parametrize(
    ("ratio", "flags", "recorded"), [(0.0, "01", True), (1.0, "00", False), (0.0, None, False), (1.0, None, True)]
)
async def test_the_caller_decides_what_is_sampled_and_else_the_ratio(
    ratio: float, flags: str | None, recorded: bool
) -> None:
    sent: list[dict[str, str]] = []
    headers = {} if flags is None else {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}
    with collected(trace_ratio=ratio) as (collector, settings):
        app = Measure(application(sent))
        async with tracing.exporting(settings):
            await ask(app, **headers)
    assert bool(collector.spans) is recorded
    assert sampled(sent[0]) is recorded, "engines are told"


@pytest.mark.parametrize("traceparent", ["", "00-", f"00-{'0' * 32}-{CALLER}-01", "ff-\u007f-1", "winter\t" * 100])
async def test_a_traceparent_that_is_none_begins_a_new_trace(traceparent: str) -> None:
    with collected() as (collector, settings):
        app = Measure(application([]))
        async with tracing.exporting(settings):
            await ask(app, traceparent=traceparent.strip())
    assert collector.named("GET other").parent_span_id == b""


async def test_an_engine_that_fails_or_is_not_in_time_says_so() -> None:
    async def refuse(seconds: float) -> None:
        raise ConnectionRefusedError("user:password@host")

    async def never(seconds: float) -> None:
        await asyncio.Event().wait()

    with collected() as (collector, settings):
        async with tracing.exporting(settings):
            for remote, call, expected in (
                (Remote("qdrant", (ConnectionError,)), refuse, Unavailable),
                (Remote("opensearch"), never, TimeoutError),
            ):
                with pytest.raises(expected):
                    await remote.read(call, Deadline.after(0.1))
    assert {values(one.attributes)["ltrr.outcome"] for one in collector.spans if one.name == "qdrant"} == {
        "unavailable"
    }
    assert values(collector.named("opensearch").attributes)["ltrr.outcome"] == "timeout"
    assert all(failed(one) for one in collector.spans)
    assert "password" not in str(collector.spans)


@pytest.mark.parametrize("collector", [{"hang": True}, {"status": 503}, None])
async def test_a_collector_that_is_sick_costs_no_request_and_not_the_end(
    collector: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The end waits for it for some seconds, not for ever."""
    with Collector(**(collector or {})) as sick:
        endpoint = sick.endpoint if collector else "http://127.0.0.1:1"
        began = time.monotonic()
        async with tracing.exporting(Settings.load({}, otlp_endpoint=endpoint)):
            app = Measure(application([]))
            asked = time.monotonic()
            for _ in range(3):
                assert (await ask(app)).status_code == 200
            took = time.monotonic() - asked
        assert time.monotonic() - began < 3 * 0.2 + 2 * tracing.EXPORT_SECONDS + 5.0
    assert took < 3 * 0.2 + 3.0


async def test_a_long_queue_for_a_collector_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EXPORT_SECONDS", 1.0)
    with Collector(hang=True) as sick:
        began = time.monotonic()
        async with tracing.exporting(Settings.load({}, otlp_endpoint=sick.endpoint)):
            for _ in range(2000):  # four batches of what is sent at once
                with span("some"):
                    pass
        assert time.monotonic() - began < 3.5


async def test_without_a_collector_nothing_is_traced_and_nothing_is_loaded() -> None:
    sent: list[dict[str, str]] = []
    answers = []
    async with tracing.exporting(Settings.load({})):
        answers.append(await ask(Measure(application(sent)), traceparent=f"00-{TRACE}-{CALLER}-01"))
    assert sent == [{}]
    assert "traceparent" not in answers[0].headers
    assert span("any", engine="redis") is NOTHING
    code = "import sys, app.http.application; print(*[m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


def test_what_is_off_costs_less_than_a_microsecond() -> None:
    def cost(calls: int = 20_000) -> float:
        """Seconds of processor time a call."""
        began = time.process_time()
        for _ in range(calls):
            with span("redis", engine="redis", deadline_ms=100):
                pass
            outgoing_headers()
        return (time.process_time() - began) / (2 * calls)

    assert min(cost() for _ in range(5)) < 1e-6


async def test_after_the_end_nothing_is_traced_any_more() -> None:
    with collected() as (collector, settings):
        async with tracing.exporting(settings):
            await asyncio.sleep(0)
        with span("late"), metrics.stage("late"):
            pass
        assert outgoing_headers() == {}
    assert not collector.spans
    assert not [thread for thread in threading.enumerate() if re.search("Otel", thread.name)]
