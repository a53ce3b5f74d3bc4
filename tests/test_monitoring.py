"""Dashboards, rules and alerts say something about a running service, and what they say is true."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis.asyncio
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import CollectorRegistry, start_http_server

from app.settings import Settings
from deploy.grafana.generate import FOLDER, dashboards
from services import metrics
from services.backends.remote import Remote
from services.errors import Unavailable
from services.types import Deadline
from tests.process import Process, eventually, serving
from tests.promql import named, operands
from tests.servers.prometheus import CONFIGURATION, Prometheus, configured, program, prometheus, promtool
from tests.servers.redis import RedisServer, free_port
from tests.service import TRACKS

DEPLOY = Path(__file__).parents[1] / "deploy"
KEY = "a-key-of-the-operator"
SCRAPED = 12
"""Scrapes after which rates over the test's windows are known."""

BOARDS: dict[str, dict[str, Any]] = {name: json.loads((FOLDER / name).read_text()) for name in sorted(dashboards())}
RULES: list[dict[str, Any]] = [
    rule
    for path in sorted((CONFIGURATION / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
RECORDS = [rule for rule in RULES if "record" in rule]
ALERTS = [rule for rule in RULES if "alert" in rule]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets() -> Iterator[tuple[str, str]]:
    """Where it stands, and the expression, of every query of every panel."""
    for name, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']} {target['refId']}", target["expr"]


def annotations() -> Iterator[tuple[str, str]]:
    for name, board in BOARDS.items():
        for one in board["annotations"]["list"]:
            yield f"{name}: {one['name']}", one["expr"]


class TestDashboards:
    def test_what_is_committed_is_what_the_code_makes(self) -> None:
        assert {path.name: path.read_text() for path in FOLDER.iterdir()} == dashboards()

    @pytest.mark.parametrize("name", BOARDS)
    def test_it_is_one_for_grafanas_own_types(self, name: str) -> None:
        register_default_plugins()
        board = BOARDS[name]
        again = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
        for one in board["annotations"]["list"]:
            for known in again["annotations"]["list"]:
                if known["name"] == one["name"]:
                    known |= {field: one[field] for field in ("titleFormat", "step", "useValueForTime")}
        for panel in panels(again):
            if panel["fieldConfig"]["defaults"].get("custom") == {}:
                del panel["fieldConfig"]["defaults"]["custom"]  # the types add it where there is none
        assert again == board

    def test_they_can_be_told_apart(self) -> None:
        assert len({board["uid"] for board in BOARDS.values()}) == len({b["title"] for b in BOARDS.values()}) == 4
        for name, board in BOARDS.items():
            assert board["uid"] == name.removesuffix(".json")
            assert board["editable"] is False
            assert board["description"]

    @pytest.mark.parametrize("name", BOARDS)
    def test_panels_have_all_that_makes_them_legible(self, name: str) -> None:
        board = BOARDS[name]
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(titles)) == len(titles)
        for panel in panels(board):
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references)
            for part in (panel, *panel["targets"]):
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]

    @pytest.mark.parametrize("name", BOARDS)
    def test_panels_do_not_overlap(self, name: str) -> None:
        taken: dict[tuple[int, int], str] = {}
        for panel in BOARDS[name]["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert taken.setdefault((x, y), panel["title"]) == panel["title"], (x, y)
        assert {x for x, y in taken if y == 0} == set(range(24))

    @pytest.mark.parametrize("name", BOARDS)
    def test_variables_are_defined_and_used(self, name: str) -> None:
        board = BOARDS[name]
        text = json.dumps([board["panels"], board["annotations"], board["templating"]])
        used = set(re.findall(r"\$\{?([a-z]\w*)", text))
        assert used == {variable["name"] for variable in board["templating"]["list"]}

    def test_provisioning_names_the_same_folder_and_source(self) -> None:
        source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
        (known,) = source["datasources"]
        for board in BOARDS.values():
            current = next(v for v in board["templating"]["list"] if v["name"] == "datasource")["current"]
            assert current["value"] == known["uid"]
        pace = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text())["global"]["scrape_interval"]
        assert known["jsonData"]["timeInterval"] == pace
        (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/ltrr.yml").read_text())["providers"]
        assert provider["allowUiUpdates"] is False


class TestRules:
    def test_configuration_and_rules_are_valid(self, tmp_path: Path) -> None:
        promtool("check", "config", "--syntax-only", CONFIGURATION / "prometheus.yml")
        promtool("check", "rules", *(CONFIGURATION / "rules").glob("*.yml"))
        promtool("check", "config", configured(tmp_path, {"ltrr-gateway": ["127.0.0.1:1"]}, KEY))

    @pytest.mark.parametrize("name", sorted(path.name for path in (CONFIGURATION / "tests").glob("*.yml")))
    def test_alerts_fire_when_they_should_and_only_then(self, name: str) -> None:
        promtool("test", "rules", CONFIGURATION / "tests" / name)

    def test_every_alert_has_such_a_test(self) -> None:
        expected = set()
        for path in (CONFIGURATION / "tests").glob("*.yml"):
            for one in yaml.safe_load(path.read_text())["tests"]:
                for asked in one["promql_expr_test"]:
                    expected |= set(re.findall(r'alertname="(\w+)"', str(asked["exp_samples"])))
        assert expected == {rule["alert"] for rule in ALERTS}

    def test_records_are_named_by_level_metric_and_operation(self) -> None:
        for rule in RECORDS:
            assert re.fullmatch(r"[a-z_]+:ltrr_[a-z_]+:[a-z_0-9]+", rule["record"]), rule["record"]

    def test_every_alert_says_what_to_do(self) -> None:
        runbook = (DEPLOY / "RUNBOOK.md").read_text()
        headings = re.findall(r"^## (Ltrr\w+)$", runbook, re.M)
        assert sorted(headings) == sorted({rule["alert"] for rule in ALERTS})
        for rule in ALERTS:
            assert rule["labels"]["severity"] in ("page", "ticket")
            said = rule["annotations"]
            assert set(said) == {"summary", "description", "runbook_url"}
            assert said["runbook_url"] == f"deploy/RUNBOOK.md#{rule['alert'].lower()}"
            assert said["summary"]
            assert said["description"].endswith(".")

    def test_every_section_of_the_runbook_is_complete(self) -> None:
        for section in (DEPLOY / "RUNBOOK.md").read_text().split("\n## ")[1:]:
            name = section.splitlines()[0]
            for part in ("**Means**", "**See**", "**Do**", "**Reproduce**", "```"):
                assert part in section, f"{name}: {part}"

    def test_the_runbook_names_only_what_there_is(self) -> None:
        runbook = (DEPLOY / "RUNBOOK.md").read_text()
        titles = {panel["title"] for board in BOARDS.values() for panel in panels(board)}
        assert set(re.findall(r"(?<!\*)\*([A-Z][^*]*)\*(?!\*)", runbook)) <= titles | {
            "Page",
            "Ticket",
            "Status → Targets",
        }
        settings = set(re.findall(r"LTRR_[A-Z_]*[A-Z]", runbook))
        assert settings <= {f"LTRR_{name.upper()}" for name in Settings.model_fields}
        for path, name in re.findall(r"pytest -q (\S+) -k (\w+)", runbook):
            assert re.search(rf"def test_\w*{name}", (DEPLOY.parent / path).read_text()), name


# --- with a running service ---


@dataclass
class Watched:
    """A service, the Prometheus that has watched it, and for how long."""

    service: Process
    prometheus: Prometheus
    seconds: float


def drive(service: Process, stop: threading.Event) -> None:
    """What people, shops and operators do, over and over, with their errors."""
    queries = ("winter song", "river song", "lantern folk", "mira holt", "signal 1980", "jazz", "")
    turn = 0
    with ThreadPoolExecutor(4) as pool:
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


def call_engines(url: str, stop: threading.Event) -> None:
    """One engine that answers, and one that refuses, called the way gateways call them."""

    async def calls() -> None:
        client = redis.asyncio.Redis.from_url(url)
        well = Remote("redis", (redis.exceptions.ConnectionError,))
        sick = Remote("qdrant", (OSError,))
        nobody = free_port()
        try:
            while not stop.is_set():
                for _ in range(5):
                    await well.read(lambda _: client.ping(), Deadline.after(5.0))
                    with contextlib.suppress(Unavailable):
                        await sick.read(lambda _: asyncio.open_connection("127.0.0.1", nobody), Deadline.after(5.0))
                await asyncio.sleep(0.1)
        finally:
            await client.aclose()

    asyncio.run(calls())


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
    settings = {"admin_key": KEY, "attribution_seconds": 1, "snapshot_seconds": 1, "max_concurrency": 2}
    try:
        with RedisServer() as server, serving(folder / "data", **settings) as service:
            service.client.headers["Authorization"] = f"Bearer {KEY}"
            service.call("PUT", "/v1/items", content=b"\n".join(orjson.dumps(track) for track in TRACKS))
            address = service.url.removeprefix("http://")
            # The learner of an embedded service runs inside it.
            jobs = {"ltrr-gateway": [address, f"127.0.0.1:{exporter.server_port}"], "ltrr-learner": [address]}
            with prometheus(folder, configured(folder, jobs, KEY)) as watcher, ThreadPoolExecutor(2) as pool:
                used = [pool.submit(drive, service, stop), pool.submit(call_engines, server.url, stop)]
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
    """Seconds after which the service has learned and published, changed its mode, and been scraped often enough."""
    eventually(lambda: watcher.now("ltrr_learned_decisions_total > 0 and ltrr_snapshot_timestamp_seconds > 0"))
    service.call("PUT", "/v1/policy", json={"mode": "static"})
    eventually(lambda: watcher.now('ALERTS{alertname="LtrrPolicyStatic",alertstate="firing"}'))
    eventually(lambda: watcher.now(f'count_over_time(up{{job="ltrr-gateway"}}[5m]) > {SCRAPED}'))
    eventually(lambda: watcher.now(f"count_over_time({RECORDS[-1]['record']}[5m]) > 2"))
    (oldest,) = watcher.now('time() - min(min_over_time(timestamp(up{job="ltrr-gateway"})[5m:1s]))')
    return float(oldest["value"][1]) + 5.0


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
        arms = ("lexical", "memory", "vector") if 'arm=~"$arm"' in expression else ("",)
        for arm in arms:
            asked = substituted(expression, watched.seconds, arm)
            assert known(watched.prometheus.course(asked, watched.seconds)), asked

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
            watched.prometheus.course(asked, watched.seconds)
            for operand in operands(asked):
                assert known(watched.prometheus.course(operand, watched.seconds)), (where, operand)

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
