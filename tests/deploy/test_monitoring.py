"""Dashboards, rules, alerts and runbook: well made, tested, and in step with one another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from app.settings import Settings
from deploy.grafana.generate import FOLDER, dashboards
from tests.servers.prometheus import CONFIGURATION, configured, promtool

DEPLOY = Path(__file__).parents[2] / "deploy"
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
    """(location, expression) of every query of every panel."""
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
        promtool("check", "config", configured(tmp_path, {"ltrr-gateway": ["127.0.0.1:1"]}, "key"))

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
