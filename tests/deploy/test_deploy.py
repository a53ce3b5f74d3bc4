"""The image and the compose file, checked without an engine to run them: by the schema, a linter and the code that they
start; the parts that run anywhere are run. tests/deploy/test_kubernetes.py does the same for the manifests."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
import yaml

from app.__main__ import usage
from app.http.application import create_app, create_learner_app
from app.process.workers import MAX_STOP_SECONDS
from app.settings import PREFIX, Settings
from app.system.learner_process import learning
from services.backends.redis.server import Redis
from tests.commands import ROOT
from tests.servers.redis import free_port
from tests.system_packages import program

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("gateway", "learner")
ENGINES = ("redis", "opensearch", "qdrant")
WRITABLE = {"opensearch"}
"""Services whose root cannot be read-only."""
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(-[\w.-]+)?")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:\?|:-)?([^}]*)\}")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
IN_IMAGE = ("encoder", "pages", "tracing")
"""Extras that the image has."""


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined, comments gone."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


INSTRUCTIONS = instructions()
FINAL = INSTRUCTIONS[max(i for i, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM") :]
IMAGE_ENVIRONMENT = dict(re.findall(r"(\w+)=(\S+)", next(rest for word, rest in FINAL if word == "ENV")))


def filled(value: str) -> str:
    """A value of the compose file with secrets put in and everything else left at its default."""
    made = VARIABLE.sub(lambda m: m[3] if m[2] == ":-" else "k1:" + "s" * 32 if "KEYS" in m[1] else "s" * 32, value)
    return made.replace("$$", "$")


def script(name: str, key: str = "entrypoint") -> str:
    """The command that a service's shell runs."""
    *shell, text = SERVICES[name][key]
    assert shell == ["sh", "-euc"]
    return filled(text)


@cache
def served_paths(name: str) -> frozenset[str]:
    """The API paths of a service."""
    settings = Settings.load({})
    app = create_app(settings) if name == "gateway" else create_learner_app(settings, learning)
    return frozenset(app.openapi()["paths"])


def size(text: str) -> int:
    return int(text[:-1]) << {"m": 20, "g": 30}[text[-1]]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


class TestSettings:
    @pytest.mark.parametrize("path", ["Dockerfile", "docker-compose.yml", ".env.example", "UPGRADING.md", "deploy"])
    def test_every_setting_that_is_named_exists(self, path: str) -> None:
        found = [ROOT / path] if (ROOT / path).is_file() else [f for f in (ROOT / path).rglob("*") if f.is_file()]
        texts = [file.read_text("utf-8") for file in found if "__pycache__" not in file.parts]
        named = {name for text in texts for name in re.findall(rf"\b{PREFIX}([A-Z][A-Z_]*[A-Z])\b", text)}
        assert named
        assert {name.lower() for name in named} <= set(DEFAULTS)

    @pytest.mark.parametrize("name", OURS)
    def test_the_environment_of_a_service_can_be_loaded(self, name: str) -> None:
        environment = {key: filled(value) for key, value in SERVICES[name]["environment"].items()}
        settings = Settings.load({key: v for key, v in IMAGE_ENVIRONMENT.items() if key != "PATH"} | environment)
        assert all((settings.redis_url, settings.opensearch_url, settings.qdrant_url, settings.signing_keys))
        for url in ("redis_url", "opensearch_url", "qdrant_url"):
            host = re.search(r"(?://|@)(\w+):\d+", environment[PREFIX + url.upper()])
            assert host is not None
            assert host[1] in ENGINES

    @pytest.mark.parametrize("name", OURS)
    def test_the_command_of_a_service_is_one_of_ours(self, name: str) -> None:
        assert usage().parse_args(SERVICES[name]["command"]).command in ("serve", "learn")

    def test_the_example_names_just_what_must_be_set(self) -> None:
        text = (ROOT / "docker-compose.yml").read_text("utf-8")
        used = {(name, mark) for name, mark, _ in VARIABLE.findall(text)}
        lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
        assert {line for line in lines if line and not line.startswith("#")} == {f"{n}=" for n, m in used if m == ":?"}
        commented = {match[1]: match[2] for line in lines if (match := re.fullmatch(r"# (\w+)=(\S+)", line))}
        assert commented == {name: default for name, mark, default in VARIABLE.findall(text) if mark == ":-"}


