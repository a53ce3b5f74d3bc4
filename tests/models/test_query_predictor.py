"""Queries predicted for items: how they are made, what is learned of them from catalogue and log, and how they get into
force."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.settings import Settings
from app.system.model_kinds import QUERY_PREDICTOR, current_model
from app.system.stores import model_store
from app.system.system import System
from app.system.wiring import opened
from services.backends.sqlite.log import SqliteLog
from services.errors import InvalidRequest, ModelInvalid
from services.memory.keys import memory_key
from services.memory.scores import expected, recollect, score
from services.models.query_predictor.model import ANY_ADDITION, FILE, MAX_SCORE, QueryPredictor
from services.models.query_predictor.queries import generate_queries
from services.models.query_predictor.rows import ItemClicks, LoggedQuery, from_log
from services.models.query_predictor.train import MIN_CLICKED_ITEMS, train
from services.models.trained import Trained
from services.rewards.rewards import examination
from services.types import Deadline, Document, Field, Role, Schema
from tests.models.test_ranker_training import action, impression

SCHEMA = Schema(
    (
        Field("name", Role.TEXT),
        Field("about", Role.TEXT),
        Field("actors", Role.KEYWORD),
        Field("brand", Role.KEYWORD),
        Field("made", Role.DATE),
        Field("sold", Role.POPULARITY),
    ),
    title="name",
    popularity="sold",
    created="made",
    stats={"popularity_scale": 100.0},
)
TOY: Document = {
    "id": "1",
    "name": "Toy Story: The Return",
    "actors": ["Tom Hanks", "Tim Allen", "Joan Cusack", "Wallace Shawn"],
    "brand": "Pixar",
    "made": "1999-11-24",
    "sold": 100,
}


class TestGuesses:
    def test_a_name_its_parts_and_what_may_stand_beside_them(self) -> None:
        found = {guess.text: guess.kind for guess in generate_queries(TOY, SCHEMA, ["movie"])}
        assert found["toy story: the return"] == "title"
        assert found["toy story"] == "head"
        assert found["the return"] == "tail"
        assert found["toy story 1999"] == "head+year"
        assert found["toy story: the return pixar"] == "title+=brand"
        assert found["toy story tim allen"] == "head+=actors"
        assert found["toy story movie"] == "head+~movie"
        assert found["joan cusack"] == "=actors"
        assert "wallace shawn" not in found  # only the first VALUES_PER_FIELD

    def test_every_key_once_the_plainest_query_for_it_first(self) -> None:
        found = generate_queries({"id": "1", "name": "Pixar", "brand": "Pixar", "actors": ["A Pixar"]}, SCHEMA)
        assert [(guess.key, guess.kind) for guess in found] == [("pixar", "title")]

    @pytest.mark.parametrize("name", ["", "  ", None, 7, ":", "(", "- / -"])
    def test_odd_names(self, name: object) -> None:
        for guess in generate_queries({"id": "1", "name": name, "actors": [None, 3, "", "A"]}, SCHEMA, ["x"]):
            assert guess.key

    def test_what_nobody_would_write_is_cut(self) -> None:
        found = generate_queries({"id": "1", "name": "a b " * 50_000, "actors": ["c d " * 50_000] * 900}, SCHEMA, ["x"])
        assert all(len(guess.text) <= 401 for guess in found)

    def test_nothing_without_a_title(self) -> None:
        assert generate_queries(TOY, Schema(SCHEMA.fields)) == []
        assert generate_queries({"id": "2"}, SCHEMA) == []

    @pytest.mark.parametrize("made", [None, "soon", 1e300, -1e18, True, "0000"])
    def test_years_that_are_none(self, made: object) -> None:
        assert not [guess for guess in generate_queries(TOY | {"made": made}, SCHEMA) if guess.kind.endswith("+year")]

    def test_years_that_are_numbers(self) -> None:
        numbered = Schema((Field("name", Role.TEXT), Field("year", Role.NUMBER)), title="name", created="year")
        texts = {
            made: {g.text for g in generate_queries({"id": "1", "name": "Up", "year": made}, numbered)}
            for made in (2009, 7)
        }
        assert texts == {2009: {"up", "up 2009"}, 7: {"up"}}

    def test_names_in_a_list_and_fields_called_like_kinds(self) -> None:
        schema = Schema((Field("name", Role.TEXT), Field("title", Role.KEYWORD)), title="name")
        found = generate_queries({"id": "1", "name": ["Heat", "La Heat"], "title": "ceo"}, schema)
        assert {guess.text: guess.kind for guess in found} == {
            "heat": "title",
            "heat ceo": "title+=title",
            "ceo": "=title",
        }


class TestModel:
    def test_untrained_it_goes_by_titles(self) -> None:
        found = QueryPredictor.untrained().predict(TOY, SCHEMA)
        assert [text for text, _ in found][:3] == [
            "toy story: the return",
            "toy story: the return 1999",
            "toy story: the return tom hanks",
        ]
        assert len(found) == 5
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)

    @pytest.mark.parametrize("shown", [0.0, 1.0, 7.0, 1e6])
    def test_no_prediction_comes_before_a_click_on_the_same_query(self, shown: float) -> None:
        sure = QueryPredictor({"title": 1e9}, {"title": 1.0})
        ((_, predicted),) = sure.predict(TOY, SCHEMA)
        assert predicted == pytest.approx(MAX_SCORE)
        assert expected(predicted, shown) < score(1.0, shown)
        titles = QueryPredictor.untrained().predict(TOY, SCHEMA)
        key = memory_key(TOY["name"])
        first, second = recollect(
            key, {key: shown}, [(key, "2", 1.0)], [(memory_key(text), "1", worth) for text, worth in titles], 10
        )
        assert (first.object_id, second.object_id) == ("2", "1"), "however many queries are predicted for it"

    def test_kinds_that_are_not_known_are_not_predicted(self) -> None:
        model = QueryPredictor({"head": 0.0, "=brand": 1.0}, {"head": 1.0, "=brand": 0.1})
        assert model.predict(TOY, SCHEMA) == [
            ("toy story", pytest.approx(MAX_SCORE / 2)),
            ("pixar", pytest.approx(MAX_SCORE / (1 + np.exp(-1.0)))),
        ]

    def test_shared_queries_popularity_and_length_count(self) -> None:
        model = QueryPredictor({"head": 0.0}, {"head": 1.0}, (-1.0, 2.0, 0.5), shared={memory_key("toy story"): 3})
        ((_, predicted),) = model.predict(TOY, SCHEMA)
        assert predicted == pytest.approx(MAX_SCORE / (1 + np.exp(np.log(3.0) - 2.0 - 0.25)))

    def test_saved_and_read_again(self) -> None:
        model = QueryPredictor(
            {"title": 0.5, ANY_ADDITION: -1.0}, {"title": 1.0}, (0.1, 0.2, 0.3), ("movie",), {"story toy": 2}, 7
        )
        again = QueryPredictor.from_files(model.to_files())
        assert again.to_files() == model.to_files()
        assert again.predict(TOY, SCHEMA) == model.predict(TOY, SCHEMA)
        assert again.version != QueryPredictor.from_files(QueryPredictor.untrained().to_files()).version

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 99},
            {"kinds": {"title": "high"}},
            {"kinds": {"title": None}},
            {"kinds": ["title"]},
            {"numbers": [1.0]},
            {"numbers": [1.0, 2.0, float("nan")]},
            {"shared": {"a": 0}},
            {"most": 0},
            {"words": 7},
            {"words": "movie"},
            {"most": float("inf")},
        ],
    )
    def test_damaged_files_are_refused(self, change: dict[str, Any]) -> None:
        said = json.loads(QueryPredictor.untrained().to_files()[FILE]) | change
        with pytest.raises(ModelInvalid):
            QueryPredictor.from_files({FILE: json.dumps(said).encode()})

    @pytest.mark.parametrize("files", [{}, {FILE: b"{"}, {FILE: b"[]"}, {FILE: b"\xff"}])
    def test_files_that_are_none(self, files: dict[str, bytes]) -> None:
        with pytest.raises(ModelInvalid):
            QueryPredictor.from_files(files)


async def test_the_log_tells_what_was_looked_at_and_taken(tmp_path: Path) -> None:
    records = [
        impression("q1", "toy", normalized="toys"),
        impression("q2", "toy", root_id="q1", offset=10),
        impression("q3", "toy", learn=False),
        action("q1", "a"),
        action("q1", "b"),
        action("q1", "b", "dislike"),
        action("q2", "c", "purchase"),
        action("q2", "a", "dislike"),
        action("q3", "a"),
        action("q1", "c", at=99_999.0),
    ]

    log = SqliteLog(tmp_path / "log.sqlite")
    try:
        await asyncio.gather(*(log.append(record) for record in records))
        asked = await from_log(log, {"click": 1.0, "purchase": 5.0, "dislike": -1.0}, 1800.0, 1000)
    finally:
        await log.close()
    assert asked.keys() == {"toy"}
    assert asked["toy"].text == "toys"
    items = asked["toy"].items
    assert {name: shown.clicked for name, shown in items.items()} == {"a": 1, "b": 0, "c": 1}
    assert items["a"].examinations == pytest.approx(examination(1) + examination(11))
    assert items["c"].examinations == pytest.approx(examination(3) + examination(13))


def catalogue(size: int = 400) -> list[Document]:
    """Names of two words of which the first is the item's own; every brand has many items."""
    return [
        {
            "id": f"i{n}",
            "name": f"word{n} thing{n % 7}",
            "about": "of nothing",
            "brand": f"brand{n % 5}",
            "sold": n % 100,
        }
        for n in range(size)
    ]


