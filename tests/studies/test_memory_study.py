"""The study of the memory's value: the simulation behind the table, on a tiny data set folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.studies.memory import (
    ASKED_BEFORE,
    ASKED_OTHERWISE,
    CLICKS,
    MEASURES,
    NEVER_ASKED,
    NO_MEMORY,
    PREDICTED,
    ROWS,
    Group,
    RankInversions,
    figures,
    main,
    split,
    write,
)
from services.datasets.folder import DatasetQuery, Judgment, write_folder
from services.memory.keys import memory_key

WORDS = ("river", "winter", "lantern", "harbour", "garden", "signal")
BANDS = tuple(
    f"{a}{b}" for a in ("bar", "lor", "min", "tov", "zel", "kip") for b in ("dax", "fen", "gul", "hob", "jut")
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every query is for one song: its name, and "song", which no song holds. Test is about other songs."""
    songs = [
        {"id": f"{band}{n}", "title": f"{band.title()} {word}", "artist": f"{band.title()} Band", "sold": n}
        for band in BANDS
        for n, word in enumerate(WORDS)
    ]
    queries, judgments = [], []
    for split_name, numbers in (("train", range(4)), ("validation", (4,)), ("test", (5,))):
        for band in BANDS:
            for n in numbers:
                query_id = f"{split_name}-{band}-{n}"
                queries.append(DatasetQuery(query_id, split_name, f"{WORDS[n]} song {band}", "title"))
                judgments.append(Judgment(query_id, f"{band}{n}", 2.0))
    folder = tmp_path_factory.mktemp("data") / "songs"
    write_folder(folder, songs, queries, judgments)
    return folder


def test_the_whole_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    main(["--data", str(data), "--impressions", "600", "--seeds", "1,2", "--out", str(out)])
    results = json.loads((out / "results.json").read_text())
    assert results["asked"] == {"data": "songs", "impressions": 600, "seeds": [1, 2], "every": 1, "split": "test"}
    groups = {name: parts["all"] for name, parts in results["groups"].items()}
    assert {name: part["queries"] for name, part in groups.items()} == {
        ASKED_BEFORE: 90,
        ASKED_OTHERWISE: 30,
        NEVER_ASKED: 30,
    }
    seen, never = groups[ASKED_BEFORE]["rows"], groups[NEVER_ASKED]["rows"]
    assert list(seen) == list(ROWS)
    assert seen[CLICKS]["memory"]["mean"] > 0.8
    assert seen[CLICKS]["found"]["mean"] == 1.0
    assert seen[NO_MEMORY]["found"]["mean"] == seen[NO_MEMORY]["gain"]["mean"] == 0.0
    assert never[CLICKS]["memory"]["mean"] == 0.0
    assert never[PREDICTED]["memory"]["mean"] > 0.5
    table = (out / "table.md").read_text()
    assert table == capsys.readouterr().out.removesuffix("\n")
    assert f"## {NEVER_ASKED} (30 queries)" in table
    assert "have the predicted one first" in table
    assert (out / "results.svg").read_text().startswith("<?xml")
    assert not (out / "work").exists()


def test_no_query_is_on_both_sides_in_other_words() -> None:
    queries = [DatasetQuery(str(n), "train", text) for n, text in enumerate(("a b", "c", "B a", "d", "e"))]
    known, otherwise = split(queries, 4)
    assert [query.query_id for query in known] == ["1", "3"]
    assert [query.query_id for query in otherwise] == ["0", "2", "4"]
    assert not {memory_key(q.text) for q in known} & {memory_key(q.text) for q in otherwise}


def reached(value: float) -> dict[str, np.ndarray]:
    return {row: np.full((1, len(MEASURES)), value * place) for place, row in enumerate(ROWS)}


def test_a_query_of_several_runs_counts_once_with_its_mean() -> None:
    one, two = (DatasetQuery(name, "test", name) for name in ("one", "two"))
    groups = [Group([one], reached(0.1)), Group([one], reached(0.3)), Group([two], reached(0.0))]
    count, found = figures(groups)
    assert count == 2
    assert found[ROWS[1]]["gain"].mean == pytest.approx((0.2 + 0.0) / 2)


def test_pairs_that_are_drowned_are_told(tmp_path: Path) -> None:
    group = Group([DatasetQuery("one", "test", "one")], reached(0.1))
    asked = {"data": "songs", "impressions": 1, "seeds": (1,), "every": 1, "split": "test"}
    write([({ASKED_BEFORE: group}, {})], RankInversions(200, 3), tmp_path, asked)
    assert "Of 200 pairs" in (tmp_path / "table.md").read_text()
    assert "1.5% have" in (tmp_path / "table.md").read_text()
