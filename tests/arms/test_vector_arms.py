"""The vector arm and the personal arm over a real index."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.arms.base import Arm
from services.arms.personal import PersonalArm
from services.arms.vector import VectorArm
from services.backends.qdrant.edge import QdrantEdgeIndex
from services.errors import ArmFailed, ModelInvalid
from services.models.taste.model import RANK, TasteEncoder
from services.models.taste.train import train
from services.models.text_encoder.features import Vector
from services.models.text_encoder.model import HashingEncoder
from services.schema.filters import matches
from services.schema.priors import measure, quality
from services.text import normalize, tokenize
from services.types import (
    CANDIDATE_COUNTS,
    Candidate,
    Condition,
    Context,
    Deadline,
    Document,
    Field,
    Filters,
    Interpretation,
    Person,
    Query,
    Role,
    Schema,
    Slot,
    Understanding,
)
from tests.contracts.arm import ArmContract, Case

FIELDS = Schema(
    fields=(
        Field("title", Role.TEXT, 3.0),
        Field("overview", Role.TEXT),
        Field("genres", Role.KEYWORD),
        Field("year", Role.NUMBER),
        Field("rating", Role.NUMBER),
        Field("votes", Role.NUMBER),
    ),
    title="title",
    rating="rating",
    votes="votes",
)
WEIGHTS = {"like": 2.0, "play": 2.0, "dislike": -1.0}
DRAMA = Slot("genres", "Drama", 0, 5, 0.9)


def table(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t")


@pytest.fixture(scope="module")
def films(shared: Path) -> list[Document]:
    with gzip.open(shared / "data" / "films-mixed" / "catalogue.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, 0, 3000, 4)]


@pytest.fixture(scope="module")
def schema(films: list[Document]) -> Schema:
    return measure(FIELDS, films)


@pytest.fixture(scope="module")
def history(shared: Path, films: list[Document]) -> dict[str, list[tuple[str, float, float]]]:
    """Person -> (object_id, weight, at), newest first."""
    known = {film["id"] for film in films}
    found: dict[str, list[tuple[str, float, float]]] = {}
    for row in table(shared / "data" / "films-mixed" / "history.tsv.gz"):
        if row["object_id"] in known:
            entry = (row["object_id"], WEIGHTS[row["action_name"]], float(row["timestamp"]))
            found.setdefault(row["user_id"], []).append(entry)
    return {person: sorted(entries, key=lambda entry: -entry[2]) for person, entries in found.items()}


@pytest.fixture(scope="module")
def taste(history: Mapping[str, Sequence[tuple[str, float, float]]]) -> TasteEncoder:
    return train((person, item, weight) for person, entries in history.items() for item, weight, _ in entries)


def context(
    text: str = "",
    filters: Filters = (),
    recent: Sequence[tuple[str, float, float]] = (),
    slots: Sequence[tuple[Slot, ...]] = (),
    corrected: str | None = None,
) -> Context:
    """`slots`: of equally likely interpretations."""
    tokens = tuple(tokenize(text))
    readings = tuple(Interpretation(1 / len(slots), reading, ()) for reading in slots) or (
        Interpretation(1.0, (), tokens),
    )
    understanding = Understanding(normalize(text), tokens, (), corrected, "en", readings)
    return Context(Query(text, filters), understanding, 0.0, Person("u:1", tuple(recent)))


@asynccontextmanager
async def run(
    path: Path, schema: Schema, encoder: HashingEncoder | TasteEncoder, films: Sequence[Document]
) -> AsyncIterator[QdrantEdgeIndex]:
    index = QdrantEdgeIndex.open(path, schema, encoder.size)
    try:
        await index.rebuild(schema, encoder.size, zip(films, encoder.encode_documents(films, schema), strict=True))
        yield index
    finally:
        await index.close()


class VectorArmContract(ArmContract):
    documents: Sequence[Document] = (
        {
            "id": "1",
            "title": "Space war",
            "genres": ["Action", "Science Fiction"],
            "year": 1999,
            "rating": 8.0,
            "votes": 9,
        },
        {"id": "2", "title": "Space love", "genres": ["Drama"], "year": 2005, "rating": 6.0, "votes": 90},
        {"id": "3", "title": "Quiet street", "genres": "Drama", "year": 1985, "rating": 7.0, "votes": 50},
        {"id": "4", "title": "Space street", "genres": ["Drama", "Action"], "year": 2015},
        {"id": "5", "title": "Space war", "genres": ["Drama"]},
    )

    async def over(
        self, folder: Path, encoder: HashingEncoder | TasteEncoder, arm: Callable[[QdrantEdgeIndex], Arm]
    ) -> tuple[Arm, Schema, Callable[[], Awaitable[None]]]:
        schema = measure(FIELDS, self.documents)
        index = QdrantEdgeIndex.open(folder, schema, encoder.size)
        vectors = encoder.encode_documents(self.documents, schema)
        await index.rebuild(schema, encoder.size, zip(self.documents, vectors, strict=True))
        return arm(index), schema, index.close

    def made(
        self, arm: Arm, schema: Schema, contexts: Sequence[Context], silent: Sequence[Context], close: Any
    ) -> Case:
        by_id = {document["id"]: document for document in self.documents}
        filters = (Condition("year", gte=1990.0), Condition("genres", any_of=("Drama",)))
        return Case(arm, by_id, schema, contexts, filters, silent, close)


class TestVectorArm(VectorArmContract):
    async def case(self, folder: Path) -> Case:
        encoder = HashingEncoder()
        arm, schema, close = await self.over(folder, encoder, lambda index: VectorArm(index, encoder))
        contexts = [context("space war"), context("quiet"), context("spcae", corrected="space")]
        return self.made(arm, schema, contexts, [context(""), context("?!")], close)


class TestPersonalArm(VectorArmContract):
    async def case(self, folder: Path) -> Case:
        taste = train(
            [("a", "1", 1.0), ("a", "4", 1.0), ("b", "2", 2.0), ("b", "3", 1.0), ("c", "1", 1.0), ("c", "4", 1.0)]
        )
        arm, schema, close = await self.over(folder, taste, lambda index: PersonalArm(index, taste))
        liked = [("1", 2.0, 9.0), ("3", -1.0, 8.0)]
        contexts = [context(recent=liked), context("drama", recent=liked, slots=[(DRAMA,)])]
        silent = [context("space"), context(recent=[("1", -1.0, 9.0)])]
        return self.made(arm, schema, contexts, silent, close)


async def ask(arm: Arm, asked: Context, count: int = 10) -> list[Candidate]:
    return await arm.retrieve(asked, count, Deadline.after(5))


async def test_the_vector_arm_finds_by_meaning_under_filters(
    tmp_path: Path, films: list[Document], schema: Schema
) -> None:
    by_id = {film["id"]: film for film in films}
    async with run(tmp_path, schema, HashingEncoder(), films) as index:
        arm = VectorArm(index, HashingEncoder())
        assert (arm.name, arm.counts) == ("vector", CANDIDATE_COUNTS)
        for film in films[:20]:
            assert (await ask(arm, context(film["title"])))[0].object_id == film["id"]
        filters = (Condition("genres", any_of=("Drama",)), Condition("year", gte=2000.0))
        found = await ask(arm, context("war in space", filters), 50)
        assert len(found) == 50
        assert all(matches(filters, by_id[candidate.object_id], schema) for candidate in found)


async def test_the_vector_arm_encodes_the_corrected_spelling(
    tmp_path: Path, films: list[Document], schema: Schema
) -> None:
    async with run(tmp_path, schema, HashingEncoder(), films) as index:
        arm = VectorArm(index, HashingEncoder())
        meant = await ask(arm, context("black adam"))
        assert await ask(arm, context("balck adma", corrected="black adam")) == meant
        assert await ask(arm, context("balck adma")) != meant


async def test_the_vector_arm_has_nothing_to_say_to_nothing(
    tmp_path: Path, films: list[Document], schema: Schema
) -> None:
    async with run(tmp_path, schema, HashingEncoder(), films[:10]) as index:
        arm = VectorArm(index, HashingEncoder())
        assert not arm.available(context(""))
        assert not arm.available(context("?!"))
        assert arm.available(context("a"))
        assert await ask(arm, context("?!")) == []


class Slow(HashingEncoder):
    """An encoder like a sentence encoder: it must not run on the event loop."""

    instant = False

    def __init__(self) -> None:
        self.during: Callable[[], None] = lambda: None

    def encode_query(self, text: str) -> Vector:
        self.during()
        return super().encode_query(text)


async def test_a_vector_of_a_replaced_encoder_is_not_used(
    tmp_path: Path, films: list[Document], schema: Schema
) -> None:
    async with run(tmp_path, schema, HashingEncoder(), films[:10]) as index:
        slow = Slow()
        arm = VectorArm(index, slow)
        assert await ask(arm, context("black adam")) == await ask(
            VectorArm(index, HashingEncoder()), context("black adam")
        )
        slow.during = lambda: setattr(arm, "encoder", HashingEncoder())
        with pytest.raises(ArmFailed, match="unavailable"):
            await arm.retrieve(context("black adam"), 5, Deadline.after(5))


async def test_the_personal_arm_is_for_those_who_liked_something(tmp_path: Path, schema: Schema) -> None:
    async with run(tmp_path, schema, TasteEncoder.untrained(), [{"id": "1"}, {"id": "2"}]) as index:
        arm = PersonalArm(index, TasteEncoder.untrained())
        assert (arm.name, arm.counts) == ("personal", CANDIDATE_COUNTS)
        assert not arm.available(context())
        assert not arm.available(context(recent=[("1", -1.0, 0.0)]))
        assert arm.available(context(recent=[("1", -1.0, 1.0), ("2", 2.0, 0.0)]))
        assert await ask(arm, context(recent=[("gone", 2.0, 0.0)])) == []


async def test_people_get_different_films_of_what_they_asked_for(
    tmp_path: Path,
    films: list[Document],
    schema: Schema,
    taste: TasteEncoder,
    history: dict[str, list[tuple[str, float, float]]],
) -> None:
    by_id = {film["id"]: film for film in films}
    async with run(tmp_path, schema, taste, films) as index:
        arm = PersonalArm(index, taste)
        lists = []
        for person in sorted(history)[:8]:
            recent = history[person][:100]
            filters = (Condition("year", gte=1990.0),)
            found = await ask(arm, context("drama", filters, recent, [(DRAMA,)]), 20)
            assert found
            for candidate in found:
                assert "Drama" in by_id[candidate.object_id]["genres"]
                assert matches(filters, by_id[candidate.object_id], schema)
                assert candidate.object_id not in {item for item, _, _ in recent}
            lists.append(tuple(candidate.object_id for candidate in found))
        assert len(set(lists)) > 4


async def test_taste_finds_what_people_like_later_better_than_quality_does(
    tmp_path: Path,
    shared: Path,
    films: list[Document],
    schema: Schema,
    taste: TasteEncoder,
    history: dict[str, list[tuple[str, float, float]]],
) -> None:
    """Recall at 20 over people's later favourites (validation split), without any genre asked for."""
    owners = {
        row["query_id"]: row["user_id"]
        for row in table(shared / "data" / "films-mixed" / "queries.tsv.gz")
        if row["slice"] == "personal" and row["split"] == "validation" and row["user_id"] in history
    }
    known = {film["id"] for film in films}
    later: dict[str, set[str]] = {}
    for row in table(shared / "data" / "films-mixed" / "qrels.tsv.gz"):
        if row["query_id"] in owners and row["grade"] != "0" and row["doc_id"] in known:
            later.setdefault(owners[row["query_id"]], set()).add(row["doc_id"])
    best = sorted(films, key=lambda film: (-quality(schema, film), film["id"]))
    async with run(tmp_path, schema, taste, films) as index:
        arm = PersonalArm(index, taste)
        personal, general = [], []
        for person, favourites in sorted(later.items()):
            recent = history[person][:100]
            found = await arm.retrieve(context(recent=recent), 20, Deadline.after(5))
            seen = {item for item, _, _ in recent}
            top = [film["id"] for film in best if film["id"] not in seen][:20]
            personal.append(len(favourites & {candidate.object_id for candidate in found}) / len(favourites))
            general.append(len(favourites & set(top)) / len(favourites))
        assert len(personal) >= 30
        assert np.mean(personal) > 1.2 * np.mean(general)


