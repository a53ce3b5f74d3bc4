"""The sample catalogue: the same every time, whole, judged, and understood by schema inference."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from services.datasets.sample.artists import discographies
from services.datasets.sample.draws import Draws
from services.datasets.sample.generate import Summary, generate
from services.schema.schema import check, infer, load_schema
from services.types import Role

FILES = ("catalogue.jsonl.gz", "history.tsv.gz", "qrels.tsv.gz", "queries.tsv.gz", "schema.toml")
COMMON = {"id", "type", "title", "genres", "moods", "instruments", "year", "language", "plays", "rating", "votes"}
FAMOUS = """
adele|abba|aretha franklin|beyonce|billie eilish|bob dylan|bob marley|bruce springsteen|coldplay|daft punk|david bowie
depeche mode|drake|dua lipa|ed sheeran|elton john|elvis presley|eminem|fleetwood mac|frank sinatra|joni mitchell
kanye west|kate bush|kendrick lamar|lady gaga|led zeppelin|leonard cohen|madonna|metallica|michael jackson|miles davis
nina simone|nirvana|pink floyd|prince|queen|radiohead|rihanna|stevie wonder|taylor swift|the beatles|the cure|the doors
the rolling stones|the who|the smiths|the clash|the weeknd|u2|whitney houston|arctic monkeys|john coltrane|kraftwerk
"""


def rows(path: Path) -> list[dict[str, str]]:
    names, *lines = [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    return [dict(zip(names, line, strict=True)) for line in lines]


class Sample:
    def __init__(self, folder: Path, summary: Summary) -> None:
        self.folder = folder
        self.summary = summary
        lines = gzip.decompress((folder / "catalogue.jsonl.gz").read_bytes()).splitlines()
        self.items: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.queries = rows(folder / "queries.tsv.gz")
        self.history = rows(folder / "history.tsv.gz")
        self.grades: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for row in rows(folder / "qrels.tsv.gz"):
            self.grades[row["query_id"]][row["doc_id"]] = int(row["grade"])

    def asked(self, text: str) -> dict[str, int]:
        """Grades of a query by its text."""
        return self.grades[next(q["query_id"] for q in self.queries if q["query"] == text and not q["user_id"])]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("sample") / "made"
    return Sample(folder, generate(folder))


def test_the_same_seed_gives_the_same_bytes(sample: Sample, tmp_path: Path) -> None:
    generate(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == list(FILES)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (sample.folder / name).read_bytes(), name


def test_another_seed_gives_other_artists(sample: Sample) -> None:
    artists = {item["title"] for item in sample.items if item["type"] == "artist"}
    others = {item.title for item in discographies(Draws(8, 1)) if item.type == "artist"}
    assert len(others) == len(artists)
    assert len(others & artists) < 300


def test_draws_are_those_of_the_one_generator_that_never_changes() -> None:
    draws = Draws(7, 1)
    assert [draws.below(1000) for _ in range(4)] == [117, 320, 658, 371]
    assert sorted(draws.sample("abcde", 9)) == list("abcde")
    met = Counter(draws.weighted("ab", (9, 1)) for _ in range(2_000))
    assert met["a"] == pytest.approx(1_800, abs=60)
    tails = [draws.tail(50) for _ in range(2_000)]
    assert 1 <= min(tails) < 1.1
    assert 20 < max(tails) <= 50


def test_counts_are_those_of_the_summary(sample: Sample) -> None:
    assert Counter(item["type"] for item in sample.items) == sample.summary.items
    assert Counter(query["slice"] for query in sample.queries) == sample.summary.queries
    assert len(sample.history) == sample.summary.events
    assert sum(map(len, sample.grades.values())) == sample.summary.judgements
    assert len({event["user_id"] for event in sample.history}) == sample.summary.listeners == 250
    assert {"artist": 400, "playlist": 400, "station": 150, "podcast": 300}.items() <= sample.summary.items.items()
    assert 2_800 < sample.summary.items["track"] < 3_500
    assert 600 < sample.summary.items["album"] < 850
    assert 11_000 < len(sample.history) < 13_000
    assert 550 < len(sample.queries) < 750


def test_every_item_is_whole(sample: Sample) -> None:
    schema = load_schema(sample.folder / "schema.toml")
    assert len({item["id"] for item in sample.items}) == len(sample.items)
    for item in sample.items:
        assert check(schema, item) == item
        assert item.keys() >= COMMON
        assert item["id"].startswith(f"{item['type']}-")
        assert item["title"] == item["title"].strip() != ""
        assert item["genres"]
        assert item["moods"]
        assert item["instruments"]
        assert 1955 <= item["year"] <= 2026
        assert 1 <= item["rating"] <= 5
        assert item["description"][0].isupper() or item["description"][0].isdigit()
        assert item["description"].endswith((".", "?"))
        assert "{" not in item["description"] + item["title"]
        assert ("duration_seconds" in item) == (item["type"] == "track")
        assert {"hosts", "topics"} <= item.keys() or item["type"] != "podcast"
    plays = sorted((item["plays"] for item in sample.items), reverse=True)
    assert sum(plays[: len(plays) // 10]) > 0.4 * sum(plays)


def test_links_lead_to_an_item(sample: Sample) -> None:
    artists = [item["title"] for item in sample.items if item["type"] == "artist"]
    albums = [(item["artist"], item["title"]) for item in sample.items if item["type"] == "album"]
    assert len(set(artists)) == len(artists)
    assert len(set(albums)) == len(albums)
    assert {item["artist"] for item in sample.items if "artist" in item} <= set(artists)
    assert {(item["artist"], item["album"]) for item in sample.items if "album" in item} <= set(albums)
    assert all("album" in item for item in sample.items if item["type"] == "track")
    tracks = [(i["artist"], i["title"]) for i in sample.items if i["type"] == "track" and "(Live)" not in i["title"]]
    assert len(set(tracks)) == len(tracks)


def test_titles_make_search_interesting(sample: Sample) -> None:
    titles = defaultdict(list)
    for item in sample.items:
        titles[item["title"]].append(item)
    tracks = [item for item in sample.items if item["type"] == "track"]
    artists = {item["title"] for item in sample.items if item["type"] == "artist"}
    assert len({item["artist"] for item in titles["Love"] if item["type"] == "track"}) >= 5
    assert {"Rainy Night Songs", "Love Songs for Grown-Ups", "Piano for Sad Days", "80s Synth Nights"} <= titles.keys()
    assert "Love Arcade Ensemble" in artists
    assert len({item["title"] for item in tracks} & artists) >= 5
    for ending in ("(Live)", "(Acoustic)", "(Remix)", "(Part 2)"):
        assert any(item["title"].endswith(ending) for item in tracks), ending
    assert any(title.endswith(", Volume 2") for title in titles)


def test_nobody_famous(sample: Sample) -> None:
    famous = set(FAMOUS.strip().replace("\n", "|").split("|"))
    for item in sample.items:
        people = [item.get("artist", ""), *item.get("hosts", ())]
        assert famous.isdisjoint(name.casefold() for name in people), item


def test_inference_finds_the_roles_of_the_schema_file(sample: Sample) -> None:
    inferred, given = infer(sample.items), load_schema(sample.folder / "schema.toml")
    roles = {field.name: (field.role, field.weight) for field in inferred.fields if field.name != "id"}
    assert roles == {field.name: (field.role, field.weight) for field in given.fields}
    for name in ("title", "popularity", "rating", "votes", "created"):
        assert getattr(inferred, name) == getattr(given, name) is not None, name
    values = {value.casefold() for f in given.of(Role.KEYWORD) for i in sample.items for value in _values(i, f.name)}
    assert all(any(value.casefold() in values for value in meant) for meant in given.synonyms.values())


def _values(item: dict[str, Any], name: str) -> list[str]:
    held = item.get(name, [])
    return held if isinstance(held, list) else [held]


def test_history_is_sorted_and_of_items(sample: Sample) -> None:
    ids = {item["id"] for item in sample.items}
    times = [int(event["timestamp"]) for event in sample.history]
    assert times == sorted(times)
    assert 1_767_225_600 <= times[0] < times[-1] < 1_798_761_600
    assert {event["object_id"] for event in sample.history} <= ids
    actions = Counter(event["action_name"] for event in sample.history)
    assert set(actions) == {"play", "like", "dislike", "purchase"}
    assert actions["play"] > actions["like"] > actions["dislike"] > actions["purchase"] > 50


def test_listeners_have_tastes(sample: Sample) -> None:
    genres = {item["id"]: item["genres"] for item in sample.items}
    heard: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for event in sample.history:
        heard[event["user_id"]].update(genres[event["object_id"]][:1])
    shares = [sum(n for _, n in c.most_common(3)) / c.total() for c in heard.values()]
    assert sum(shares) / len(shares) > 0.6
    assert len({c.most_common(1)[0][0] for c in heard.values()}) > 15


def test_every_query_is_judged(sample: Sample) -> None:
    ids = {item["id"] for item in sample.items}
    assert len({query["query_id"] for query in sample.queries}) == len(sample.queries)
    assert sample.grades.keys() == {query["query_id"] for query in sample.queries}
    for query in sample.queries:
        grades = sample.grades[query["query_id"]]
        assert grades.keys() <= ids
        assert set(grades.values()) <= {0, 1, 2}
        assert 2 in grades.values(), query
        assert (query["user_id"] != "") == (query["slice"] == "personal")
        assert float(query["weight"]) >= 1


def test_splits_share_no_text(sample: Sample) -> None:
    splits = defaultdict(set)
    for query in sample.queries:
        splits[query["query"]].add(query["split"])
    assert all(len(found) == 1 for found in splits.values())
    counts = Counter((query["slice"], query["split"]) for query in sample.queries)
    assert len(counts) == 15
    assert min(counts.values()) >= 10


def test_grades_follow_from_how_it_was_made(sample: Sample) -> None:
    items = {item["id"]: item for item in sample.items}

    def best(text: str) -> list[dict[str, Any]]:
        return [items[object_id] for object_id, grade in sample.asked(text).items() if grade == 2]

    assert all(i["type"] == "podcast" and "Jazz" in i["genres"] for i in best("jazz podcasts"))
    assert all(1980 <= i["year"] <= 1989 and "Synth" in i["instruments"] for i in best("80s synth"))
    assert all("Sad" in i["moods"] and "Piano" in i["instruments"] for i in best("sad piano"))
    assert {i["type"] for i in best("love") if i["title"] == "Love"} >= {"track", "album"}
    for query in sample.queries:
        if query["slice"] == "typo":
            assert sample.grades[query["query_id"]] in [
                sample.grades[q["query_id"]] for q in sample.queries if q["slice"] == "title"
            ]


def test_personal_grades_are_not_in_the_history(sample: Sample) -> None:
    """Events that judge a listener's query happen after the history ends: they have to be predicted, not looked up."""
    genres = {item["id"]: item["genres"] for item in sample.items}
    known = {(event["user_id"], event["object_id"]) for event in sample.history}
    new = total = 0
    for query in (query for query in sample.queries if query["slice"] == "personal"):
        judged = sample.grades[query["query_id"]]
        assert set.intersection(*(set(genres[object_id]) for object_id in judged))
        total += len(judged)
        new += sum((query["user_id"], object_id) not in known for object_id in judged)
    assert new > 0.5 * total
