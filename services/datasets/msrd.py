"""MSRD (Movie Search Ranking Dataset, Metarank Labs, CC-BY-SA 4.0): a table of films and one of judged queries, in the
form of its repository (movies, queries) or of the copies that search vendors use (movies-corpus, movies-judgments).

The repository describes the columns of the films only; for the judgements, the names in JUDGEMENT_COLUMNS are accepted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.datasets.convert import Conversion, Summary
from services.datasets.folder import Judgment
from services.datasets.splits import split
from services.datasets.tables import find, number, present
from services.errors import InvalidRequest

JUDGEMENT_COLUMNS = {
    "query": ("query",),
    "doc_id": ("doc_id", "movie_id", "movie", "item", "item_id", "tmdb_id", "id"),
    "grade": ("grade", "label", "relevance", "relevant"),
}
_ID_COLUMNS = ("id", "movie_id", "tmdb_id", "tmdbId", "doc_id", "_id")
_LIST_COLUMNS = ("tags", "genres", "actors", "characters")
_NUMBER_COLUMNS = ("year", "votes", "rating", "popularity", "budget")


def convert(source: Path, target: Path) -> Summary:
    """Write the data set folder `target` from the files in `source`. A film that was judged several times for one query
    is relevant when most judgements say so. Raises InvalidRequest."""
    conversion = Conversion(target)
    films = find(source, "movies", "movies-corpus", "movies_corpus")
    judged = find(source, "queries", "judgments", "movies-judgments", "movies_judgments")
    queries: dict[str, str] = {}
    ids: dict[str, str] = {}
    votes: dict[str, dict[str, list[float]]] = {}
    for position, row in conversion.rows(judged, JUDGEMENT_COLUMNS):
        text, grade = str(row["query"]).strip(), number(row["grade"])
        if not text or grade is None:
            conversion.skip(position, f"grade {row['grade']!r} is not a number" if text else "no query")
            continue
        given = row.get("query_id") or row.get("qid")
        query_id = ids.setdefault(text, str(given) if given else f"q{len(ids)}")
        queries[query_id] = text
        votes.setdefault(query_id, {}).setdefault(str(row["doc_id"]), []).append(float(grade))
    if not queries:
        raise InvalidRequest(f"{judged} has no judged query")
    judgments = {q: {d: float(round(sum(g) / len(g))) for d, g in docs.items()} for q, docs in votes.items()}
    return conversion.write(
        ((position, _film(row)) for position, row in conversion.rows(films, {"id": _ID_COLUMNS, "title": ("title",)})),
        split(queries, judgments),
        (
            ((judged.name, 0), Judgment(q, d, grade))  # of several lines
            for q, docs in judgments.items()
            for d, grade in docs.items()
        ),
    )


def _film(row: dict[str, Any]) -> dict[str, Any]:
    film = {name: value for name, value in row.items() if name not in _ID_COLUMNS}
    for name in _LIST_COLUMNS:
        if isinstance(film.get(name), str):
            separator = "|" if "|" in film[name] else ","
            film[name] = [entry.strip() for entry in film[name].split(separator) if entry.strip()]
    for name in _NUMBER_COLUMNS:
        if name in film:
            film[name] = number(film[name])
    return {"id": str(row["id"]), **present(film)}
