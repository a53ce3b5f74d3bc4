"""The model store: whole or absent, whatever is cut, flipped or left over; promotion, rollback, pruning."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.errors import ModelInvalid, NotFound
from services.models.store import ModelStore

ROOT = Path(__file__).parents[1]
FILES = {"model.bin": bytes(range(200)), "names.json": b'{"a": 1}'}


def make(folder: Path) -> ModelStore:
    ticks = itertools.count(1_000)
    return ModelStore(folder, clock=lambda: float(next(ticks)))


def two_versions(folder: Path) -> ModelStore:
    """v1, then v2, both promoted."""
    store = make(folder)
    for version in ("v1", "v2"):
        store.publish("ranker", {**FILES, "version": version.encode()}, {"ndcg": 0.5}, version)
        store.promote("ranker", version, "passed its gate")
    return store


def current(store: ModelStore, kind: str = "ranker") -> str | None:
    model = store.current(kind)
    return None if model is None else model.version


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    store = make(tmp_path / "models")
    assert store.current("ranker") is None
    assert store.current_version("ranker") is None
    assert store.versions("ranker") == []
    assert store.kinds() == []
    assert store.prune("ranker") == []
    with pytest.raises(NotFound):
        store.promote("ranker", "v1", "hope")
    with pytest.raises(NotFound):
        store.rollback("ranker", "doubt")


def test_a_published_version_is_in_force_only_once_promoted(tmp_path: Path) -> None:
    store = make(tmp_path)
    version = store.publish("ranker", FILES, {"ndcg": 0.5, "seed": 1})
    assert store.current("ranker") is None
    store.promote("ranker", version, "passed its gate")
    model = ModelStore(tmp_path).current("ranker")
    assert model is not None
    assert (model.kind, model.version, model.files, model.meta) == ("ranker", version, FILES, {"ndcg": 0.5, "seed": 1})
    assert store.kinds() == ["ranker"]
    assert not list(tmp_path.rglob(".*"))


def test_publishing_again_is_harmless_and_never_overwrites(tmp_path: Path) -> None:
    store = two_versions(tmp_path)
    assert store.publish("ranker", {**FILES, "version": b"v1"}, {}, "v1") == "v1"
    with pytest.raises(ModelInvalid, match="exists with other files"):
        store.publish("ranker", {"model.bin": b"other"}, {}, "v1")
    (tmp_path / "ranker" / "versions" / "v1" / "model.bin").write_bytes(b"damaged")
    assert store.publish("ranker", {**FILES, "version": b"v1"}, {}, "v1") == "v1"
    assert store.load("ranker", "v1").files["model.bin"] == FILES["model.bin"]


def test_rollback_goes_further_back_each_time(tmp_path: Path) -> None:
    store = two_versions(tmp_path)
    store.publish("ranker", FILES, {}, "v3")
    store.promote("ranker", "v3", "better")
    assert store.rollback("ranker", "worse after all") == "v2"
    assert current(store) == "v2"
    assert store.rollback("ranker", "still") == "v1"
    with pytest.raises(NotFound):
        store.rollback("ranker", "still")
    assert current(store) == "v1"
    store.promote("ranker", "v3", "once more")
    assert store.rollback("ranker", "no") == "v1"
    history = {v.version: [(p.action, p.reason) for p in v.promotions] for v in store.versions("ranker")}
    assert history == {
        "v3": [("promote", "better"), ("promote", "once more")],
        "v2": [("promote", "passed its gate"), ("rollback", "worse after all")],
        "v1": [("promote", "passed its gate"), ("rollback", "still"), ("rollback", "no")],
    }
    assert [v.version for v in store.versions("ranker") if v.current] == ["v1"]


def test_rollback_passes_over_what_is_damaged_or_gone(tmp_path: Path) -> None:
    store = two_versions(tmp_path)
    store.publish("ranker", FILES, {}, "v3")
    store.promote("ranker", "v3", "better")
    (tmp_path / "ranker" / "versions" / "v2" / "model.bin").unlink()
    assert store.rollback("ranker", "worse") == "v1"


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_version_is_never_served(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """At every place that matters of every file: the one before takes over, with one log line a store."""
    two_versions(tmp_path)
    rng = random.Random(1)
    folder = tmp_path / "ranker" / "versions" / "v2"
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        places = {0, 1, len(whole) // 2, len(whole) - 1} | {rng.randrange(len(whole)) for _ in range(12)}
        for place in sorted(places):
            if damage == "gone":
                path.unlink()
            elif damage == "cut":
                path.write_bytes(whole[:place])
            else:
                path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
            store = ModelStore(tmp_path)
            caplog.clear()
            served = store.current("ranker")
            assert served is not None
            if served.version == "v2":  # white space of meta.json may turn into other white space
                assert path.name == "meta.json"
                assert served.files == {**FILES, "version": b"v2"}
                assert served.meta == {"ndcg": 0.5}
            else:
                assert served.version == "v1"
                assert store.current("ranker") == served
                assert len(caplog.records) == 1
                with pytest.raises((ModelInvalid, NotFound)):
                    store.promote("ranker", "v2", "try")
            path.write_bytes(whole)
    assert current(ModelStore(tmp_path)) == "v2"


def test_a_damaged_promotion_leaves_the_one_before_in_force(tmp_path: Path) -> None:
    two_versions(tmp_path)
    last = max((tmp_path / "ranker" / "promotions").iterdir())
    whole = last.read_bytes()
    for place in range(len(whole)):
        last.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert current(ModelStore(tmp_path)) in ("v1", "v2")
        last.write_bytes(whole[:place])
        store = ModelStore(tmp_path)
        assert current(store) == "v1"
        assert store.current_version("ranker") == "v1"
    store = ModelStore(tmp_path)
    store.promote("ranker", "v2", "again")
    assert current(ModelStore(tmp_path)) == "v2"


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
    store = make(tmp_path)
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


def test_a_manifest_of_another_format_or_place_is_refused(tmp_path: Path) -> None:
    store = two_versions(tmp_path)
    versions = tmp_path / "ranker" / "versions"
    (versions / "v2").rename(versions / "v9")
    with pytest.raises(ModelInvalid, match="another format, kind or version"):
        store.load("ranker", "v9")
    assert current(store) == "v1"
    manifest = json.loads((versions / "v1" / "meta.json").read_text())
    assert manifest["format"] == 1
    assert set(manifest["files"]["model.bin"]) == {"sha256", "bytes"}


def test_prune_keeps_the_newest_and_the_one_in_force(tmp_path: Path) -> None:
    store = make(tmp_path)
    for number in range(30):
        store.publish("policy", FILES, {}, f"v{number:02d}")
        store.promote("policy", f"v{number:02d}", "snapshot")
    store.promote("policy", "v03", "back")
    gone = store.prune("policy", keep=5)
    kept = [v.version for v in store.versions("policy")]
    assert kept == ["v29", "v28", "v27", "v26", "v25", "v03"]
    assert len(gone) == 24
    assert len(list((tmp_path / "policy" / "promotions").iterdir())) == 5
    assert current(ModelStore(tmp_path), "policy") == "v03"
    assert store.rollback("policy", "no") == "v29"


def test_readers_never_see_half_a_model(tmp_path: Path) -> None:
    """Versions are promoted and pruned while another thread reads all the time."""
    store = make(tmp_path)
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        reader = ModelStore(tmp_path)
        while not stop.is_set():
            model = reader.current("policy")
            if model is not None:
                seen.add(model.version)
                if model.files != {"a": model.version.encode(), "b": model.version.encode() * 1000}:
                    wrong.append(model.version)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(60):
        version = f"v{number:03d}"
        store.publish("policy", {"a": version.encode(), "b": version.encode() * 1000}, {}, version)
        store.promote("policy", version, "snapshot")
        store.prune("policy", keep=3)
    stop.set()
    thread.join()
    assert not wrong
    assert len(seen) > 3


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
