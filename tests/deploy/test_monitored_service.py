"""A Prometheus watches a running service: every query of every panel, rule and alert has something to say."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry, start_http_server
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services import metrics
from services.errors import Unavailable
from services.resilience.remote import Remote
from services.types import Deadline
from tests.builders.catalogue import TRACKS
from tests.commands import Process, eventually, serving
from tests.deploy.promql import named, operands
from tests.deploy.test_monitoring import ALERTS, BOARDS, RECORDS, RULES, annotations, targets
from tests.servers.prometheus import Prometheus, configured, prometheus
from tests.servers.redis import RedisServer, free_port
from tests.system_packages import program

KEY = "a-key-of-the-operator"
SCRAPED = 8
"""Scrapes after which rates over the test's windows are known."""
QUIET = {
    "Failing share A": "no arm fails here",
    "Failing retrievals A": "no arm fails here",
    "Failing retrievals per arm A": "no arm fails here",
    "Burn rate over 5m C": "feedback is kept here",
    "Burn rate over 1h C": "feedback is kept here",
    "Burn rate over 6h C": "feedback is kept here",
    "Burn rate over 5m B": "searches may all be quick here",
    "Burn rate over 1h B": "searches may all be quick here",
    "Burn rate over 6h B": "searches may all be quick here",
    "Fallbacks A": "the policy does not fail here",
    "Fallback share A": "the policy does not fail here",
    "Skipped records A": "no record is damaged here",
    "Snapshot age and skipped records B": "no record is damaged here",
    "Down A": "all targets answer here",
    "Draining A": "nothing leaves here",
    "Restarts A": "nothing is started anew here",
}
"""Panel and query that may show nothing but 0 while all is well, and why. All others must show more."""


@dataclass
class Watched:
    """A service, the Prometheus that watches it, and since when (Unix seconds)."""

    service: Process
    prometheus: Prometheus
    since: float

    @property
    def seconds(self) -> float:
        """Seconds since monitoring began."""
        return time.time() - self.since

    def course(self, expression: str) -> list[dict[str, Any]]:
        """All that it has shown so far, a value each second, the last one of now."""
        return self.prometheus.course(expression, math.ceil(self.seconds))


def drive(service: Process, stop: threading.Event) -> None:
    """Traffic of users, shops and operators, over and over, including their errors."""
    queries = ("winter song", "river song", "lantern folk", "mira holt", "signal 1980", "jazz", "")
    turn = 0
    with ThreadPoolExecutor(3) as pool:
        while not stop.is_set():
            turn += 1
            asked = [{"query": query, "user_id": f"u{turn % 3}", "timeout_ms": 2000} for query in queries]
            found = pool.map(lambda body: service.client.post("/v1/search", json=body), asked)
            answers = [response.json() for response in found if response.status_code == 200]
            for answer in answers[:3]:
                if answer["hits"]:
                    service.act(answer)
                    service.act(answer)  # a duplicate
            forged = {"event_id": f"e{turn}", "query_id": "forged", "object_id": "t001", "action_name": "click"}
            service.call("POST", "/v1/feedback", json=[forged, {"event_id": 1}])
            service.call("PUT", "/v1/items", content=orjson.dumps(TRACKS[turn % len(TRACKS)]))
            service.client.get("/v1/autocomplete", params={"q": "win"})
            service.client.get("/v1/items/t001/related")
            service.client.get("/v1/items/nowhere")
            service.client.get("/nowhere")
            service.client.post("/v1/search", json={"limit": 0})
            stop.wait(0.1)


