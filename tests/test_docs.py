"""README and ARCHITECTURE agree with the code: what they name exists, and what exists is documented."""

from __future__ import annotations

import argparse
import importlib
import re
import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from app.__main__ import usage
from app.http.application import create_app
from app.http.pages import pages
from app.settings import PREFIX, Settings
from app.system.wiring import opened
from services.types import EventStatus, PolicyMode, Role
from tests.commands import ROOT, done

README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
BOTH = README + ARCHITECTURE
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPANS = re.findall(r"`([^`\n]+)`", FENCED.sub("", BOTH))
"""Everything in `code` within the text."""
SHELL = "\n".join(re.findall(r"^```sh\n(.*?)^```", BOTH, re.MULTILINE | re.DOTALL))
COMMAND_LINES = [span.replace("\\|", "|") for span in SPANS if span.startswith("ltrr ")]


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The next words that a command line may have."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def endpoints() -> set[tuple[str, str]]:
    paths = create_app(Settings.load({})).openapi()["paths"]
    return {(method.upper(), anonymous(path)) for path, methods in paths.items() for method in methods}


def anonymous(path: str) -> str:
    """Without query, and whatever the parameters are called."""
    return re.sub(r"\{[^}]*\}", "{}", path.partition("?")[0])


def named_endpoints() -> set[tuple[str, str]]:
    """The routes in code spans, such as `PUT/GET/DELETE /v1/items/{id}`; a path alone is a GET."""
    found = set()
    for span in SPANS:
        if match := re.fullmatch(r"(?:([A-Z/]+) )?(/[a-z]\S*|/)", span):
            methods = (match[1] or "GET").split("/")
            found |= {(method, anonymous(match[2])) for method in methods}
    return found


