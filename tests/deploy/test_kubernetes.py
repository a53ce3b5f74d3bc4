"""The manifests of deploy/kubernetes: by the schemas of Kubernetes, strictly, and held against each other, the compose
file and the code that they start."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.__main__ import usage
from app.process.workers import MAX_STOP_SECONDS
from app.settings import PREFIX, Settings
from tests.commands import ROOT
from tests.deploy.test_deploy import ENGINES, IMAGE_ENVIRONMENT, OURS, PINNED, SERVICES, served_paths

FOLDER = ROOT / "deploy/kubernetes"
VERSIONS = ("1.34", kubernetes_validate.latest_version())
"""The oldest that runs everything used here (pausing before the stop is a sleep since 1.34), and the newest known."""
ROLLOUT = {"Deployment", "StatefulSet"}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


KUSTOMIZATION = documents(FOLDER / "kustomization.yaml")[0]
ENGINE_SETTINGS = documents(ROOT / "deploy/engines/kustomization.yaml")[0]
APPLIED = [FOLDER / name for name in KUSTOMIZATION["resources"] if (FOLDER / name).is_file()]
OBJECTS = [found for path in APPLIED for found in documents(path)]
SECRET = documents(FOLDER / "secret.example.yaml")[0]
LITERALS = dict(pair.split("=", 1) for pair in KUSTOMIZATION["configMapGenerator"][0]["literals"])


def kind(*kinds: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in OBJECTS if found["kind"] in kinds}


WORKLOADS = kind(*ROLLOUT)
PODS = {name: workload["spec"]["template"]["spec"] for name, workload in WORKLOADS.items()}
LABELS = {name: workload["spec"]["template"]["metadata"]["labels"] for name, workload in WORKLOADS.items()}
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}


def chosen(labels: Mapping[str, str]) -> set[str]:
    """The workloads whose pods a selector of these labels finds."""
    return {name for name, has in LABELS.items() if labels.items() <= has.items()}


def probes(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for when in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield when, CONTAINERS[name][when]


def open_ports(name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in CONTAINERS[name]["ports"]}


class TestSchemas:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("found", [*OBJECTS, SECRET])
    def test_every_object_is_what_the_schema_says(self, found: dict[str, Any], version: str) -> None:
        kubernetes_validate.validate(found, version, strict=True)

    def test_every_file_is_applied_or_says_that_it_is_not(self) -> None:
        there = {path.name for path in FOLDER.iterdir()}
        named = {path.name for path in APPLIED}
        assert there - named == {"kustomization.yaml", "secret.example.yaml", "monitoring.example.yaml"}
        assert [name for name in KUSTOMIZATION["resources"] if not (FOLDER / name).exists()] == []

    def test_names_are_there_once(self) -> None:
        names = [(found["kind"], found["metadata"]["name"]) for found in OBJECTS]
        assert len(names) == len(set(names))
        assert KUSTOMIZATION["namespace"] in kind("Namespace")


class TestPods:
    def test_they_are_the_services_of_the_compose_file(self) -> None:
        assert set(WORKLOADS) == {*OURS, *ENGINES}
        tags = {image["name"]: image["newTag"] for image in KUSTOMIZATION["images"]}
        for name, container in CONTAINERS.items():
            image = container["image"]
            image = f"{image}:{tags[image]}" if image in tags else image
            assert PINNED.fullmatch(image)
            assert image == SERVICES[name]["image"]
        *_, text = CONTAINERS["redis"]["command"]
        assert text == SERVICES["redis"]["entrypoint"][-1].replace("$$", "$")

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_they_keep_to_the_restricted_standard_and_more(self, name: str) -> None:
        labels = kind("Namespace")[KUSTOMIZATION["namespace"]]["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
        pod, container = PODS[name], CONTAINERS[name]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is bool(SERVICES[name].get("read_only"))
        assert pod["automountServiceAccountToken"] is False
        assert len(pod["containers"]) == 1
        if user := SERVICES[name].get("user"):
            assert user == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_they_are_bounded(self, name: str) -> None:
        resources = CONTAINERS[name]["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}
        assert resources["limits"]["memory"] == SERVICES[name]["mem_limit"].replace("g", "Gi")
        assert "cpu" not in resources["limits"]
        assert all(volume["emptyDir"]["sizeLimit"] for volume in PODS[name]["volumes"] if "emptyDir" in volume)

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_probes_ask_ports_and_paths_that_there_are(self, name: str) -> None:
        for when, probe in probes(name):
            asked = probe.get("httpGet") or probe.get("tcpSocket")
            if asked is None:
                assert name == "redis"
                continue
            assert asked["port"] in open_ports(name), when
            if name in OURS:
                assert asked["path"] in served_paths(name)
                assert (asked["path"] == "/readyz") is (when == "readinessProbe")

    @pytest.mark.parametrize("name", WORKLOADS)
    def test_what_is_mounted_is_declared_and_what_is_declared_is_mounted(self, name: str) -> None:
        volumes = {volume["name"]: volume for volume in PODS[name]["volumes"]}
        claims = {claim["metadata"]["name"] for claim in WORKLOADS[name]["spec"].get("volumeClaimTemplates", [])}
        mounts = CONTAINERS[name]["volumeMounts"]
        assert {mount["name"] for mount in mounts} == set(volumes) | claims
        generated = {made["name"]: made["files"] for made in ENGINE_SETTINGS["configMapGenerator"]}
        for mount in mounts:
            if "configMap" in volumes.get(mount["name"], {}):
                files = generated[volumes[mount["name"]]["configMap"]["name"]]
                keys = {file.partition("=")[0]: file.rpartition("=")[2] for file in files}
                assert mount.get("subPath", min(keys)) in keys
                assert all((ROOT / "deploy/engines" / file).is_file() for file in keys.values())
                compose = [volume.split(":") for volume in SERVICES[name]["volumes"]]
                at = mount["mountPath"] if "subPath" in mount else f"{mount['mountPath']}/{min(keys)}"
                assert [f"./deploy/engines/{min(keys.values())}", at, "ro"] in compose

    @pytest.mark.parametrize("name", OURS)
    def test_a_stopping_pod_is_given_the_time_it_takes(self, name: str) -> None:
        pause = CONTAINERS[name].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert (pause > 0) is (name == "gateway")
        needed = pause + float(LITERALS["LTRR_DRAIN_SECONDS"]) + 2 * MAX_STOP_SECONDS
        assert PODS[name]["terminationGracePeriodSeconds"] > needed


class TestSettings:
    @pytest.mark.parametrize("name", OURS)
    def test_what_a_pod_is_told_can_be_loaded(self, name: str) -> None:
        container = CONTAINERS[name]
        assert container["envFrom"] == [{"configMapRef": {"name": KUSTOMIZATION["configMapGenerator"][0]["name"]}}]
        values = dict(LITERALS)
        for variable in container["env"]:
            if "value" in variable:
                needed = re.findall(r"\$\((\w+)\)", variable["value"])
                assert set(needed) <= set(values), "only what stands before it is put in"
                values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], variable["value"])
            else:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == SECRET["metadata"]["name"]
                assert reference["key"] in SECRET["stringData"]
                values[variable["name"]] = "k1:" + "s" * 32
        told = {key: value for key, value in {**IMAGE_ENVIRONMENT, **values}.items() if key.startswith(PREFIX)}
        settings = Settings.load(told)
        assert all((settings.redis_url, settings.opensearch_url, settings.qdrant_url, settings.admin_key))
        for setting in ("LTRR_REDIS_URL", "LTRR_OPENSEARCH_URL", "LTRR_QDRANT_URL"):
            host, port = re.findall(r"(?://|@)(\w+):(\d+)", told[setting])[-1]
            assert int(port) in [found["port"] for found in kind("Service")[host]["spec"]["ports"]]
        assert usage().parse_args(container["args"]).command in ("serve", "learn")
        ports = {"gateway": settings.port, "learner": settings.learner_port}
        assert open_ports(name) == {"http": ports[name]}

    def test_the_secret_holds_no_value(self) -> None:
        assert set(SECRET["stringData"].values()) == {""}
        assert SECRET["metadata"]["namespace"] == KUSTOMIZATION["namespace"]

    def test_no_service_can_pass_for_a_setting(self) -> None:
        assert not [name for name in kind("Service") if name.startswith(PREFIX.rstrip("_").lower())]
        assert all(pod["enableServiceLinks"] is False for pod in PODS.values())


class TestConnections:
    @pytest.mark.parametrize("name", WORKLOADS)
    def test_selectors_find_their_own_pods_and_no_others(self, name: str) -> None:
        assert chosen(WORKLOADS[name]["spec"]["selector"]["matchLabels"]) == {name}
        for spread in PODS[name].get("topologySpreadConstraints", []):
            assert chosen(spread["labelSelector"]["matchLabels"]) == {name}
        service = kind("Service")[name]
        assert chosen(service["spec"]["selector"]) == {name}
        assert all(port["targetPort"] in open_ports(name) for port in service["spec"]["ports"])
        if WORKLOADS[name]["kind"] == "StatefulSet":
            assert WORKLOADS[name]["spec"]["serviceName"] == name
            assert service["spec"]["clusterIP"] == "None"

    def test_gateways_scale_and_can_be_moved_one_at_a_time(self) -> None:
        scaler, budget = kind("HorizontalPodAutoscaler")["gateway"], kind("PodDisruptionBudget")["gateway"]
        assert scaler["spec"]["scaleTargetRef"]["name"] == "gateway"
        assert chosen(budget["spec"]["selector"]["matchLabels"]) == {"gateway"}
        assert 1 <= budget["spec"]["maxUnavailable"] < scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
        assert "replicas" not in WORKLOADS["gateway"]["spec"], "applying it again would undo the scaling"
        assert len(PODS["gateway"]["topologySpreadConstraints"]) == 2
        assert WORKLOADS["learner"]["spec"]["replicas"] == 1

    def test_nobody_reaches_what_they_need_not(self) -> None:
        policies = {name: found["spec"] for name, found in kind("NetworkPolicy").items()}
        nobody = [
            spec for spec in policies.values() if spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        ]
        assert len(nobody) == 1
        reached = {name: self._callers(policies, name) for name in WORKLOADS}
        assert all(reached[name] == set(OURS) for name in ENGINES)
        assert all(reached[name] == set() for name in OURS)
        to = {name for name in WORKLOADS for rule in self._rules(policies, name, "egress") if rule}
        assert to == set(OURS)

    def test_allowed_ports_are_the_ones_that_are_served(self) -> None:
        engines = {port for name in ENGINES for port in open_ports(name).values()}
        policies = {name: found["spec"] for name, found in kind("NetworkPolicy").items()}
        (inward,) = self._rules(policies, "redis", "ingress")
        outward, names = self._rules(policies, "gateway", "egress")
        assert {port["port"] for port in inward["ports"]} == {port["port"] for port in outward["ports"]} == engines
        assert {port["port"] for port in names["ports"]} == {53}
        for name in OURS:
            (rule,) = self._rules(policies, name, "ingress")
            assert [port["port"] for port in rule["ports"]] == ["http"]

    def test_metrics_are_read_where_they_are_with_the_key(self) -> None:
        (monitor,) = documents(FOLDER / "monitoring.example.yaml")
        (endpoint,) = monitor["spec"]["endpoints"]
        watched = {
            name
            for name, service in kind("Service").items()
            if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        }
        assert watched == set(OURS)
        assert all(endpoint["port"] in [p["name"] for p in kind("Service")[name]["spec"]["ports"]] for name in watched)
        assert endpoint["authorization"]["credentials"]["key"] in SECRET["stringData"]
        (label,) = endpoint["relabelings"]
        config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
        jobs = {job["job_name"] for job in config["scrape_configs"]}
        assert {label["replacement"].replace("$1", name) for name in watched} <= jobs

    @staticmethod
    def _rules(policies: dict[str, Any], name: str, way: str) -> list[dict[str, Any]]:
        return [
            rule
            for spec in policies.values()
            if name in chosen(spec["podSelector"].get("matchLabels", {}))
            for rule in spec.get(way, [])
        ]

    def _callers(self, policies: dict[str, Any], name: str) -> set[str]:
        """The workloads that may open connections to it."""
        return {
            caller
            for rule in self._rules(policies, name, "ingress")
            for peer in rule["from"]
            if "podSelector" in peer
            for caller in chosen(peer["podSelector"]["matchLabels"])
        }