async def call_engines(url: str, stop: threading.Event) -> None:
    """One engine that answers, and one that refuses, called the way gateways call them."""
    once = Retry(NoBackoff(), 0)
    client, operator = (redis.asyncio.Redis.from_url(url, retry=once) for _ in range(2))
    well = Remote("redis", (redis.exceptions.ConnectionError,))
    sick = Remote("qdrant", (OSError,))
    nobody = free_port()
    try:
        while not stop.is_set():
            # Its connection is cut now and then: the call is tried again.
            await operator.client_kill_filter(_type="normal", skipme=True)
            for _ in range(20):
                await well.read(lambda _: client.ping(), Deadline.after(5.0))
                with contextlib.suppress(Unavailable):
                    await sick.read(lambda _: asyncio.open_connection("127.0.0.1", nobody), Deadline.after(5.0))
            await asyncio.sleep(0.2)
    finally:
        await client.aclose()
        await operator.aclose()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Everything runs and is used for as long as it takes Prometheus to know it all."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("watched")
    # The metrics of engines come from the class that gateways call them through; the embedded service has no engines.
    registry = CollectorRegistry()
    for metric in (metrics.ENGINE_REQUESTS, metrics.ENGINE_SECONDS, metrics.ENGINE_RETRIES, metrics.CIRCUIT_STATE):
        registry.register(metric)
    exporter, thread = start_http_server(0, "127.0.0.1", registry)
    stop = threading.Event()
    settings = {
        "admin_key": KEY,
        "attribution_seconds": 1,
        "snapshot_seconds": 1,
        "max_concurrency": 2,
        "exploration": 0.2,
    }
    try:
        with RedisServer() as server, serving(folder / "data", **settings) as service:
            service.client.headers["Authorization"] = f"Bearer {KEY}"
            service.call("PUT", "/v1/items", content=b"\n".join(orjson.dumps(track) for track in TRACKS))
            address = service.url.removeprefix("http://")
            # The learner of an embedded service runs inside it.
            jobs = {"ltrr-gateway": [address, f"127.0.0.1:{exporter.server_port}"], "ltrr-learner": [address]}
            with prometheus(folder, configured(folder, jobs, KEY)) as watcher, ThreadPoolExecutor(2) as pool:
                used = [pool.submit(drive, service, stop), pool.submit(asyncio.run, call_engines(server.url, stop))]
                try:
                    yield Watched(service, watcher, _seen(service, watcher))
                finally:
                    stop.set()
                for use in used:
                    use.result()
    finally:
        exporter.shutdown()
        exporter.server_close()
        thread.join()


def _seen(service: Process, watcher: Prometheus) -> float:
    """Since when it has been watched, once it has learned, published, explored and changed its mode."""
    for fact in (
        "ltrr_learned_decisions_total > 0 and ltrr_snapshot_timestamp_seconds > 0",
        'rate(ltrr_propensity_bucket{le="0.1"}[5s]) > 0',
        f'count_over_time(up{{job="ltrr-gateway"}}[5m]) > {SCRAPED}',
        f"count_over_time({RECORDS[-1]['record']}[5m]) > 2",
    ):
        eventually(lambda fact=fact: watcher.now(fact))
    service.call("PUT", "/v1/policy", json={"mode": "static"})
    eventually(lambda: watcher.now('ALERTS{alertname="LtrrPolicyStatic",alertstate="firing"}'))
    (oldest,) = watcher.now('min(min_over_time(timestamp(up{job="ltrr-gateway"})[5m:1s]))')
    return float(oldest["value"][1]) - 5.0


def substituted(expression: str, seconds: float, arm: str = "lexical") -> str:
    values = {"$__rate_interval": "5s", "$__range": f"{seconds:.0f}s", "$job": ".+", "$instance": ".+", "$arm": arm}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    # What happened an hour ago is not known after some seconds.
    return expression.replace("offset 1h", "offset 2s")


def known(series: list[dict[str, Any]]) -> bool:
    """Whether there is any value at all."""
    points = [point for one in series for point in one.get("values", [one.get("value")])]
    return any(value != "NaN" for _, value in points)


def moved(series: list[dict[str, Any]]) -> bool:
    """Whether there is any value but 0."""
    return any(value not in ("0", "NaN") for one in series for _, value in one["values"])