async def test_what_was_merely_looked_at_may_still_be_wanted(tmp_path: Path, schema: Schema) -> None:
    items: list[Any] = [{"id": name} for name in ("looked", "played", "disliked", "both", "new")]
    recent = [
        ("looked", 1.0, 0.0),
        ("played", 2.0, 0.0),
        ("disliked", -1.0, 0.0),
        ("both", 1.0, 0.0),
        ("both", 5.0, 0.0),
    ]
    async with run(tmp_path, schema, TasteEncoder.untrained(), items) as index:

        async def ids(**options: float) -> set[str]:
            arm = PersonalArm(index, TasteEncoder.untrained(), **options)
            return {candidate.object_id for candidate in await ask(arm, context("x", recent=recent))}

        assert await ids(look=1.0) == {"looked", "new"}
        assert await ids() == {"new"}


async def test_readings_about_as_likely_are_all_looked_for(tmp_path: Path, schema: Schema) -> None:
    items: list[Any] = [{"id": f"d{i}", "genres": ["Drama"]} for i in range(3)]
    items += [{"id": f"h{i}", "genres": "Horror"} for i in range(3)] + [{"id": "known"}]
    recent = [("known", 2.0, 0.0)]
    horror = Slot("genres", "Horror", 0, 5, 0.9)
    nineties = Slot("year", "90s", 0, 3, 0.9, 1990.0, 1999.0)
    async with run(tmp_path, schema, TasteEncoder.untrained(), items) as index:
        arm = PersonalArm(index, TasteEncoder.untrained())

        async def ids(asked: Context) -> set[str]:
            return {candidate.object_id for candidate in await ask(arm, asked)}

        dramas, everything = {"d0", "d1", "d2"}, {item["id"] for item in items[:-1]}
        assert await ids(context("x", recent=recent, slots=[(DRAMA,)])) == dramas
        assert await ids(context("x", recent=recent, slots=[(DRAMA,), (horror,)])) == everything
        both = context("x", recent=recent, slots=[(DRAMA,), (horror,)])
        first, second = both.understanding.interpretations
        unequal = (replace(first, likelihood=0.9), replace(second, likelihood=0.1))
        clear = replace(both, understanding=replace(both.understanding, interpretations=unequal))
        assert await ids(clear) == dramas
        # What is named is a wish: where nothing has it, the person's taste alone decides.
        assert await ids(context("x", recent=recent, slots=[(DRAMA, nineties)])) == everything