def log(documents: Sequence[Document], wanted: bool = True) -> dict[str, LoggedQuery]:
    """People write the first word of a name and "please", or its brand; the one means the item, the other does not."""
    asked: dict[str, LoggedQuery] = {}
    for document in documents:
        own = document["name"].split(" ")[0]
        for text, taken in ((f"{document['name']} please", wanted), (f"{own} {document['brand']}", True)):
            query = asked.setdefault(memory_key(text), LoggedQuery(text))
            query.items[document["id"]] = ItemClicks(1.0, int(taken))
            query.items["i0"].examinations += 0.5
        brand = asked.setdefault(memory_key(document["brand"]), LoggedQuery(document["brand"]))
        brand.items[document["id"]] = ItemClicks(2.0, int(int(document["id"][1:]) % 40 == 0))
    return asked


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(log(catalogue()), catalogue(), SCHEMA)


class TestTraining:
    def test_learns_the_words_that_people_write_and_whom_they_mean(self, trained: Trained) -> None:
        model = QueryPredictor.from_files(trained.files)
        assert model.words == ("please",)
        found = dict(model.predict(catalogue()[123], SCHEMA))
        assert found["word123 thing4 please"] > 0.8 * MAX_SCORE
        assert found["brand3"] < 0.3 * MAX_SCORE
        assert model.shared["brand3"] == 80

    def test_what_everybody_asks_counts_no_more_than_a_few_looks(self) -> None:
        """One pair of a query and an item that thousands looked at says no more of its kind than three looks do."""

        def odds(times: float) -> float:
            asked = log(catalogue())
            query = asked[memory_key("word7 thing0 please")]
            query.items["i7"] = ItemClicks(times, 0)
            return dict(
                QueryPredictor.from_files(train(asked, catalogue(), SCHEMA).files).predict(catalogue()[123], SCHEMA)
            )["word123 thing4 please"]

        assert odds(10_000.0) == pytest.approx(odds(3.0))

    def test_passes_its_gate_for_predicting_what_titles_do_not(self, trained: Trained) -> None:
        assert trained.promote
        assert trained.meta["metrics"]["found"] > trained.meta["metrics"]["found_by_titles"]
        assert trained.meta["gate"]["reason"] == trained.reason

    def test_the_same_log_gives_the_same_bytes(self, trained: Trained) -> None:
        assert train(log(catalogue()), catalogue(), SCHEMA).files == trained.files

    def test_is_refused_when_titles_say_as_much(self) -> None:
        documents = catalogue()
        asked = {
            memory_key(one["name"]): LoggedQuery(one["name"], _items({one["id"]: ItemClicks(1.0, 1)}))
            for one in documents
        }
        trained = train(asked, documents, SCHEMA)
        assert not trained.promote
        assert "not significantly more" in trained.reason

    def test_too_little_is_said(self) -> None:
        with pytest.raises(InvalidRequest, match=f"at least {MIN_CLICKED_ITEMS} are needed"):
            train(log(catalogue(10)), catalogue(10), SCHEMA)
        with pytest.raises(InvalidRequest, match="too little to learn from: 0 items"):
            train({}, [], SCHEMA)
        with pytest.raises(InvalidRequest, match="too little to learn from: 0 items"):
            train(log(catalogue()), [], SCHEMA)