class TestRunning:
    def test_every_metric_named_is_exported(self, watched: Watched) -> None:
        text = watched.service.client.get("/metrics").text
        declared = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
        exported = {"up", "ALERTS"} | {rule["record"] for rule in RECORDS}
        for family, kind in declared.items():
            exported |= {family}
            if kind == "histogram":
                exported |= {family + suffix for suffix in ("_bucket", "_count", "_sum")}
        expressions = [rule["expr"] for rule in RULES]
        expressions += [expression for _, expression in (*targets(), *annotations())]
        for board in BOARDS.values():
            expressions += [str(variable.get("query")) for variable in board["templating"]["list"]]
        used = set().union(*map(named, expressions))
        assert {"ltrr_requests_total", "ltrr_workers"} <= used
        assert used - exported == set()

    def test_targets_are_up_with_the_key_alone(self, watched: Watched) -> None:
        assert {one["value"][1] for one in watched.prometheus.now("up")} == {"1"}
        assert watched.service.client.get("/metrics", headers={"Authorization": "Bearer no"}).status_code == 401

    @pytest.mark.parametrize(("where", "expression"), list(targets()), ids=[where for where, _ in targets()])
    def test_every_panel_shows_something(self, watched: Watched, where: str, expression: str) -> None:
        panel = where.partition(": ")[2]
        arms = ("lexical", "memory", "vector") if 'arm=~"$arm"' in expression else ("",)
        for arm in arms:

            def shown(arm: str = arm) -> bool:
                course = watched.course(substituted(expression, watched.seconds, arm))
                return known(course) and (moved(course) or panel in QUIET)

            # What is sampled, such as searches in flight, may be 0 by chance for a while.
            eventually(shown)

    def test_variables_have_values(self, watched: Watched) -> None:
        for board in BOARDS.values():
            for variable in board["templating"]["list"]:
                if variable["type"] == "query":
                    asked = substituted(variable["query"]["query"], watched.seconds)
                    match = re.fullmatch(r"label_values\((.*), (\w+)\)", asked)
                    assert match, asked
                    path = f"/api/v1/label/{match[2]}/values"
                    assert watched.prometheus.get(path, **{"match[]": match[1]}), asked

    @pytest.mark.parametrize("rule", RECORDS, ids=[rule["record"] for rule in RECORDS])
    def test_every_record_is_kept(self, watched: Watched, rule: dict[str, Any]) -> None:
        assert known(watched.prometheus.now(rule["record"]))
        assert known(watched.prometheus.now(rule["expr"]))

    @pytest.mark.parametrize("rule", ALERTS, ids=[f"{r['alert']} {r['labels'].get('window', '')}" for r in ALERTS])
    def test_every_alert_compares_what_there_is(self, watched: Watched, rule: dict[str, Any]) -> None:
        expression = substituted(rule["expr"], watched.seconds)
        watched.prometheus.now(expression)
        compared = operands(expression)
        assert compared
        for operand in compared:
            assert known(watched.prometheus.now(operand)), operand

    def test_annotations_are_drawn_from_what_there_is(self, watched: Watched) -> None:
        for where, expression in annotations():
            asked = substituted(expression, watched.seconds)
            watched.course(asked)
            for operand in operands(asked):
                assert known(watched.course(operand)), (where, operand)

    def test_rules_are_evaluated_without_complaint(self, watched: Watched) -> None:
        groups = watched.prometheus.get("/api/v1/rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) == len(RULES)
        assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}

    def test_an_alert_that_fires_says_what_is_the_matter(self, watched: Watched) -> None:
        firing = {alert["labels"]["alertname"]: alert for alert in watched.prometheus.get("/api/v1/alerts")["alerts"]}
        assert firing["LtrrCircuitOpen"]["annotations"]["summary"] == "The circuit of qdrant is open"
        assert "LtrrPolicyStatic" in firing
        assert not {"LtrrTargetDown", "LtrrGatewayAbsent", "LtrrLearnerAbsent", "LtrrRecordsSkipped"} & set(firing)
        for alert in firing.values():
            assert "error" not in alert["annotations"]["description"].lower()
