"""The embedded lexical index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backends.base import IndexQuery, LexicalIndex
from services.backends.lexical_rules import MAX_TERM_BYTES, prefix_key, starts, trigrams
from services.backends.tantivy.index import TantivyIndex
from services.backends.tantivy.layout import weight_value
from services.errors import StorageFailed
from services.types import Condition, Field, Role, Schema, Sort
from tests.contracts.lexical_index import FILMS, SCHEMA, LexicalIndexContract, ids, soon, words


class TestTantivyIndex(LexicalIndexContract):
    def open(self, folder: Path, schema: Schema) -> LexicalIndex:
        return TantivyIndex.open(folder, schema)


async def indexed(folder: Path) -> None:
    index = TantivyIndex(folder, SCHEMA)
    assert index.needs_rebuild
    await index.rebuild(SCHEMA, FILMS)
    assert not index.needs_rebuild
    await index.close()


async def needs_rebuild(folder: Path, schema: Schema = SCHEMA) -> bool:
    index = TantivyIndex(folder, schema)
    try:
        return index.needs_rebuild
    finally:
        await index.close()


async def test_it_is_still_there_after_a_restart(tmp_path: Path) -> None:
    await indexed(tmp_path)
    index = TantivyIndex(tmp_path, SCHEMA)
    assert not index.needs_rebuild
    found = await index.search(IndexQuery(text=words("knight")), soon())
    await index.close()
    assert found.total == 4


async def test_another_schema_means_building_anew_other_synonyms_do_not(tmp_path: Path) -> None:
    await indexed(tmp_path)
    assert not await needs_rebuild(tmp_path, replace(SCHEMA, synonyms={"scary": ("Horror",)}))
    assert await needs_rebuild(tmp_path, replace(SCHEMA, fields=(*SCHEMA.fields, Field("more", Role.KEYWORD))))
    assert not await needs_rebuild(tmp_path)


@pytest.mark.parametrize("suffix", ["meta.json", ".term", ".idx", ".fast", ".store", "CURRENT", "schema.json"])
async def test_a_file_cut_in_half_means_building_anew(tmp_path: Path, suffix: str) -> None:
    await indexed(tmp_path)
    victim = next(path for path in sorted(tmp_path.rglob("*")) if path.name.endswith(suffix))
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    assert await needs_rebuild(tmp_path)
    await indexed(tmp_path)
    assert not await needs_rebuild(tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


async def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    first = TantivyIndex(tmp_path, SCHEMA)
    await first.rebuild(SCHEMA, FILMS)
    with pytest.raises(StorageFailed, match="in use"):
        TantivyIndex(tmp_path, SCHEMA)
    assert (await first.search(IndexQuery(), soon())).total == len(FILMS)
    await first.close()


async def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    index = TantivyIndex(tmp_path, SCHEMA)
    await index.rebuild(SCHEMA, FILMS)
    with pytest.raises(KeyError):
        await index.apply([{"id": "new", "title": "Memento"}, {"title": "no id"}], ["f1"])
    await index.apply([], [])  # would bring along what the failed one left behind
    found = await index.search(IndexQuery(text=words("memento knight")), soon())
    await index.close()
    assert set(ids(found)) == {"f1", "f2", "f3", "f7", "f8"}


async def test_closed(tmp_path: Path) -> None:
    index = TantivyIndex(tmp_path, SCHEMA)
    await index.close()
    await index.close()
    with pytest.raises(StorageFailed):
        await index.search(IndexQuery(), soon())
    with pytest.raises(StorageFailed):
        await index.apply([], [])


async def test_very_long_and_broken_values(tmp_path: Path) -> None:
    long, broken = "x" * (MAX_TERM_BYTES * 70), "lone \ud800 surrogate"
    items = [
        {"id": "a", "title": long, "genres": [long, "short"], "year": 10**400},
        {"id": "b", "title": broken, "genres": [broken], "year": float("nan")},
        {"id": "\ud800", "title": None, "genres": {"no": "list"}, "year": "1999", "plot": ["one", ["two"]]},
    ]
    index = TantivyIndex(tmp_path, SCHEMA)
    await index.rebuild(SCHEMA, items)
    for value, expected in ((long, ["a"]), (broken, ["b"]), (long + "x", [])):
        asked = IndexQuery(filters=(Condition("genres", any_of=(value,)),), sort=Sort("genres"))
        assert ids(await index.search(asked, soon())) == expected
    found = await index.search(IndexQuery(facets=("genres", "year")), soon())
    assert found.total == 3
    assert "short" in {facet.value for facet in found.facets["genres"]}
    assert found.facets["year"] == ()
    await index.apply([], ["\ud800"])
    assert (await index.search(IndexQuery(), soon())).total == 2
    await index.close()


def test_trigrams_know_where_words_begin() -> None:
    assert trigrams("An Ox") == [" an", "an ", "n o", " ox", "ox "]
    assert trigrams("!") == []


def test_starts_of_every_word() -> None:
    assert set(starts(["ab", "c"])) == {"a", "ab", "ab ", "ab c", "ab c ", "c", "c "}


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_a_prefix_key_never_raises(prefix: str) -> None:
    assert prefix_key(prefix) == prefix_key(prefix).lstrip()


def test_a_space_at_the_end_completes_the_word() -> None:
    assert prefix_key("Dark") == "dark"
    assert prefix_key("Dark  ") == "dark "


def test_weight_values_turn_into_factors() -> None:
    assert weight_value(1.0) == 0.0
    assert weight_value(2.0) == pytest.approx(2.0)