def _items(given: dict[str, ItemClicks]) -> Any:
    items = LoggedQuery("").items
    items.update(given)
    return items


async def test_a_promoted_predictor_is_in_force_and_new_items_go_by_it(tmp_path: Path) -> None:
    settings = Settings.load({}, data_dir=tmp_path)
    songs = [{"id": f"s{n}", "title": f"Song {n}", "artist": f"Artist {n}"} for n in range(10)]
    given: Any = QueryPredictor({"=artist": 2.0}, {"=artist": 1.0})

    async def by_artist(system: System, number: int) -> list[tuple[str, bool]]:
        found = await system.memory.remembered(memory_key(f"artist {number}"), 10, Deadline.after(5.0))
        return [(entry.object_id, entry.predicted) for entry in found if entry.similarity == 1.0]

    async with opened(settings, learning=False) as system:
        await system.catalogue.put(songs)
        assert await by_artist(system, 3) == []
        (titled, *_) = await system.memory.remembered(memory_key("song 3"), 10, Deadline.after(5.0))
        assert titled.predicted
        store = model_store(settings)
        store.promote(QUERY_PREDICTOR, store.publish(QUERY_PREDICTOR, given.to_files(), {}), "test")
        await system.models.reload()
        assert await by_artist(system, 3) == [("s3", True)]
        assert await system.memory.remembered(memory_key("song 3"), 10, Deadline.after(5.0)) == []
        await system.catalogue.put([{"id": "s11", "title": "Song 11", "artist": "Artist 11"}])
        assert await by_artist(system, 11) == [("s11", True)]
        await system.memory.predict({"s9": []})
    async with opened(settings, learning=False) as system:
        assert await by_artist(system, 3) == [("s3", True)]
        assert await by_artist(system, 9) == [], "what is predicted by the one in force is not predicted again"


def test_a_damaged_predictor_is_passed_over(tmp_path: Path) -> None:
    settings = Settings.load({}, data_dir=tmp_path)
    store = model_store(settings)
    assert current_model(QUERY_PREDICTOR, settings, store) == QueryPredictor.untrained()
    store.promote(QUERY_PREDICTOR, store.publish(QUERY_PREDICTOR, {FILE: b"{}"}, {}), "test")
    assert current_model(QUERY_PREDICTOR, settings, store) == QueryPredictor.untrained()
