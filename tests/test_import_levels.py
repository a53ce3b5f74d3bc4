"""Who may import whom: the levels of ARCHITECTURE.md, read from the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINING_LIBRARIES = {"lightgbm", "onnxmltools", "skl2onnx", "onnx", "sklearn", "torch", "matplotlib"}
GROUND = {"services.types", "services.errors", "services.metrics", "services.text"}
PIPELINES = {"search", "completion", "learning", "catalogue", "backup"}
OFFLINE = ("train", "rows", "ensemble", "convert", "judge")
"""Last parts of modules that only training needs."""
SHARED = {
    *("services.rankers.features", "services.rankers.cascade", "services.rankers.fusion"),
    *("services.arms.retrieval", "services.arms.matching", "services.policies.features"),
    *("services.backends.files", "services.backends.log_codec"),
}
"""What belongs to no one member of a family."""
FAMILIES = ("arms", "policies", "rankers", "backends")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for top in ("app", "services") for path in sorted((ROOT / top).rglob("*.py"))}


def imports(module: str) -> set[str]:
    """Modules that `module` imports at run time (names under TYPE_CHECKING left out)."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                assert child.level == 0, f"{module}: relative import"
                for alias in child.names:
                    deeper = f"{child.module}.{alias.name}"
                    found.add(deeper if deeper in MODULES else child.module)
            visit(child)

    visit(ast.parse(MODULES[module].read_text("utf-8")))
    return found


def level(module: str) -> int | None:
    """Level of a services module; None for what stands outside the levels (training, evaluation, offline data)."""
    parts = module.split(".")
    if module in GROUND or module == "services":
        return 0
    if parts[-1] in OFFLINE or parts[1] in ("evaluation", "datasets", "simulation", "offpolicy"):
        return None
    if parts[1] in ("arms", "policies", "rankers"):
        return 2
    return 3 if parts[1] in PIPELINES else 1


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    for imported in imports(module):
        if module.startswith("services"):
            assert not imported.startswith("app"), f"{module} imports {imported}: services never know the application"
        if not imported.startswith("services.") or not module.startswith("services."):
            continue
        assert imported.split(".")[-1] != "train", f"{module} imports {imported}: nothing but commands imports training"
        mine, theirs = level(module), level(imported)
        if mine is None or theirs is None:
            continue
        assert theirs <= mine, f"{module} (level {mine}) imports {imported} (level {theirs})"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("services.")))
def test_pipelines_know_families_by_their_base_only(module: str) -> None:
    if level(module) != 3:
        return
    for imported in imports(module):
        parts = imported.split(".")
        if len(parts) > 2 and parts[1] in FAMILIES:
            allowed = parts[2] == "base" or imported in SHARED
            assert allowed, f"{module} imports {imported}; only the family's base"


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("services.arms.")))
def test_arms_never_import_arms(module: str) -> None:
    others = {i for i in imports(module) if i.startswith("services.arms.")} - {"services.arms.base", "services.arms.matching"}
    assert not others, f"{module} imports {others}"


def test_only_settings_reads_the_environment() -> None:
    readers = [m for m, path in MODULES.items() if "environ" in path.read_text("utf-8")]
    assert readers == ["app.settings"]


def test_serving_imports_no_training_library() -> None:
    """In a fresh interpreter: importing the whole service must not pull in what only training needs."""
    code = "import sys, app.http.application; print(' '.join(sorted(m.split('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not TRAINING_LIBRARIES & set(done.stdout.split())


def test_files_stay_small() -> None:
    large = [m for m, path in MODULES.items() if path.stat().st_size > 20_000]
    assert not large, f"split by noun: {large}"