def spread(pattern: str) -> Iterator[str]:
    """`a/{b,c}.py` is a/b.py and a/c.py."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    yield from map("".join, product(*parts)) if "{" in pattern else (pattern,)


class TestSettings:
    def test_serve_lists_every_setting_with_its_help(self, tmp_path: Path) -> None:
        lines = done(tmp_path, "serve", "--settings").splitlines()
        assert [line.split()[0] for line in lines] == [PREFIX + name.upper() for name in Settings.model_fields]
        for line, field in zip(lines, Settings.model_fields.values(), strict=True):
            assert field.description
            assert field.description in line

    def test_every_setting_that_is_named_exists(self) -> None:
        names = set(re.findall(r"\bLTRR_[A-Z_]+", BOTH))
        assert names
        assert {name.removeprefix(PREFIX).rstrip("_").lower() for name in names} <= set(Settings.model_fields)

    def test_defaults_are_the_ones_in_force(self) -> None:
        rows = re.findall(r"^\| `LTRR_([A-Z_]+)` \| (\S+) \|", README, re.MULTILINE)
        assert rows
        for name, said in rows:
            default = Settings.model_fields[name.lower()].default
            if said in ("none", "generated"):
                assert default is None
            elif isinstance(default, Path):
                assert Path(said.strip("`")) == default
            elif isinstance(default, bool):
                assert said == str(default).lower()
            elif isinstance(default, str):
                assert said == default
            else:
                assert float(said) == default


class TestCommands:
    def test_every_command_is_in_the_readme(self) -> None:
        for name, parser in commands(usage()).items():
            assert re.search(rf"`ltrr {name}\b", README), name
            for further in commands(parser):
                assert re.search(rf"`ltrr {name} [^`]*\b{further}\b", README), f"{name} {further}"

    @pytest.mark.parametrize("said", COMMAND_LINES)
    def test_every_command_line_that_is_shown_can_be_used(self, said: str) -> None:
        parser = usage()
        words = re.sub(r"[\[\]]", "", said).split()[1:]
        assert words[0] in commands(parser)
        parser = commands(parser)[words.pop(0)]
        for word in words:
            alternatives = set(word.split("|"))
            if commands(parser) and word == words[0]:
                assert alternatives <= set(commands(parser))
                parser = commands(parser)[min(alternatives)]
            elif word.startswith("--"):
                assert word in parser._option_string_actions
            elif word.islower():
                choices = {choice for action in parser._actions for choice in action.choices or ()}
                assert alternatives <= choices
            else:
                metavars = {str(action.metavar) for action in parser._actions}
                assert word in metavars, word

    def test_every_kind_of_model_that_can_be_trained_is_named(self) -> None:
        kind = next(action for action in commands(usage())["train"]._actions if action.dest == "kind")
        assert "ltrr train " + "|".join(kind.choices or ()) in README.replace("\\|", "|")

    def test_make_targets_exist(self) -> None:
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        named = set(re.findall(r"\bmake ([a-z]+)", "\n".join([SHELL, *SPANS])))
        assert named
        assert named <= targets


class TestApi:
    def test_every_endpoint_is_named_and_every_named_one_exists(self) -> None:
        shown = {("GET", route.path) for route in pages.router.routes}  # type: ignore[attr-defined]
        named, there = named_endpoints(), endpoints()
        assert there <= named
        assert named <= there | shown
        assert {("GET", path) for path in ("/", "/console", "/docs")} <= named & shown

    def test_statuses_modes_and_roles_are_the_ones_there_are(self) -> None:
        (statuses,) = re.findall(r"Its status is ([^;]+);", README)
        assert set(re.findall(r"`(\w+)`", statuses)) == set(EventStatus)
        (modes,) = re.findall(r"\| `GET/PUT /v1/policy` \| (.+?);", README)
        assert set(re.findall(r"`(\w+)`", modes)) == set(PolicyMode)
        (schema,) = re.findall(r"```toml\n# schema.toml\n(.*?)```", README, re.DOTALL)
        fields = tomllib.loads(schema)["fields"].values()
        assert {field if isinstance(field, str) else field["role"] for field in fields} <= set(Role)

    def test_metrics_that_are_named_exist(self) -> None:
        there = {metric.name for metric in REGISTRY.collect()}
        assert {name.removesuffix("_total") for name in re.findall(r"\bltrr_[a-z_]+", BOTH)} <= there


async def test_the_arms_are_the_ones_that_are_asked_in_the_order_that_is_said(tmp_path: Path) -> None:
    async with opened(Settings.load({}, data_dir=tmp_path / "var"), learning=False) as system:
        names = [arm.name for arm in system.search.arms.arms]
    (order,) = re.findall(r"Arms are drawn in a fixed order \(([^)]+)\)", ARCHITECTURE)
    assert order.split(", ") == names
    (table,) = re.findall(r"^## Which arms are there\?\n(.*?)^## ", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (\w+) \| .* \| `services/arms/(\w+)\.py`", table, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(names)
    assert all(importlib.import_module(f"services.arms.{module}") and module == name for name, module in rows)
    (several,) = re.findall(r"several retrieval arms \(([^)]+)\)", README)
    assert len(several.split(", ")) == len(names)


def test_every_file_and_folder_that_is_named_exists() -> None:
    named = {span for span in SPANS if re.match(r"(app|services|tests|deploy|load_tests)/", span)}
    assert len(named) > 30
    for span in named:
        for path in spread(span):
            matches = list(ROOT.glob(path)) or list(ROOT.glob(f"{path}.py"))
            assert matches, span
    ours = {
        path.name
        for folder in ("app", "services", "tests", "deploy", "load_tests", "evaluation")
        for path in (ROOT / folder).rglob("*.py")
    }
    for name in set(re.findall(r"\b([a-z_]+\.py)`", ARCHITECTURE)):
        assert name in ours, name


def test_every_test_that_is_named_exists() -> None:
    resiliency = (ROOT / "RESILIENCY.md").read_text("utf-8")
    named = re.findall(r"`((?:tests|load_tests)/\S+?\.py)(?:::(\w+))?`", resiliency)
    assert len(named) > 50
    for path, test in named:
        text = (ROOT / path).read_text("utf-8")
        assert not test or f"def {test}(" in text, f"{path}::{test}"


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", BOTH) if "://" not in link]
    assert links
    headings = {
        re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", BOTH, re.MULTILINE)
    }
    for link in links:
        path, _, anchor = link.partition("#")
        assert not path or (ROOT / path).exists(), link
        assert not anchor or anchor in headings, link


def test_every_top_level_folder_is_explained() -> None:
    for folder in ("app", "services", "tests", "load_tests"):
        assert f"`{folder}/" in BOTH or f"({folder}/" in BOTH, folder
    families = [path.name for path in (ROOT / "services").iterdir() if (path / "__init__.py").exists()]
    for family in families:
        assert f"services/{family}" in BOTH, family


def test_packages_that_are_explained_are_the_ones_that_are_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(package for extra in extras.values() for package in extra)]
    names = {re.split(r"[>=;\[ ]", package, maxsplit=1)[0] for package in wanted}
    (table,) = re.findall(r"^## Why these packages\?\n(.*?)(?:^## |\Z)", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| ")][1:]
    said = {name for cell in cells for name in re.findall(r"[a-z][a-z0-9-]+", re.sub(r"\(.*\)", "", cell))}
    assert said == names
    for extra in re.findall(r"\(extra `(\w+)`\)", table):
        assert extra in extras