@pytest.mark.parametrize("path", ["UPGRADING.md", "deploy/README.md"])
class TestDocuments:
    def test_commands_that_are_named_exist(self, path: str) -> None:
        text = (ROOT / path).read_text("utf-8")
        found = re.findall(r"^```sh\n(.*?)^```|`([^`\n]+)`", text, re.MULTILINE | re.DOTALL)
        lines = [line for parts in found for part in parts for line in part.splitlines()]
        named = {match[1] for line in lines if (match := re.search(r"(?:^|&& )ltrr ([a-z]+)", line))}
        (commands,) = (action.choices for action in usage()._actions if action.dest == "command")
        assert named
        assert named <= set(commands or ())

    def test_files_that_are_named_exist(self, path: str) -> None:
        text = (ROOT / path).read_text("utf-8")
        links = [(ROOT / path).parent / link for link in re.findall(r"\]\(([^):]+)\)", text)]
        spans = [ROOT / span for span in re.findall(r"`((?:deploy|services|app|requirements)[/\w.-]+)`", text)]
        assert links
        assert spans
        assert [file for file in links + spans if not file.exists()] == []


class TestCompose:
    def test_it_is_what_the_specification_says(self) -> None:
        schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
        problems = jsonschema.Draft7Validator(json.loads(schema.read_text("utf-8"))).iter_errors(COMPOSE)
        assert [f"{'/'.join(map(str, problem.path))}: {problem.message}" for problem in problems] == []

    @pytest.mark.parametrize("name", SERVICES)
    def test_a_service_is_bounded_watched_and_without_privileges(self, name: str) -> None:
        service = SERVICES[name]
        assert service["restart"] == "unless-stopped"
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert bool(service.get("read_only")) is (name not in WRITABLE)
        assert size(service["mem_limit"]) > 0
        assert 0 < service["pids_limit"] < 10_000
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}
        assert {"test", "interval", "timeout", "retries", "start_period"} == set(service["healthcheck"])
        assert PINNED.fullmatch(service["image"])
        assert name in OURS or re.fullmatch(r"[1-9]\d*:\d+", service["user"])

    @pytest.mark.parametrize("name", SERVICES)
    def test_ports_are_on_loopback_and_engines_have_none(self, name: str) -> None:
        ports = SERVICES[name].get("ports", [])
        assert all(port.startswith("127.0.0.1:") for port in ports)
        networks = SERVICES[name]["networks"]
        assert set(networks) <= set(COMPOSE["networks"])
        outside = [network for network in networks if not (COMPOSE["networks"][network] or {}).get("internal")]
        assert bool(ports) is bool(outside)
        if name in ENGINES:
            assert networks == ["engines"]

    @pytest.mark.parametrize("name", SERVICES)
    def test_what_is_mounted_exists(self, name: str) -> None:
        for volume in SERVICES[name].get("volumes", []):
            source, _, target = volume.partition(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert target.endswith(":ro"), volume
            else:
                assert source in COMPOSE["volumes"]

    @pytest.mark.parametrize("name", SERVICES)
    def test_a_service_waits_for_the_health_of_what_it_needs(self, name: str) -> None:
        needed = SERVICES[name].get("depends_on", {})
        assert all(SERVICES[other]["healthcheck"] for other in needed)
        assert all(how == {"condition": "service_healthy"} for how in needed.values())
        assert name not in OURS or set(needed) == set(ENGINES)

    @pytest.mark.parametrize("name", OURS)
    def test_a_stopping_process_is_given_the_time_it_takes(self, name: str) -> None:
        assert seconds(SERVICES[name]["stop_grace_period"]) > DEFAULTS["drain_seconds"] + 2 * MAX_STOP_SECONDS

    def test_health_is_asked_where_it_is_told(self) -> None:
        for name, port in (("gateway", DEFAULTS["port"]), ("learner", DEFAULTS["learner_port"])):
            match = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", SERVICES[name]["healthcheck"]["test"][-1])
            assert match is not None
            assert int(match[1]) == port
            assert match[2] in served_paths(name)

    def test_memory_leaves_room_for_what_engines_need_beside_their_data(self) -> None:
        conf = (ROOT / "deploy/engines/redis.conf").read_text("utf-8")
        (most,) = re.findall(r"^maxmemory (\w+)b$", conf, re.MULTILINE)
        assert size(most) * 2 <= size(SERVICES["redis"]["mem_limit"])
        (heap,) = re.findall(r"-Xmx(\w+)", SERVICES["opensearch"]["environment"]["OPENSEARCH_JAVA_OPTS"])
        assert size(heap) * 2 <= size(SERVICES["opensearch"]["mem_limit"])

    def test_prometheus_and_grafana_find_what_they_are_given(self) -> None:
        config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
        jobs = [job for job in config["scrape_configs"] if job["job_name"].startswith("ltrr-")]
        assert len(jobs) == len(OURS)
        for job in jobs:
            assert f"> {job['authorization']['credentials_file']}" in script("prometheus")
            (name,) = (
                (d["names"][0] for d in job.get("dns_sd_configs", []))
                if "dns_sd_configs" in job
                else (target.partition(":")[0] for static in job["static_configs"] for target in static["targets"])
            )
            assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])
        provisioning = ROOT / "deploy/grafana/provisioning"
        (provider,) = yaml.safe_load((provisioning / "dashboards/ltrr.yml").read_text("utf-8"))["providers"]
        mounts = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
        assert provider["options"]["path"] in mounts
        (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text("utf-8"))["datasources"]
        assert source["url"] == "http://prometheus:9090"


