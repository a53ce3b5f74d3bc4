"""Query understanding over small catalogues of three kinds, and its figures on real queries."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text import normalize, tokenize
from services.types import Field, Role, Schema, Slot, Understanding
from services.understanding.gazetteer import Gazetteer
from services.understanding.language import guess_language
from services.understanding.pipeline import Understander, token_spans
from services.understanding.spelling import slip_cost

FILMS = Schema(
    fields=(
        Field("title", Role.TEXT, 3.0),
        Field("overview", Role.TEXT),
        Field("characters", Role.TEXT),
        Field("director", Role.KEYWORD),
        Field("actors", Role.KEYWORD),
        Field("genres", Role.KEYWORD),
        Field("year", Role.NUMBER),
        Field("votes", Role.NUMBER),
        Field("rating", Role.NUMBER),
        Field("popularity", Role.POPULARITY),
    ),
    title="title",
    popularity="popularity",
    created="year",
)
FILM_ITEMS: list[dict[str, Any]] = [
    {"title": "Pulp Fiction", "director": "Quentin Tarantino", "actors": ["Uma Thurman", "Tim Roth"], "year": 1994},
    {"title": "Kill Bill", "director": "Quentin Tarantino", "actors": ["Uma Thurman", "Lucy Liu"], "year": 2003},
    {"title": "The Lion King", "director": "Roger Allers", "actors": ["Jeremy Irons"], "year": 1994},
    {"title": "Brokeback Mountain", "director": "Ang Lee", "actors": ["Heath Ledger"], "year": 2005},
    {"title": "Spider-Man", "director": "Sam Raimi", "actors": ["Tobey Maguire"], "year": 2002},
    {"title": "Play Misty for Me", "director": "Clint Eastwood", "actors": ["Clint Eastwood"], "year": 1971},
    {"title": "Dirty Harry", "director": "Don Siegel", "actors": ["Clint Eastwood"], "year": 1971},
    {"title": "Alien", "director": "Ridley Scott", "actors": ["Sigourney Weaver"], "year": 1979},
    {"title": "Airplane!", "director": "Jim Abrahams", "actors": ["Leslie Nielsen"], "year": 1980},
    {"title": "Star Wars", "director": "George Lucas", "actors": ["Carrie Fisher"], "year": 1977},
]
GENRES = ["Comedy", "Drama", "Science Fiction", "Animation", "Romance", "Thriller"]
MUSIC = Schema(
    fields=(
        Field("name", Role.TEXT),
        Field("artist", Role.KEYWORD),
        Field("album", Role.KEYWORD),
        Field("type", Role.KEYWORD),
        Field("released", Role.DATE),
    ),
    title="name",
    created="released",
)
SHOP = Schema(
    fields=(
        Field("name", Role.TEXT),
        Field("brand", Role.KEYWORD),
        Field("colour", Role.KEYWORD),
        Field("size", Role.NUMBER),
        Field("price", Role.NUMBER),
    ),
    title="name",
    synonyms={"crimson": ("Red",)},
)


def film_items() -> list[dict[str, Any]]:
    items = []
    for i in range(6 * len(FILM_ITEMS)):
        base = FILM_ITEMS[i % len(FILM_ITEMS)]
        part = "" if i < len(FILM_ITEMS) else f" {i // len(FILM_ITEMS) + 1}"
        items.append({**base, "id": str(i), "title": base["title"] + part, "genres": [GENRES[i % len(GENRES)]]})
    return items


@pytest.fixture(scope="module")
def films() -> Understander:
    understander = Understander(FILMS)
    understander.add(film_items())
    return understander


@pytest.fixture(scope="module")
def music() -> Understander:
    understander = Understander(MUSIC)
    for i in range(12):
        document = {"id": f"s{i}", "name": f"Tune {i}", "artist": "Daft Punk" if i % 2 else "Björk", "type": "song"}
        understander.add([{**document, "album": "Homework" if i % 2 else "Debut", "released": f"{1990 + i}-05-01"}])
        understander.add([{"id": f"a{i}", "name": f"Record {i}", "artist": "Daft Punk", "type": "album"}])
    return understander


@pytest.fixture(scope="module")
def shop() -> Understander:
    understander = Understander(SHOP)
    for i in range(24):
        brand, colour = ("Nike", "Adidas", "Puma")[i % 3], ("Red", "Dark Blue")[i % 2]
        name = f"Running shoe {brand} {i}"
        understander.add(
            [{"id": str(i), "name": name, "brand": brand, "colour": colour, "size": 36 + i, "price": 20.5 + i}]
        )
    return understander


def slots(understander: Understander, text: str) -> list[tuple[str, str]]:
    return [(slot.field, slot.value) for slot in understander.understand(text).slots]


def bounds(understander: Understander, text: str) -> list[tuple[str, float | None, float | None]]:
    found = understander.understand(text).slots
    return [(slot.field, slot.low, slot.high) for slot in found if slot.low is not None or slot.high is not None]


class TestSlots:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("movies with uma thurman", [("actors", "Uma Thurman")]),
            ("tarantino movies", [("director", "Quentin Tarantino")]),
            ("comedies with lucy liu", [("genres", "Comedy"), ("actors", "Lucy Liu")]),
            ("good sci fi", [("genres", "Science Fiction")]),
            ("scifi", [("genres", "Science Fiction")]),
            ("romantic movies", [("genres", "Romance")]),
            ("animated films", [("genres", "Animation")]),
            ("thrillers", [("genres", "Thriller")]),
            ("funny movies", [("genres", "Comedy")]),
            ("the lion king", [("title", "The Lion King")]),
            ("star wars", [("title", "Star Wars")]),
            ("directed by clint eastwood", [("director", "Clint Eastwood")]),
            ("films starring clint eastwood", [("actors", "Clint Eastwood")]),
            (
                "movies by clint eastwood with clint eastwood",
                [("director", "Clint Eastwood"), ("actors", "Clint Eastwood")],
            ),
            ("clint eastwood movies", [("actors", "Clint Eastwood")]),
            ("alien", [("title", "Alien")]),
            ("scary movies", []),
            ("watch movies online", []),
        ],
    )
    def test_films(self, films: Understander, text: str, expected: list[tuple[str, str]]) -> None:
        assert slots(films, text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("songs by daft punk", [("type", "song"), ("artist", "Daft Punk")]),
            ("daft punk albums", [("artist", "Daft Punk"), ("type", "album")]),
            ("bjork debut", [("artist", "Björk"), ("album", "Debut")]),
        ],
    )
    def test_music(self, music: Understander, text: str, expected: list[tuple[str, str]]) -> None:
        assert slots(music, text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("dark blue nike shoes", [("colour", "Dark Blue"), ("brand", "Nike")]),
            ("crimson puma", [("colour", "Red"), ("brand", "Puma")]),
        ],
    )
    def test_shop(self, shop: Understander, text: str, expected: list[tuple[str, str]]) -> None:
        assert slots(shop, text) == expected

    def test_several_readings_are_kept_and_their_likelihoods_sum_to_at_most_one(self, films: Understander) -> None:
        understanding = films.understand("clint eastwood")
        readings = [[s.field for s in i.slots] for i in understanding.interpretations]
        assert ["actors"] in readings
        assert ["director"] in readings
        assert [] in readings
        assert sum(i.likelihood for i in understanding.interpretations) <= 1.0 + 1e-9

    def test_offsets_are_characters_of_the_normalised_query(self, films: Understander) -> None:
        understanding = films.understand("  Movies   with ÜMA Thurman!")
        (slot,) = understanding.slots
        assert understanding.normalized[slot.start : slot.end] == "üma thurman"

    def test_a_hint_makes_the_other_readings_unlikely(self, films: Understander) -> None:
        director, *others = films.understand("directed by clint eastwood").interpretations
        assert director.slots[0].confidence > 0.85
        assert sum(i.likelihood for i in others) < 0.15

    def test_the_rest_leaves_out_slots_and_empty_words(self, films: Understander) -> None:
        assert films.understand("good movies with uma thurman about revenge").interpretations[0].rest == ("revenge",)

    def test_a_misspelled_name_is_a_slot_of_lower_confidence(self, films: Understander) -> None:
        right, wrong = (films.understand(f"quentin {name}").slots[0] for name in ("tarantino", "tarantnio"))
        assert (right.field, right.value) == (wrong.field, wrong.value) == ("director", "Quentin Tarantino")
        assert wrong.confidence < right.confidence
        assert (wrong.start, wrong.end) == (0, len("quentin tarantnio"))


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("80s comedy", [("year", 1980.0, 1989.0)]),
            ("1970s films", [("year", 1970.0, 1979.0)]),
            ("movies of the nineties", [("year", 1990.0, 1999.0)]),
            ("drama before 1990", [("year", None, 1989.0)]),
            ("drama after 2000", [("year", 2001.0, None)]),
            ("since 1994", [("year", 1994.0, None)]),
            ("from 1994", [("year", 1994.0, None)]),
            ("between 1990 and 2000", [("year", 1990.0, 2000.0)]),
            ("drama 1990-2000", [("year", 1990.0, 2000.0)]),
            ("alien 1979", [("year", 1979.0, 1979.0)]),
            ("alien 3", []),
        ],
    )
    def test_years(
        self, films: Understander, text: str, expected: list[tuple[str, float | None, float | None]]
    ) -> None:
        assert bounds(films, text) == expected

    @pytest.mark.parametrize("text", ["between 1990 and 2000", "1990 to 2000", "from 1990 until 2000", "since 1994"])
    def test_a_range_takes_in_all_its_words(self, films: Understander, text: str) -> None:
        (slot,) = films.understand(text).slots
        assert slot.value == text

    def test_a_date_field_is_bounded_in_seconds_since_the_epoch(self, music: Understander) -> None:
        assert bounds(music, "bjork 1996") == [("released", 820454400.0, 852076799.0)]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("nike size 42", [("size", 42.0, 42.0)]),
            ("nike under 30", [("price", None, 30.0)]),
            ("shoes over 25", [("price", 25.0, None)]),
            ("nike 42", []),
        ],
    )
    def test_named_numbers(
        self, shop: Understander, text: str, expected: list[tuple[str, float | None, float | None]]
    ) -> None:
        assert bounds(shop, text) == expected


class TestSpelling:
    @pytest.mark.parametrize(
        ("text", "corrected"),
        [
            ("the loin king", "the lion king"),
            ("the lion knig", "the lion king"),
            ("brokeback mountaim", "brokeback mountain"),
            ("broke back mountain", "brokeback mountain"),
            ("broke brake mountain", "brokeback mountain"),
            ("brokebrake mountain", "brokeback mountain"),
            ("spiderman", "spider man"),
            ("tarantnio, movies!", "tarantino, movies!"),
            ("uma thurmann", "uma thurman"),
            ("the lion king", None),
            ("uma thurman movies", None),
            ("films by roger allers", None),
            ("zzzzqqqq", None),
            ("1994", None),
        ],
    )
    def test_corrected(self, films: Understander, text: str, corrected: str | None) -> None:
        assert films.understand(text).corrected == corrected

    def test_a_token_is_always_among_its_own_alternatives(self, films: Understander) -> None:
        understanding = films.understand("teh loin knig brokebrake")
        assert len(understanding.words) == len(understanding.tokens)
        for token, options in zip(understanding.tokens, understanding.words, strict=True):
            assert token in {option.text for option in options}
            weights = [option.weight for option in options]
            assert weights == sorted(weights, reverse=True)

    def test_past_queries_are_vocabulary_once_several_asked(self) -> None:
        understander = Understander(FILMS)
        understander.add(film_items())
        assert understander.understand("chromcast").corrected is None
        understander.add_queries(["chromecast"])
        assert understander.understand("chromcast").corrected is None
        understander.add_queries(["chromecast movies", "chromecast"], weight=5.0)
        assert understander.understand("chromcast").corrected == "chromecast"

    def test_easy_slips_cost_less(self) -> None:
        assert slip_cost("loin", "lion") < slip_cost("lipn", "lion") + 1e-9
        assert slip_cost("lipn", "lion") < slip_cost("lixn", "lion")
        assert slip_cost("moovie", "movie") < slip_cost("mokvie", "movie")
        assert slip_cost("xovie", "movie") > slip_cost("moxie", "movie")


class TestCounting:
    def test_a_name_that_no_item_holds_any_more_leaves_nothing_behind(self) -> None:
        gazetteer = Gazetteer()
        gazetteer.add("director", "Wes Anderson", ["wes", "anderson"])
        gazetteer.add("director", "Wes Craven", ["wes", "craven"])
        gazetteer.add("director", "Wes Anderson", ["wes", "anderson"], -1)
        assert not gazetteer.knows("wes anderson")
        assert [reading.value for reading, _ in gazetteer.partial("wes")] == ["Wes Craven"]
        assert gazetteer.partial("anderson") == []

    def test_an_item_is_understood_as_soon_as_it_is_added_and_forgotten_when_removed(self) -> None:
        understander = Understander(FILMS)
        understander.add(film_items())
        texts = [
            "wes anderson movies",
            "the grand budapest hotel",
            "grand budapset",
            "western",
            "1931",
            "the loin king",
        ]
        before = [understander.understand(text) for text in texts]
        item = {"id": "x", "title": "The Grand Budapest Hotel", "director": "Wes Anderson", "year": 1931}
        extra = [{**item, "genres": ["Western"], "overview": "A lion tale."} for _ in range(4)]
        understander.add(extra)
        assert slots(understander, texts[0]) == [("director", "Wes Anderson")]
        assert slots(understander, texts[1]) == [("title", "The Grand Budapest Hotel")]
        assert understander.understand(texts[2]).corrected == "grand budapest"
        assert slots(understander, texts[3]) == [("genres", "Western")]
        understander.remove(extra)
        assert [understander.understand(text) for text in texts] == before

    def test_an_item_may_be_removed_and_added_again_in_another_form(self) -> None:
        understander = Understander(FILMS)
        old = {"id": "1", "title": "Working Title", "director": "Jane Doe"}
        understander.add([old])
        understander.remove([old])
        understander.add([{**old, "director": "Mary Major"}])
        assert slots(understander, "mary major") == [("director", "Mary Major")]
        assert slots(understander, "jane doe") == []

    def test_rarity_and_unknown_words(self, films: Understander) -> None:
        understanding = films.understand("lion comedy xyzzy")
        lion, comedy, xyzzy = understanding.rarity
        assert 0.0 <= comedy <= lion < xyzzy == 1.0
        assert understanding.unknown == pytest.approx(1 / 3)


class TestLanguage:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("the man who would be king", "en"),
            ("der mann und das meer", "de"),
            ("le fabuleux destin dans la ville", "fr"),
            ("千と千尋の神隠し", "ja"),
            ("война и мир", "ru"),
            ("기생충", "ko"),
            ("inception", "und"),
            ("", "und"),
        ],
    )
    def test_guess(self, text: str, code: str) -> None:
        normalized = normalize(text)
        assert guess_language(normalized, tuple(tokenize(text))) == code


class TestAnyText:
    def check(self, understanding: Understanding) -> None:
        assert len(understanding.tokens) == len(understanding.words) == len(understanding.rarity)
        assert understanding.interpretations
        assert () in [i.slots for i in understanding.interpretations]
        assert 0.0 <= sum(i.likelihood for i in understanding.interpretations) <= 1.0 + 1e-9
        for interpretation in understanding.interpretations:
            assert all(self.is_sound(slot, understanding) for slot in interpretation.slots)
            for left, right in zip(interpretation.slots, interpretation.slots[1:], strict=False):
                assert left.end <= right.start
        for options in understanding.words:
            assert all(math.isfinite(o.weight) and 0.0 <= o.weight <= 1.0 + 1e-9 for o in options)
        assert all(0.0 <= rarity <= 1.0 for rarity in understanding.rarity)

    def is_sound(self, slot: Slot, understanding: Understanding) -> bool:
        inside = 0 <= slot.start < slot.end <= len(understanding.normalized)
        return inside and 0.0 < slot.confidence <= 1.0

    @given(st.text(max_size=1000))
    def test_hostile_text(self, films: Understander, text: str) -> None:
        understanding = films.understand(text)
        self.check(understanding)
        assert understanding == films.understand(text)

    @given(
        st.lists(st.sampled_from(["the", "lion", "loin", "king", "uma", "80s", "1994", "between", "and", "é", "star"]))
    )
    def test_words_in_any_order(self, films: Understander, parts: list[str]) -> None:
        self.check(films.understand(" ".join(parts)))

    @pytest.mark.parametrize(
        "text", ["", "   ", "!!!", "\u0000\ud7ff\U0010ffff", "a" * 1000, "1 " * 500, "é\u0301" * 400]
    )
    def test_extremes(self, films: Understander, text: str) -> None:
        self.check(films.understand(text))

    def test_nothing_is_known_of_an_empty_catalogue(self) -> None:
        understanding = Understander(Schema()).understand("the lion king 1994")
        assert understanding.slots == ()
        assert understanding.corrected is None
        assert understanding.unknown == 1.0

    @given(st.text(max_size=60))
    def test_spans_agree_with_the_tokeniser(self, text: str) -> None:
        spans = token_spans(normalize(text))
        assert [token for token, _, _ in spans] == tokenize(normalize(text))


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "films-mixed"


@pytest.fixture(scope="module")
def catalogue(folder: Path) -> dict[str, dict[str, Any]]:
    with gzip.open(folder / "catalogue.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {item["id"]: item for item in map(json.loads, lines)}


@pytest.fixture(scope="module")
def queries(folder: Path) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows(folder / "queries.tsv.gz"):
        if row["split"] == "validation":
            found[row["slice"]].append((row["query_id"], row["query"]))
    return found


@pytest.fixture(scope="module")
def everything(catalogue: dict[str, dict[str, Any]]) -> Understander:
    understander = Understander(FILMS)
    understander.add(catalogue.values())
    return understander


class TestRealQueries:
    """Floors under what was measured on the validation split, so that a change that loses much is seen."""

    def test_facet_queries_are_read_as_their_films_are(
        self,
        folder: Path,
        catalogue: dict[str, dict[str, Any]],
        queries: dict[str, list[tuple[str, str]]],
        everything: Understander,
    ) -> None:
        relevant: dict[str, list[str]] = defaultdict(list)
        for row in rows(folder / "qrels.tsv.gz"):
            if row["query_id"].startswith("f-") and row["grade"] != "0":
                relevant[row["query_id"]].append(row["doc_id"])
        shares = []
        for query_id, text in queries["facet"]:
            found = everything.understand(text).slots
            items = [catalogue[i] for i in relevant[query_id]]
            shares.append(bool(found) * sum(all(holds(item, s) for s in found) for item in items) / len(items))
        assert sum(shares) / len(shares) > 0.98

    def test_genres_asked_for_are_found(
        self, queries: dict[str, list[tuple[str, str]]], everything: Understander
    ) -> None:
        found = [everything.understand(text).slots for _, text in queries["personal"]]
        wanted = [query_id.rsplit("-", 1)[-1] for query_id, _ in queries["personal"]]
        right = [
            [s.field for s in slots] == ["genres"] and slots[0].value.replace(" ", "").casefold() == genre
            for slots, genre in zip(found, wanted, strict=True)
        ]
        assert sum(right) / len(right) > 0.98

    def test_typos_are_restored_and_clean_queries_left_alone(
        self, queries: dict[str, list[tuple[str, str]]], everything: Understander
    ) -> None:
        clean = {query_id[2:]: text for query_id, text in queries["title"]}
        typos = [(text, clean[query_id[2:]]) for query_id, text in queries["typo"] if query_id[2:] in clean]
        restored = [letters(everything, typed) == "".join(tokenize(meant)) for typed, meant in typos]
        assert sum(restored) / len(restored) > 0.7
        harmed = [letters(everything, text) != "".join(tokenize(text)) for text in clean.values()]
        assert sum(harmed) / len(harmed) < 0.03


def rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def letters(understander: Understander, text: str) -> str:
    """The likeliest spelling without its spaces."""
    understanding = understander.understand(text)
    return "".join(tokenize(understanding.corrected or understanding.normalized))


def holds(item: dict[str, Any], slot: Slot) -> bool:
    value = item.get(slot.field)
    if slot.low is not None or slot.high is not None:
        return value is not None and (slot.low or -math.inf) <= value <= (slot.high or math.inf)
    values = value if isinstance(value, list) else [value or ""]
    return normalize(slot.value) in [normalize(v) for v in values]
