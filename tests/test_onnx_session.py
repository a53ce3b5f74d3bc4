"""ONNX Runtime as the product uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.commands import ROOT


def test_nothing_is_kept_for_the_makers_of_the_runtime(tmp_path: Path) -> None:
    """With telemetry, the import alone leaves an id of the device and a queue of events."""
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import services.onnx_session, onnxruntime; assert onnxruntime.get_available_providers()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=inherited | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []
