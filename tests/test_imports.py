"""Who may import whom (the contracts of pyproject.toml), who reads the environment, and what serving must not load."""

from __future__ import annotations

import subprocess
import sys

from tests.modules import MODULES, ROOT

TRAINING_LIBRARIES = {"lightgbm", "onnxmltools", "skl2onnx", "onnx", "sklearn", "torch", "matplotlib"}


def test_import_contracts_hold() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_settings_reads_the_environment() -> None:
    readers = [m for m, path in MODULES.items() if "environ" in path.read_text("utf-8")]
    assert readers == ["app.settings"]


def test_only_sessions_import_the_onnx_runtime() -> None:
    """Whoever imports it first decides about its telemetry."""
    importers = [m for m, path in MODULES.items() if "import onnxruntime" in path.read_text("utf-8")]
    assert importers == ["services.onnx_session"]


def test_serving_imports_no_training_library() -> None:
    """Importing the whole service in a fresh interpreter must not load packages that only training needs."""
    code = "import sys, app.http.application; print(' '.join(sorted(m.split('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not TRAINING_LIBRARIES & set(done.stdout.split())


def test_files_stay_small() -> None:
    large = [m for m, path in MODULES.items() if path.stat().st_size > 20_000]
    assert not large, f"split by noun: {large}"
