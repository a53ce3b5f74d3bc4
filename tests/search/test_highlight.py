"""Marks around searched words, and nothing else that is markup."""

from __future__ import annotations

from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from services.search.highlight import FRAGMENT_LENGTH, highlights
from services.types import Alternative, Field, Role, Schema

SCHEMA = Schema(
    fields=(
        Field("title", Role.TEXT, 3.0),
        Field("plot", Role.TEXT),
        Field("actors", Role.KEYWORD),
        Field("year", Role.NUMBER),
    ),
    title="title",
)


def words(*texts: str) -> tuple[tuple[Alternative, ...], ...]:
    return tuple((Alternative(text, 1.0),) for text in texts)


def test_whole_words_are_marked_in_the_title() -> None:
    found = highlights(words("toy", "story", "3"), {"id": "1", "title": "Toy Story 3: Toyland"}, SCHEMA)
    assert found == {"title": "<mark>Toy</mark> <mark>Story</mark> <mark>3</mark>: Toyland"}


def test_folding_and_stems_count_as_the_same_word() -> None:
    document = {"id": "1", "title": "Amélie’s Dreams", "plot": "She dreamed of Paris."}
    found = highlights(words("amelies", "dream"), document, SCHEMA)
    assert found["title"] == "<mark>Amélie’s</mark> <mark>Dreams</mark>"
    assert found["plot"] == "She <mark>dreamed</mark> of Paris."


def test_decomposed_accents_stay_inside_their_word() -> None:
    assert highlights(words("cafe"), {"id": "1", "title": "Cafe\u0301 Noir"}, SCHEMA) == {
        "title": "<mark>Cafe\u0301</mark> Noir"
    }


def test_likely_alternative_spellings_mark_and_unlikely_ones_do_not() -> None:
    options = ((Alternative("lion", 0.9), Alternative("loin", 0.08), Alternative("line", 0.02)),)
    found = highlights(options, {"id": "1", "title": "The Lion on the Line"}, SCHEMA)
    assert found == {"title": "The <mark>Lion</mark> on the Line"}


def test_a_spelling_of_two_words_marks_both() -> None:
    found = highlights(((Alternative("spider man", 0.8),),), {"id": "1", "title": "Spider-Man"}, SCHEMA)
    assert found == {"title": "<mark>Spider</mark>-<mark>Man</mark>"}


def test_small_words_are_marked_in_titles_only() -> None:
    document = {"id": "1", "title": "The King", "plot": "The king of the hill."}
    found = highlights(words("the", "king"), document, SCHEMA)
    assert found == {"title": "<mark>The</mark> <mark>King</mark>", "plot": "The <mark>king</mark> of the hill."}


def test_keyword_fields_show_their_marked_values() -> None:
    document = {"id": "1", "title": "Heat", "actors": ["Al Pacino", "Robert De Niro", "Val Kilmer"], "year": 1995}
    found = highlights(words("pacino", "kilmer", "1995"), document, SCHEMA)
    assert found == {"actors": "Al <mark>Pacino</mark>, Val <mark>Kilmer</mark>"}


def test_a_long_text_gives_the_fragment_with_most_marks() -> None:
    plot = (
        "A shark is seen. " + "Nothing happens for a while. " * 30 + "The shark hunts; a shark bites. " + "Calm. " * 99
    )
    found = highlights(words("shark"), {"id": "1", "title": "Jaws", "plot": plot}, SCHEMA)["plot"]
    assert found.startswith("…")
    assert found.endswith("…")
    assert found.count("<mark>shark</mark>") == 2
    assert len(found) < FRAGMENT_LENGTH + 40
    inside = found.strip("…").replace("<mark>", "").replace("</mark>", "")
    assert f" {inside} " in plot


def test_markup_in_the_catalogue_is_escaped() -> None:
    document = {"id": "1", "title": '<script>alert("toy")</script> & <mark>fake</mark>'}
    found = highlights(words("toy"), document, SCHEMA)["title"]
    assert found == (
        "&lt;script&gt;alert(&quot;<mark>toy</mark>&quot;)&lt;/script&gt; &amp; &lt;mark&gt;fake&lt;/mark&gt;"
    )


def test_an_apostrophe_in_a_marked_word_is_escaped() -> None:
    found = highlights(words("schindlers"), {"id": "1", "title": "Schindler's List"}, SCHEMA)
    assert found == {"title": "<mark>Schindler&#x27;s</mark> List"}


def test_fields_of_an_unexpected_type_are_passed_over() -> None:
    document = {"id": "1", "title": 7, "plot": None, "actors": [1, None, {"a": "toy"}]}
    assert highlights(words("toy"), document, SCHEMA) == {}


TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from("ab <>&\"'/é́ß"), max_size=600)


@given(
    searched=st.lists(st.sampled_from(["a", "b", "ab", "mark", "the"]) | st.text(max_size=8), max_size=5),
    source=TEXT,
    field=st.sampled_from(["title", "plot", "actors"]),
)
def test_without_its_marks_a_highlight_is_a_piece_of_the_source(searched: list[str], source: str, field: str) -> None:
    found = highlights(words(*searched), {"id": "1", field: source}, SCHEMA)
    for name, shown in found.items():
        assert name == field
        assert shown.count("<mark>") == shown.count("</mark>") > 0
        plain = shown.replace("<mark>", "").replace("</mark>", "")
        assert "<" not in plain
        assert ">" not in plain
        body = unescape(plain) if plain.strip("…") else ""
        assert any(body[a : len(body) - b] in source for a in (0, 1) for b in (0, 1) if len(body) > a + b)
