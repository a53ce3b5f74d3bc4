"""Text encoders: what every one must do, what training adds, and the real sentence encoder against its own figures."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.errors import ModelInvalid, SettingsInvalid
from services.models.text_encoder.model import HashingEncoder, LsaEncoder, TextEncoder
from services.models.text_encoder.onnx import OnnxEncoder
from services.models.text_encoder.train import train
from services.onnx_session import onnxruntime
from services.types import Document, Field, Role, Schema

SCHEMA = Schema(
    fields=(
        Field("title", Role.TEXT, 3.0),
        Field("overview", Role.TEXT),
        Field("genres", Role.KEYWORD),
        Field("year", Role.NUMBER),
    ),
    title="title",
)
NOTHING = ("", "   ", "?!", "\u3000")


@pytest.fixture(scope="module")
def films(shared: Path) -> list[Document]:
    with gzip.open(shared / "data" / "films-mixed" / "catalogue.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, 1200)]


@pytest.fixture(scope="module")
def lsa(films: list[Document]) -> LsaEncoder:
    return train(films, SCHEMA)


@pytest.fixture(scope="module")
def minilm(shared: Path) -> OnnxEncoder:
    return OnnxEncoder(shared / "models" / "all-minilm-l6-v2")


@pytest.fixture(scope="module", params=["lsa", "hashing", "minilm"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return HashingEncoder() if request.param == "hashing" else request.getfixturevalue(request.param)


def _table(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t")


def nearest(encoder: TextEncoder, films: list[Document], text: str, number: int = 3) -> list[str]:
    scores = encoder.encode_documents(films, SCHEMA) @ encoder.encode_query(text)
    return [films[i]["title"] for i in np.argsort(-scores)[:number]]


class TestEveryEncoder:
    def test_vectors_are_finite_and_of_unit_length(self, encoder: TextEncoder, films: list[Document]) -> None:
        vectors = encoder.encode_documents(films[:50], SCHEMA)
        assert vectors.shape == (50, encoder.size)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        for text in ("toy story 3", "a", "Ж", "ünïcödé 日本", "\U0001f600 x", "\ud800 x", "z" * 5000):
            query = encoder.encode_query(text)
            assert query.shape == (encoder.size,)
            assert query.dtype == np.float32
            assert float(np.linalg.norm(query)) == pytest.approx(1.0, abs=1e-5)

    def test_the_same_text_gives_the_same_vector(self, encoder: TextEncoder, films: list[Document]) -> None:
        np.testing.assert_array_equal(encoder.encode_query("space war"), encoder.encode_query("space war"))
        first, again = (encoder.encode_documents(films[:5], SCHEMA) for _ in range(2))
        np.testing.assert_array_equal(first, again)

    def test_odd_items_are_encoded_too(self, encoder: TextEncoder) -> None:
        odd: list[Any] = [
            {"id": "1"},
            {"id": "2", "title": None, "genres": []},
            {"id": "3", "title": 7, "overview": ["a b"]},
        ]
        vectors = encoder.encode_documents(odd, SCHEMA)
        assert not vectors[:2].any()
        assert vectors[2].any()
        assert encoder.encode_documents([], SCHEMA).shape == (0, encoder.size)

    def test_a_film_is_near_its_title(self, encoder: TextEncoder, films: list[Document]) -> None:
        titles = ("The Shawshank Redemption", "Kung Fu Panda", "Interstellar")
        some = films[:40] + [film for film in films if film["title"] in titles]
        for title in titles:
            assert nearest(encoder, some, title, 1) == [title]


@pytest.mark.parametrize("text", NOTHING)
def test_text_that_says_nothing_is_near_nothing(text: str, lsa: LsaEncoder) -> None:
    assert not lsa.encode_query(text).any()
    assert not HashingEncoder().encode_query(text).any()


def test_a_slip_of_the_finger_still_finds_the_title(lsa: LsaEncoder, films: list[Document]) -> None:
    for encoder in (lsa, HashingEncoder()):
        for meant, typed in (("Interstellar", "intersteller"), ("Kung Fu Panda", "kung fu pnda"), ("Shrek", "shreck")):
            assert meant in nearest(encoder, films, typed)


def test_training_finds_more_films_about_a_topic(shared: Path, lsa: LsaEncoder, films: list[Document]) -> None:
    """Recall at 50 over the topic queries of the validation split, among the films of these tests."""
    place = {film["id"]: row for row, film in enumerate(films)}
    folder = shared / "data" / "films-mixed"
    texts = {
        row["query_id"]: row["query"]
        for row in _table(folder / "queries.tsv.gz")
        if row["slice"] == "topic" and row["split"] == "validation"
    }
    relevant: dict[str, set[int]] = {}
    for row in _table(folder / "qrels.tsv.gz"):
        if row["query_id"] in texts and row["grade"] != "0" and row["doc_id"] in place:
            relevant.setdefault(row["query_id"], set()).add(place[row["doc_id"]])
    assert len(relevant) > 100

    def recall(encoder: TextEncoder) -> float:
        vectors = encoder.encode_documents(films, SCHEMA)
        shares = []
        for query_id, rows in relevant.items():
            found = np.argsort(-(vectors @ encoder.encode_query(texts[query_id])))[:50]
            shares.append(len(rows & set(found.tolist())) / len(rows))
        return float(np.mean(shares))

    assert recall(lsa) > recall(HashingEncoder()) + 0.02


def test_training_twice_gives_the_same_model(lsa: LsaEncoder, films: list[Document]) -> None:
    few = films[:300]
    assert train(few, SCHEMA).to_files() == train(few, SCHEMA).to_files()
    assert train(few, SCHEMA).version != lsa.version


def test_a_saved_model_encodes_exactly_as_before(lsa: LsaEncoder, films: list[Document]) -> None:
    files = lsa.to_files()
    loaded = LsaEncoder.from_files(files)
    assert loaded.version == lsa.version
    np.testing.assert_array_equal(loaded.encode_query("lost in space"), lsa.encode_query("lost in space"))
    np.testing.assert_array_equal(loaded.encode_documents(films[:9], SCHEMA), lsa.encode_documents(films[:9], SCHEMA))


@pytest.mark.parametrize(
    "damage",
    [
        lambda files: files.pop("words.json"),
        lambda files: files.pop("arrays.npz"),
        lambda files: files.update({"words.json": b"{}"}),
        lambda files: files.update({"words.json": b"\xff"}),
        lambda files: files.update({"words.json": files["words.json"].replace(b'"format": 1', b'"format": 9')}),
        lambda files: files.update({"arrays.npz": files["arrays.npz"][:-100]}),
        lambda files: files.update({"arrays.npz": b"PK\x03\x04"}),
        lambda files: files.update({"words.json": files["words.json"].replace(b'"words": [', b'"words": ["zzzz", ')}),
    ],
)
def test_a_damaged_model_is_refused(lsa: LsaEncoder, damage: Callable[[dict[str, bytes]], object]) -> None:
    files = lsa.to_files()
    damage(files)
    with pytest.raises(ModelInvalid):
        LsaEncoder.from_files(files)


def test_tiny_catalogues_can_be_learned_from() -> None:
    few: list[Document] = [
        {"id": "1", "title": "Red shoe", "overview": "a shoe for running"},
        {"id": "2", "title": "Blue shoe", "overview": "a shoe for walking"},
        {"id": "3", "title": "Green hat", "overview": "a hat for walking"},
    ]
    encoder = train(few, SCHEMA)
    vectors = encoder.encode_documents(few, SCHEMA)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert int(np.argmax(vectors @ encoder.encode_query("hat"))) == 2
    for nothing in ([], few[:1], [{"id": "1"}, {"id": "2"}]):
        with pytest.raises(ModelInvalid):
            train(nothing, SCHEMA)


class TestSentenceEncoder:
    def test_real_overviews_are_ordered_by_meaning(self, minilm: OnnxEncoder) -> None:
        overviews = [
            "A clownfish searches the ocean for his missing son.",
            "A team of thieves plans to rob three casinos at once.",
            "An astronaut is left behind on Mars and must survive alone.",
        ]
        documents = [{"id": str(i), "overview": text} for i, text in enumerate(overviews)]
        vectors = minilm.encode_documents(documents, SCHEMA)
        asked = ["fish looking for its child", "bank heist", "stranded on another planet"]
        assert [int(np.argmax(vectors @ minilm.encode_query(text))) for text in asked] == [0, 1, 2]

    def test_text_beyond_128_tokens_is_read_and_beyond_256_is_not(self, minilm: OnnxEncoder) -> None:
        long = "word " * 200
        assert abs(float(minilm.encode_query(long + "submarine") @ minilm.encode_query(long)) - 1.0) > 1e-3
        longer = "word " * 300
        np.testing.assert_array_equal(minilm.encode_query(longer + "submarine"), minilm.encode_query(longer))

    def test_batches_change_vectors_no_more_than_int8_does(self, minilm: OnnxEncoder, films: list[Document]) -> None:
        together = minilm.encode_documents(films[:40], SCHEMA)
        alone = np.concatenate([minilm.encode_documents([film], SCHEMA) for film in films[:40]])
        assert float((together * alone).sum(axis=1).min()) > 0.98

    def test_int8_is_near_fp32(self, shared: Path, tmp_path: Path, minilm: OnnxEncoder) -> None:
        source = shared / "models" / "all-minilm-l6-v2"
        for name in ("config.json", "tokenizer.json", "model.onnx"):
            (tmp_path / name).symlink_to(source / name)
        exact = OnnxEncoder(tmp_path)
        assert exact.version != minilm.version
        for text in ("black panther", "film with a talking raccoon", "who framed roger rabbit 1988"):
            assert float(exact.encode_query(text) @ minilm.encode_query(text)) > 0.97

    def test_no_thread_spins(self, minilm: OnnxEncoder) -> None:
        options = minilm._session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


class TestRefusedFolders:
    def copy(self, shared: Path, target: Path) -> Path:
        for name in ("config.json", "tokenizer.json", "model_int8.onnx"):
            shutil.copy(shared / "models" / "all-minilm-l6-v2" / name, target / name)
            (target / name).chmod(0o644)
        return target

    def test_each_with_a_reason(self, shared: Path, tmp_path: Path) -> None:
        with pytest.raises(SettingsInvalid, match="not a sentence encoder"):
            OnnxEncoder(tmp_path)
        folder = self.copy(shared, tmp_path)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"dim": 383}), "utf-8")
        with pytest.raises(SettingsInvalid, match="383"):
            OnnxEncoder(folder)
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        content = (folder / "model_int8.onnx").read_bytes()
        (folder / "model_int8.onnx").write_bytes(content[:1000])
        with pytest.raises(SettingsInvalid, match="does not load"):
            OnnxEncoder(folder)
        (folder / "model_int8.onnx").unlink()
        with pytest.raises(SettingsInvalid, match="has neither"):
            OnnxEncoder(folder)
        (folder / "model_int8.onnx").write_bytes(content)
        (folder / "tokenizer.json").write_text("{}", "utf-8")
        with pytest.raises(SettingsInvalid, match=r"tokenizer\.json"):
            OnnxEncoder(folder)

    def test_weights_in_other_files_are_never_opened(
        self, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import onnx

        folder = self.copy(shared, tmp_path)
        model = onnx.load(folder / "model_int8.onnx")
        onnx.save_model(model, folder / "model_int8.onnx", save_as_external_data=True, location="weights.bin")
        monkeypatch.chdir(folder)  # where the runtime would look for them
        onnxruntime.InferenceSession((folder / "model_int8.onnx").read_bytes(), providers=["CPUExecutionProvider"])
        with pytest.raises(SettingsInvalid, match="one file"):
            OnnxEncoder(folder)

    def test_a_missing_extra_is_named(self, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
        with pytest.raises(SettingsInvalid, match="extra `encoder`"):
            OnnxEncoder(shared / "models" / "all-minilm-l6-v2")
