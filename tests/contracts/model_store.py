"""Contract of every storage of model files, and of the model store over it."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.errors import ModelInvalid, NotFound
from services.models.files import Files
from services.models.store import ModelStore

FILES = {"model.bin": bytes(range(200)), "names.json": b'{"a": 1}'}


def make(files: Files) -> ModelStore:
    ticks = itertools.count(1_000)
    return ModelStore(files, clock=lambda: float(next(ticks)))


def two_versions(files: Files) -> ModelStore:
    """v1, then v2, both promoted."""
    store = make(files)
    for version in ("v1", "v2"):
        store.publish("ranker", {**FILES, "version": version.encode()}, {"ndcg": 0.5}, version)
        store.promote("ranker", version, "passed its gate")
    return store


def current(store: ModelStore, kind: str = "ranker") -> str | None:
    model = store.current(kind)
    return None if model is None else model.version


class Refused(Exception):
    pass


def refuse() -> None:
    raise Refused


class ModelStoreContract:
    """Subclasses give `open(folder)`: the files kept there, again with what was in them before; and how to spoil."""

    def open(self, folder: Path) -> Files:
        raise NotImplementedError

    def spoil(self, folder: Path, version: str, name: str, data: bytes | None) -> None:
        """Put `data` in the place of a file of a version of "ranker"; None takes the file away."""
        raise NotImplementedError

    def spoil_promotion(self, folder: Path, number: int, data: bytes) -> None:
        raise NotImplementedError

    def test_an_empty_store_has_nothing(self, tmp_path: Path) -> None:
        store = make(self.open(tmp_path / "models"))
        assert store.current("ranker") is None
        assert store.current_version("ranker") is None
        assert store.versions("ranker") == []
        assert store.kinds() == []
        assert store.prune("ranker") == []
        with pytest.raises(NotFound):
            store.promote("ranker", "v1", "hope")
        with pytest.raises(NotFound):
            store.rollback("ranker", "doubt")

    def test_a_published_version_is_in_force_only_once_promoted(self, tmp_path: Path) -> None:
        store = make(self.open(tmp_path))
        version = store.publish("ranker", FILES, {"ndcg": 0.5, "seed": 1})
        assert store.current("ranker") is None
        store.promote("ranker", version, "passed its gate")
        model = ModelStore(self.open(tmp_path)).current("ranker")
        assert model is not None
        assert (model.kind, model.version, model.files) == ("ranker", version, FILES)
        assert model.meta == {"ndcg": 0.5, "seed": 1}
        assert store.current_version("ranker") == version
        assert store.kinds() == ["ranker"]

    def test_a_note_is_in_the_history_and_changes_nothing_else(self, tmp_path: Path) -> None:
        store = two_versions(self.open(tmp_path))
        store.note("ranker", "v2", "forced")
        store.note("ranker", "v1", "measured again")
        assert current(store) == store.current_version("ranker") == "v2"
        history = {v.version: [(p.action, p.reason) for p in v.promotions] for v in store.versions("ranker")}
        assert history == {
            "v1": [("promote", "passed its gate"), ("note", "measured again")],
            "v2": [("promote", "passed its gate"), ("note", "forced")],
        }
        assert store.rollback("ranker", "doubt") == "v1"
        with pytest.raises(NotFound):
            store.note("ranker", "v3", "of nothing")

    def test_kinds_are_apart(self, tmp_path: Path) -> None:
        store = two_versions(self.open(tmp_path))
        store.publish("policy", {"vw": b"1"}, {}, "v1")
        store.promote("policy", "v1", "snapshot")
        assert store.kinds() == ["policy", "ranker"]
        assert current(store, "policy") == "v1"
        assert current(store, "ranker") == "v2"
        assert store.load("policy", "v1").files == {"vw": b"1"}

    def test_publishing_again_is_harmless_and_never_overwrites(self, tmp_path: Path) -> None:
        store = two_versions(self.open(tmp_path))
        assert store.publish("ranker", {**FILES, "version": b"v1"}, {}, "v1") == "v1"
        with pytest.raises(ModelInvalid, match="exists with other files"):
            store.publish("ranker", {"model.bin": b"other"}, {}, "v1")
        self.spoil(tmp_path, "v1", "model.bin", b"damaged")
        assert store.publish("ranker", {**FILES, "version": b"v1"}, {}, "v1") == "v1"
        assert store.load("ranker", "v1").files["model.bin"] == FILES["model.bin"]

    def test_files_neither_overwrite_a_version_nor_a_promotion(self, tmp_path: Path) -> None:
        files = self.open(tmp_path)
        files.write("ranker", "v1", {"a": b"1"}, replace=False)
        with pytest.raises(FileExistsError):
            files.write("ranker", "v1", {"b": b"2"}, replace=False)
        assert files.read("ranker", "v1", "a") == b"1"
        files.write("ranker", "v1", {"b": b"2"}, replace=True)
        assert files.read("ranker", "v1", "b") == b"2"
        for missing in (("ranker", "v1", "a"), ("ranker", "v2", "a"), ("policy", "v1", "a")):
            with pytest.raises(FileNotFoundError):
                files.read(*missing)
        files.promote("ranker", "v1", 7, b"first")
        with pytest.raises(FileExistsError):
            files.promote("ranker", "v1", 7, b"second")
        assert files.promotion("ranker", 7) == b"first"
        with pytest.raises(FileNotFoundError):
            files.promotion("ranker", 8)
        with pytest.raises(FileNotFoundError):
            files.promote("ranker", "v2", 8, b"of nothing")
        files.promote("ranker", "v1", 10, b"later")
        assert files.promotions("ranker") == [10, 7]
        with pytest.raises(FileExistsError):
            files.remove("ranker", ["v1"], [7], newest=9)
        assert files.versions("ranker") == ["v1"]
        assert files.promotions("ranker") == [10, 7]
        files.remove("ranker", ["v1"], [7], newest=10)
        assert files.versions("ranker") == []
        assert files.promotions("ranker") == [10]
        assert not files.has("ranker", "v1")

    def test_a_guard_that_refuses_prevents_the_change(self, tmp_path: Path) -> None:
        store = two_versions(self.open(tmp_path))
        with pytest.raises(Refused):
            store.publish("ranker", FILES, {}, "v3", guard=refuse)
        assert [v.version for v in store.versions("ranker")] == ["v2", "v1"]
        self.spoil(tmp_path, "v1", "model.bin", b"damaged")
        with pytest.raises(Refused):
            store.publish("ranker", {**FILES, "version": b"v1"}, {}, "v1", guard=refuse)
        assert [v.version for v in store.versions("ranker")] == ["v2", "v1"]
        store.publish("ranker", FILES, {}, "v3", guard=lambda: None)
        with pytest.raises(Refused):
            store.promote("ranker", "v3", "former learner", guard=refuse)
        assert current(store) == "v2"
        store.promote("ranker", "v3", "learner", guard=lambda: None)
        assert current(store) == "v3"

    def test_rollback_goes_further_back_each_time(self, tmp_path: Path) -> None:
        store = two_versions(self.open(tmp_path))
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

    def test_rollback_passes_over_what_is_damaged_or_gone(self, tmp_path: Path) -> None:
        store = two_versions(self.open(tmp_path))
        store.publish("ranker", FILES, {}, "v3")
        store.promote("ranker", "v3", "better")
        self.spoil(tmp_path, "v2", "model.bin", None)
        assert store.rollback("ranker", "worse") == "v1"

    @pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
    def test_a_damaged_version_is_never_served(
        self, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Damage at every relevant position of every file: the version before takes over, with one log line per
        store."""
        files = self.open(tmp_path)
        two_versions(files)
        rng = random.Random(1)
        for name in ("meta.json", "model.bin", "names.json", "version"):
            whole = files.read("ranker", "v2", name)
            places = {0, 1, len(whole) // 2, len(whole) - 1} | {rng.randrange(len(whole)) for _ in range(12)}
            for place in sorted(places):
                flipped = whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]
                self.spoil(tmp_path, "v2", name, {"cut": whole[:place], "flip": flipped, "gone": None}[damage])
                store = ModelStore(files)
                caplog.clear()
                served = store.current("ranker")
                assert served is not None
                if served.version == "v2":  # white space of meta.json may turn into other white space
                    assert name == "meta.json"
                    assert served.files == {**FILES, "version": b"v2"}
                    assert served.meta == {"ndcg": 0.5}
                else:
                    assert served.version == "v1"
                    assert store.current("ranker") == served
                    assert len(caplog.records) == 1
                    with pytest.raises((ModelInvalid, NotFound)):
                        store.promote("ranker", "v2", "try")
                self.spoil(tmp_path, "v2", name, whole)
        assert current(ModelStore(files)) == "v2"

    def test_a_damaged_promotion_leaves_the_one_before_in_force(self, tmp_path: Path) -> None:
        files = self.open(tmp_path)
        two_versions(files)
        whole = files.promotion("ranker", 2)
        for place in range(len(whole)):
            self.spoil_promotion(tmp_path, 2, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert current(ModelStore(files)) in ("v1", "v2")
            self.spoil_promotion(tmp_path, 2, whole[:place])
            store = ModelStore(files)
            assert current(store) == "v1"
            assert store.current_version("ranker") == "v1"
        store = ModelStore(files)
        store.promote("ranker", "v2", "again")
        assert current(ModelStore(files)) == "v2"

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a\\b", "a\x00b", "-x", "a:b", "x" * 81]
    )
    def test_names_are_never_syntax(self, tmp_path: Path, name: str) -> None:
        store = make(self.open(tmp_path))
        store.publish("ranker", FILES, {}, "v1")
        with pytest.raises(ModelInvalid):
            store.publish(name, FILES, {}, "v1")
        with pytest.raises(ModelInvalid):
            store.publish("ranker", FILES, {}, name)
        with pytest.raises(ModelInvalid):
            store.publish("ranker", {name: b""}, {}, "v2")
        with pytest.raises(ModelInvalid):
            store.promote("ranker", name, "")
        for ask in (store.current, store.versions, store.prune, store.current_version):
            with pytest.raises(ModelInvalid):
                ask(name)
        with pytest.raises(ModelInvalid):
            store.publish("ranker", {"meta.json": b"{}"}, {}, "v2")
        assert store.kinds() == ["ranker"]
        assert [v.version for v in store.versions("ranker")] == ["v1"]

    def test_a_manifest_of_another_place_is_refused(self, tmp_path: Path) -> None:
        files = self.open(tmp_path)
        store = two_versions(files)
        copied = {name: files.read("ranker", "v2", name) for name in ("meta.json", *FILES, "version")}
        for kind, version in (("ranker", "v9"), ("policy", "v2")):
            files.write(kind, version, copied, replace=False)
            with pytest.raises(ModelInvalid, match="another format, kind or version"):
                store.load(kind, version)

    def test_prune_keeps_the_newest_and_the_one_in_force(self, tmp_path: Path) -> None:
        files = self.open(tmp_path)
        store = make(files)
        for number in range(30):
            store.publish("policy", FILES, {}, f"v{number:02d}")
            store.promote("policy", f"v{number:02d}", "snapshot")
        store.promote("policy", "v03", "back")
        gone = store.prune("policy", keep=5)
        kept = [v.version for v in store.versions("policy")]
        assert kept == ["v29", "v28", "v27", "v26", "v25", "v03"]
        assert len(gone) == 24
        assert len(files.promotions("policy")) == 5
        assert current(ModelStore(files), "policy") == "v03"
        assert store.rollback("policy", "no") == "v29"
        assert store.prune("policy", keep=5) == ["v03"]

    def test_readers_never_see_half_a_model(self, tmp_path: Path) -> None:
        """Versions are promoted and pruned while another thread reads all the time."""
        store = make(self.open(tmp_path))
        wrong: list[str] = []
        seen: set[str] = set()
        stop = threading.Event()

        def read() -> None:
            reader = ModelStore(self.open(tmp_path))
            while not stop.is_set():
                model = reader.current("policy")
                if model is not None:
                    seen.add(model.version)
                    if model.files != {"a": model.version.encode(), "b": model.version.encode() * 1000}:
                        wrong.append(model.version)

        with running(read, stop):
            for number in range(60):
                version = f"v{number:03d}"
                store.publish("policy", {"a": version.encode(), "b": version.encode() * 1000}, {}, version)
                store.promote("policy", version, "snapshot")
                store.prune("policy", keep=3)
        assert not wrong
        assert len(seen) > 3


@contextmanager
def running(work: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """Run in a thread until the context ends, which sets `stop`."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