async def test_dislikes_count_against(tmp_path: Path, schema: Schema) -> None:
    people = [
        ("a", "x1"),
        ("a", "x2"),
        ("a", "x3"),
        ("b", "x1"),
        ("b", "x2"),
        ("c", "y1"),
        ("c", "y2"),
        ("d", "y1"),
        ("d", "y3"),
    ]
    taste = train((person, item, 1.0) for person, item in people)
    items: list[Document] = [{"id": item} for item in ("x1", "x2", "x3", "y1", "y2", "y3")]
    async with run(tmp_path, schema, taste, items) as index:
        arm = PersonalArm(index, taste)
        for liked, disliked, first in (("x1", "y1", "x2"), ("y1", "x1", "y2")):
            found = await ask(arm, context(recent=[(liked, 2.0, 1.0), (disliked, -1.0, 0.0)]))
            assert found[0].object_id == first
            assert {candidate.object_id[0] for candidate in found[-2:]} == {disliked[0]}


async def test_without_a_taste_model_likes_are_by_words(tmp_path: Path, films: list[Document], schema: Schema) -> None:
    async with run(tmp_path, schema, HashingEncoder(), films) as index:
        found = await ask(PersonalArm(index), context(recent=[(films[0]["id"], 2.0, 0.0)]))
        assert len(found) == 10
        assert films[0]["id"] not in {candidate.object_id for candidate in found}


