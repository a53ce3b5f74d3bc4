"""The model store in a folder: its contract, its layout, and what a killed or failed writer leaves."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.errors import ModelInvalid
from services.models.files import Files
from services.models.folder_files import FolderFiles
from services.models.store import ModelStore
from tests.contracts.model_store import FILES, ModelStoreContract, current, make
from tests.contracts.model_store import two_versions as two_versions_in

ROOT = Path(__file__).parents[2]


def two_versions(folder: Path) -> ModelStore:
    return two_versions_in(FolderFiles(folder))


class TestFolderFiles(ModelStoreContract):
    def open(self, folder: Path) -> Files:
        return FolderFiles(folder)

    def spoil(self, folder: Path, version: str, name: str, data: bytes | None) -> None:
        path = folder / "ranker" / "versions" / version / name
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)

    def spoil_promotion(self, folder: Path, number: int, data: bytes) -> None:
        (folder / "ranker" / "promotions" / f"{number:08d}.json").write_bytes(data)


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    store = two_versions(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "ranker/promotions/00000001.json",
        "ranker/promotions/00000002.json",
        "ranker/versions/v1/meta.json",
        "ranker/versions/v1/model.bin",
        "ranker/versions/v1/names.json",
        "ranker/versions/v1/version",
        "ranker/versions/v2/meta.json",
        "ranker/versions/v2/model.bin",
        "ranker/versions/v2/names.json",
        "ranker/versions/v2/version",
    ]
    manifest = json.loads((tmp_path / "ranker" / "versions" / "v1" / "meta.json").read_text())
    assert set(manifest) == {"format", "kind", "version", "created", "files", "meta", "checksum"}
    assert manifest["format"] == 1
    assert set(manifest["files"]["model.bin"]) == {"sha256", "bytes"}
    promotion = json.loads((tmp_path / "ranker" / "promotions" / "00000002.json").read_text())
    assert promotion["stack"] == ["v1", "v2"]
    assert [entry["action"] for entry in promotion["history"]] == ["promote", "promote"]
    assert current(ModelStore(tmp_path)) == current(store) == "v2"


def test_left_overs_of_a_killed_writer_are_ignored_and_swept(tmp_path: Path) -> None:
    store = two_versions(tmp_path)
    versions, promotions = (tmp_path / "ranker" / name for name in ("versions", "promotions"))
    half = versions / ".half"
    half.mkdir()
    (half / "model.bin").write_bytes(b"half")
    (promotions / ".half").write_bytes(b"{")
    assert current(store) == "v2"
    assert [v.version for v in store.versions("ranker")] == ["v2", "v1"]
    assert store.publish("ranker", FILES, {}, "v3") == "v3"
    assert half.exists()  # it may be somebody's who is at work right now
    os.utime(half, (0, 0))
    store.publish("ranker", FILES, {}, "v4")
    assert not half.exists()


def test_a_failed_write_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = two_versions(tmp_path)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    flush = os.fsync
    for fails_at in range(1, 5):
        calls = itertools.count(1)

        def failing(descriptor: int, calls: itertools.count[int] = calls, fails_at: int = fails_at) -> None:
            if next(calls) == fails_at:
                raise OSError(5, "Input/output error")
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output"):
            store.publish("ranker", FILES, {}, "v3")
        monkeypatch.undo()
        assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a\\b", "a\x00b", "-x", "x" * 81])
def test_names_never_leave_the_folder(tmp_path: Path, name: str) -> None:
    store = make(FolderFiles(tmp_path))
    store.publish("ranker", FILES, {}, "v1")
    with pytest.raises(ModelInvalid):
        store.publish(name, FILES, {}, "v1")
    with pytest.raises(ModelInvalid):
        store.publish("ranker", FILES, {}, name)
    with pytest.raises(ModelInvalid):
        store.publish("ranker", {name: b""}, {}, "v2")
    with pytest.raises(ModelInvalid):
        store.promote("ranker", name, "")
    with pytest.raises(ModelInvalid):
        store.current(name)
    with pytest.raises(ModelInvalid):
        store.publish("ranker", {"meta.json": b"{}"}, {}, "v2")
    assert [p.name for p in tmp_path.iterdir()] == ["ranker"]
    assert [p.name for p in (tmp_path / "ranker" / "versions").iterdir()] == ["v1"]


def test_kill_9_leaves_the_state_before_or_after(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from services.models.store import ModelStore
store = ModelStore(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 10**6):
    version = f"v{number:06d}"
    store.publish("policy", {"model": version.encode() * 5000}, {}, version)
    store.promote("policy", version, "snapshot")
    print(version, flush=True)
    store.prune("policy", keep=3)
"""
    rng = random.Random(2)
    last = -1
    for _ in range(6):
        arguments = [sys.executable, "-c", script, str(tmp_path), str(last + 2)]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            promised = [process.stdout.readline() for _ in range(rng.randrange(1, 20))]
            process.send_signal(signal.SIGKILL)
            promised += process.stdout.readlines()
        last = int(promised[-1].strip()[1:])
        model = ModelStore(tmp_path).current("policy")
        assert model is not None
        assert int(model.version[1:]) in (last, last + 1)
        assert model.files == {"model": model.version.encode() * 5000}