class TestImage:
    def test_the_linter_has_nothing_to_say(self) -> None:
        linter = Path(sys.executable).with_name("hadolint")
        assert linter.exists(), "hadolint is missing: make install"
        said = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
        assert (said.returncode, said.stdout) == (0, "")

    def test_it_is_pinned_and_unprivileged(self) -> None:
        (base,) = {rest.partition("=")[2] for word, rest in INSTRUCTIONS if word == "ARG" and "IMAGE" in rest}
        assert PINNED.fullmatch(base)
        assert {rest.split()[0] for word, rest in INSTRUCTIONS if word == "FROM"} == {"${PYTHON_IMAGE}"}
        assert [rest for word, rest in FINAL if word == "USER"] == ["10001:10001"]
        assert not [word for word, _ in INSTRUCTIONS if word == "ADD"]
        named = [rest for word, rest in INSTRUCTIONS if word in ("ARG", "ENV")]
        assert not re.search(r"KEY|SECRET|PASSWORD|TOKEN", " ".join(named))

    def test_its_processes_get_signals_and_are_ours(self) -> None:
        once = dict(FINAL)
        assert once["STOPSIGNAL"] == "SIGTERM"
        (entry,), command = json.loads(once["ENTRYPOINT"]), json.loads(once["CMD"])
        assert entry in PROJECT["project"]["scripts"]
        assert usage().parse_args(command).command == "serve"
        assert once["EXPOSE"].split() == [str(DEFAULTS["port"]), str(DEFAULTS["learner_port"])]
        assert IMAGE_ENVIRONMENT["LTRR_DATA_DIR"] == once["VOLUME"] == once["WORKDIR"]

    def test_what_it_copies_is_let_through_and_exists(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
        let_through = {line[1:] for line in ignored if line.startswith("!")}
        copied = {
            source
            for word, rest in INSTRUCTIONS
            if word == "COPY" and "--from" not in rest
            for source in rest.split()[:-1]
        }
        assert "*" in ignored
        assert copied == let_through
        assert all((ROOT / source).exists() for source in copied)

    def test_every_file_of_the_code_is_packaged(self) -> None:
        patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
        for path in (path for top in ("app", "services") for path in (ROOT / top).rglob("*") if path.is_file()):
            if path.suffix not in (".py", ".pyc"):
                assert any(path.match(pattern) for pattern in patterns), path

    def test_it_installs_what_serving_needs_at_the_versions_that_are_tested(self) -> None:
        def pins(name: str) -> dict[str, tuple[str, frozenset[str]]]:
            text = re.sub(r" \\\n", " ", (ROOT / name).read_text("utf-8"))
            found = re.findall(r"^([a-z0-9._-]+)==(\S+)(.*)$", text, re.MULTILINE)
            return {package: (version, frozenset(re.findall(r"sha256:\w+", rest))) for package, version, rest in found}

        def names(requirements: list[str]) -> set[str]:
            return {re.split(r"[>=;\[ ]", requirement, maxsplit=1)[0] for requirement in requirements}

        everything, served = pins("requirements.lock"), pins("requirements-serve.lock")
        assert served.items() <= everything.items()
        assert all(hashes for _, hashes in served.values())
        extras = PROJECT["project"]["optional-dependencies"]
        wanted = [*PROJECT["project"]["dependencies"], *(need for extra in IN_IMAGE for need in extras[extra])]
        assert names(wanted) <= set(served)
        assert names([need for needs in extras.values() for need in needs]) <= set(everything)
        assert not names(extras["train"]) & set(served)
        assert set(served) & names(extras["dev"]) <= {"anyio", "setuptools", "httpx", "pyyaml"}


class Told(BaseHTTPRequestHandler):
    """Answers every request with the status of its server."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on the port that is yielded which answers everything with `status`."""
    server = HTTPServer(("127.0.0.1", 0), type("", (Told,), {"status": status}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestHealthchecks:
    @pytest.mark.parametrize("name", ["the image", *OURS, "qdrant"])
    @pytest.mark.parametrize("status", [200, 503])
    def test_they_tell_well_from_unwell(self, name: str, status: int) -> None:
        with answering(status) as port:
            assert (self._run(name, port) == 0) is (status == 200)

    @pytest.mark.parametrize("name", ["the image", *OURS, "qdrant"])
    def test_they_notice_when_nobody_listens(self, name: str) -> None:
        assert self._run(name, free_port()) != 0

    def _run(self, name: str, port: int) -> int:
        if name == "the image":
            command = json.loads(dict(FINAL)["HEALTHCHECK"].partition(" CMD ")[2])
        else:
            _, *command = SERVICES[name]["healthcheck"]["test"]
            command = [re.sub(r"(127\.0\.0\.1[:/])\d+", rf"\g<1>{port}", filled(word)) for word in command]
        if command[0] == "python":
            command[0] = sys.executable
        environment = {"LTRR_PORT": str(port), "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, env=environment, capture_output=True, timeout=20).returncode


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    program("redis-server")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    settings = (ROOT / "deploy/engines/redis.conf").read_text("utf-8")
    for ours, theirs in (
        ("port 6379", f"port {port}"),
        ("bind * -::*", "bind 127.0.0.1"),
        ("dir /data", f"dir {folder}"),
    ):
        assert settings.count(ours) == 1
        settings = settings.replace(ours, theirs)
    (folder / "redis.conf").write_text(settings)
    text = script("redis").replace("/etc/redis/redis.conf", str(folder / "redis.conf"))
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "REDISCLI_AUTH": "s" * 32}
    process = subprocess.Popen(
        ["sh", "-euc", text], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "Ready to accept connections" in line:
                break
        else:
            pytest.fail("redis-server did not start")
        arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "redis-server" in arguments
        assert "s" * 32 not in arguments
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 0


class TestRedis:
    """Started by the compose file's own script, with its own settings."""

    async def test_it_loses_nothing_by_its_settings(self, port: int) -> None:
        server = Redis(f"redis://:{'s' * 32}@127.0.0.1:{port}/0", "ltrr")
        try:
            assert await server.check() == []
        finally:
            await server.close()

    @pytest.mark.parametrize(
        "command",
        ["FLUSHALL", "CONFIG SET appendonly no", "REPLICAOF 127.0.0.1 1", "SHUTDOWN NOSAVE", "ACL LIST", "MONITOR"],
    )
    def test_nobody_can_empty_or_weaken_it(self, port: int, command: str) -> None:
        with (
            redis.Redis(port=port, password="s" * 32) as client,
            pytest.raises(redis.exceptions.NoPermissionError),
        ):
            client.execute_command(*command.split())

    def test_it_asks_for_the_password(self, port: int) -> None:
        with redis.Redis(port=port) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.get("x")
