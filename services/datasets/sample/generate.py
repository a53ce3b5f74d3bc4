"""Writes the sample catalogue as a data set folder."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from services.datasets.sample.catalogue import catalogue
from services.datasets.sample.listeners import listening
from services.datasets.sample.questions import questions

SCHEMA = """\
# Roles of the catalogue's fields (as they would be inferred), and words that people use for its values.
title = "title"
popularity = "plays"
rating = "rating"
votes = "votes"
created = "year"

[fields]
type = { role = "keyword", weight = 1.5 }
title = { role = "text", weight = 3 }
artist = { role = "keyword", weight = 1.5 }
album = { role = "keyword", weight = 1.5 }
genres = { role = "keyword", weight = 1.5 }
moods = { role = "keyword", weight = 1.5 }
instruments = { role = "keyword", weight = 1.5 }
hosts = { role = "keyword", weight = 1.5 }
topics = { role = "keyword", weight = 1.5 }
language = { role = "keyword", weight = 1.5 }
year = "number"
plays = "popularity"
rating = "number"
votes = "number"
duration_seconds = "number"
description = { role = "text", weight = 1 }

[synonyms]
"rainy night" = ["Rainy Day"]
"rainy" = ["Rainy Day"]
"breakup" = ["Sad"]
"heartbroken" = ["Sad"]
"relaxing" = ["Calm"]
"chill" = ["Calm", "Lo-Fi"]
"study" = ["Focus"]
"studying" = ["Focus"]
"gym" = ["Workout"]
"running" = ["Workout"]
"sleeping" = ["Sleep"]
"fall asleep" = ["Sleep"]
"driving" = ["Road Trip"]
"upbeat" = ["Happy", "Energetic"]
"spooky" = ["Dark"]
"sax" = ["Saxophone"]
"synths" = ["Synth"]
"synthesizer" = ["Synth"]
"radio" = ["station"]
"lofi" = ["Lo-Fi"]
"rap" = ["Hip Hop"]
"synthwave" = ["Synthpop"]
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """Numbers of items and queries written."""

    items: Mapping[str, int]
    """Items of each type."""
    queries: Mapping[str, int]
    """Queries of each slice."""
    judgements: int
    events: int
    listeners: int


def generate(folder: Path, seed: int = 7) -> Summary:
    """Write catalogue.jsonl.gz, schema.toml, queries.tsv.gz, qrels.tsv.gz and history.tsv.gz into `folder`, which is
    made if absent. The same seed gives the same text everywhere, and the same bytes with the same zlib."""
    folder.mkdir(parents=True, exist_ok=True)
    items = catalogue(seed)
    listeners, history, later = listening(seed, items)
    sample_queries = sorted(questions(seed, items, listeners, later), key=lambda question: question.id)
    _write(folder / "catalogue.jsonl.gz", (json.dumps(item.document, ensure_ascii=False) for item in items))
    (folder / "schema.toml").write_bytes(SCHEMA.encode())
    queries = [(q.id, q.split, q.slice, q.user_id, q.weight, q.text) for q in sample_queries]
    _table(folder / "queries.tsv.gz", ("query_id", "split", "slice", "user_id", "weight", "query"), queries)
    grades = [(q.id, object_id, grade) for q in sample_queries for object_id, grade in sorted(q.grades.items())]
    _table(folder / "qrels.tsv.gz", ("query_id", "doc_id", "grade"), grades)
    events = [(e.user_id, e.object_id, e.action_name, e.timestamp) for e in history]
    _table(folder / "history.tsv.gz", ("user_id", "object_id", "action_name", "timestamp"), events)
    return Summary(
        dict(sorted(Counter(item.type for item in items).items())),
        dict(sorted(Counter(question.slice for question in sample_queries).items())),
        len(grades),
        len(events),
        len(listeners),
    )


def _table(path: Path, names: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    _write(path, ("\t".join(map(str, row)) for row in (names, *rows)))


def _write(path: Path, lines: Iterable[str]) -> None:
    """Write gzip without file name and time, so that equal text gives equal bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    path.write_bytes(packed.getvalue())