def test_nearness_of_taste_is_the_inner_product_plus_quality(schema: Schema, films: list[Document]) -> None:
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(len(films), RANK)).astype(np.float32)
    factors *= (rng.random(len(films)) / np.linalg.norm(factors, axis=1))[:, None].astype(np.float32)
    taste = TasteEncoder([film["id"] for film in films], factors)
    vectors = taste.encode_documents(films, schema)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    liked = 2.0 * vectors[3] - vectors[8]
    person = factors[3] * 2.0 - factors[8]
    good = np.array([quality(schema, film) for film in films])
    wanted = factors @ (person / np.linalg.norm(person)) + 0.05 * good
    got = vectors @ taste.user_vector(liked) * np.sqrt(2.0)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_taste_is_saved_and_loaded_and_damage_is_refused(
    taste: TasteEncoder, films: list[Document], schema: Schema
) -> None:
    files = taste.to_files()
    loaded = TasteEncoder.from_files(files)
    assert loaded.version == taste.version
    np.testing.assert_array_equal(loaded.encode_documents(films, schema), taste.encode_documents(films, schema))
    for damaged in ({}, {**files, "items.json": b"{"}, {**files, "arrays.npz": files["arrays.npz"][:-50]}):
        with pytest.raises(ModelInvalid):
            TasteEncoder.from_files(damaged)
    with pytest.raises(ModelInvalid):
        TasteEncoder(["a"], np.full((1, RANK), 2.0, np.float32))


def test_taste_training_is_deterministic_and_needs_people(history: dict[str, list[tuple[str, float, float]]]) -> None:
    rows = [(person, item, weight) for person, entries in history.items() for item, weight, _ in entries]
    assert train(rows).version == train(rows).version
    for few in ([], rows[:1], [("a", "x", 1.0), ("a", "y", 1.0)]):
        with pytest.raises(ModelInvalid):
            train(few)
