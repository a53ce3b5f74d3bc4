"""Recall for a search, from a real memory and a real item store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from services.backends.base import MemoryChange
from services.backends.sqlite.items import SqliteItems
from services.backends.sqlite.memory import SqliteMemory
from services.memory.keys import memory_key
from services.memory.scores import trust
from services.search.recall import CORRECTED, recall
from services.types import Condition, Deadline, Document, Field, Query, Remembered, Role, Schema
from services.understanding.pipeline import Understander

SCHEMA = Schema(
    (Field("title", Role.TEXT), Field("genres", Role.KEYWORD), Field("year", Role.NUMBER)),
    title="title",
    created="year",
)
FILMS: list[Document] = [
    {"id": "toy4", "title": "Toy Story 4", "genres": ["Animation"], "year": 2019},
    {"id": "pirates", "title": "Pirates of the Caribbean: On Stranger Tides", "genres": ["Adventure"], "year": 2011},
    {"id": "odd", "title": "1995", "genres": [], "year": 2020},
    {"id": "heat", "title": "Heat", "genres": ["Crime", "Thriller"], "year": 1995},
    {"id": "wick", "title": "John Wick", "genres": ["Action", "Thriller"], "year": 2014},
    {"id": "amelie", "title": "Amélie Poulain", "genres": ["Comedy"], "year": 2001},
]


async def recalled(
    folder: Path, taken: Sequence[tuple[str, str]], asked: str, query: Query | None = None, deleted: str = ""
) -> dict[str, Remembered]:
    """Items recalled for the query `asked` after one click on each of `taken` (query, object_id)."""
    memory, items = SqliteMemory(folder / "memory.db", 1e9), SqliteItems(folder / "items.db")
    understander = Understander(SCHEMA)
    understander.add(FILMS)
    try:
        await items.put([film for film in FILMS if film["id"] != deleted])
        changes = [MemoryChange(action=(memory_key(text), object_id, "", 1.0), at=0.0) for text, object_id in taken]
        await memory.apply(changes, 1)
        understanding = understander.understand(asked)
        found = await recall(memory, items, query or Query(asked), understanding, SCHEMA, Deadline.after(5.0))
        assert list(found) == sorted(found, key=lambda entry: -entry.score)
        return {entry.object_id: entry for entry in found}
    finally:
        await memory.close()
        await items.close()


async def test_the_query_itself_is_believed_whatever_the_items_say(tmp_path: Path) -> None:
    found = await recalled(tmp_path, [("keanu dog movie", "wick")], "keanu dog movie")
    assert found["wick"].similarity == 1.0


async def test_neighbours_are_believed_as_far_as_the_items_bear_them_out(tmp_path: Path) -> None:
    taken = [("toy story 4 full movie", "toy4"), ("toy story 4 full movie", "pirates")]
    assert (await recalled(tmp_path, taken, "pirates of the caribbean 4 full movie")).keys() == set()
    near = await recalled(tmp_path / "b", taken, "toy story 4 movie")
    assert near.keys() == {"toy4"}
    assert near["toy4"].similarity < 1.0


async def test_words_are_found_whatever_their_ending(tmp_path: Path) -> None:
    taken = [("toys stories", "toy4"), ("toys stories", "heat")]
    assert (await recalled(tmp_path, taken, "story of two toys")).keys() == {"toy4"}


async def test_words_that_no_item_has_ask_for_nothing(tmp_path: Path) -> None:
    found = await recalled(tmp_path, [("john wick", "wick")], "john wick putlocker")
    assert found.keys() == {"wick"}


async def test_years_and_accents_are_found_in_items(tmp_path: Path) -> None:
    taken = [("amelie poulain 2001", "amelie"), ("amelie poulain 2001", "heat")]
    assert (await recalled(tmp_path, taken, "amelie 2001")).keys() == {"amelie"}


async def test_a_misspelled_query_knows_what_its_correct_spelling_knows(tmp_path: Path) -> None:
    exact = await recalled(tmp_path / "a", [("pirates of the caribbean", "pirates")], "pirates of the caribbean")
    slip = await recalled(tmp_path / "b", [("pirates of the caribbean", "pirates")], "pirates of the carribean")
    assert slip["pirates"].similarity == CORRECTED
    assert slip["pirates"].score == pytest.approx(trust(CORRECTED) * exact["pirates"].score, rel=0.2)
    both = [("pirates of the caribbean", "pirates"), ("pirates of the carribean", "pirates")]
    assert (await recalled(tmp_path / "c", both, "pirates of the carribean"))["pirates"].score > exact["pirates"].score


async def test_the_year_of_an_item_is_held_by_it(tmp_path: Path) -> None:
    taken = [("heat 1995 pacino", "heat"), ("heat 1995 pacino", "wick")]
    assert (await recalled(tmp_path, taken, "heat 1995")).keys() == {"heat"}


async def test_stopwords_are_asked_of_no_item(tmp_path: Path) -> None:
    """Else "to", in all titles but a few, would be most of what the query says."""
    assert (await recalled(tmp_path, [("what to watch heat", "heat")], "on to the heat of it")).keys() == {"heat"}


async def test_numbers_are_looked_for_whole(tmp_path: Path) -> None:
    taken = [("toy story 4 pixar", "toy4"), ("toy story 4 pixar", "wick")]
    assert (await recalled(tmp_path, taken, "toy story 4")).keys() == {"toy4"}
    assert (await recalled(tmp_path / "b", [("john wick 1", "wick")], "john 1 thriller")).keys() == {"wick"}


async def test_what_was_done_for_the_correct_spelling_needs_no_proof(tmp_path: Path) -> None:
    taken = [("pirates of the caribbean", "toy4")]
    assert (await recalled(tmp_path, taken, "pirates of the carribean")).keys() == {"toy4"}


async def test_filters_and_deleted_items(tmp_path: Path) -> None:
    taken = [("thriller", "heat"), ("thriller", "wick")]
    late = Query("thriller", filters=(Condition("year", gte=2000.0),))
    assert (await recalled(tmp_path / "a", taken, "thriller")).keys() == {"heat", "wick"}
    assert (await recalled(tmp_path / "b", taken, "thriller", late)).keys() == {"wick"}
    assert (await recalled(tmp_path / "c", taken, "thriller", deleted="wick")).keys() == {"heat"}
    assert (await recalled(tmp_path / "d", taken, "")).keys() == set()
