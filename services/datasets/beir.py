"""BEIR (Thakur et al., arXiv 2104.08663): corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.datasets.convert import Conversion, Summary
from services.datasets.folder import DatasetQuery, Judgment, Position
from services.datasets.splits import TEST, TRAIN, VALIDATION, part_of_train
from services.datasets.tables import find, number, present
from services.errors import InvalidRequest

_SPLITS = {"train": TRAIN, "dev": VALIDATION, "test": TEST}
"""BEIR's splits in order: a query in two of them belongs to the later one, so that no test query is trained on."""
_JUDGEMENT_COLUMNS = {
    "query_id": ("query-id", "query_id"),
    "doc_id": ("corpus-id", "doc_id"),
    "grade": ("score", "grade"),
}
_ID_COLUMNS = {"_id": ("_id", "id"), "text": ("text",)}


def convert(source: Path, target: Path) -> Summary:
    """Write the data set folder `target` from the files in `source`. Queries without judgements are left out; where
    there are training queries but no dev ones, a tenth of them becomes validation. Grades below 0 count as 0. Raises
    InvalidRequest."""
    conversion = Conversion(target)
    tables = {
        path: split
        for name, split in _SPLITS.items()
        for path in (source / "qrels" / f"{name}.tsv", source / "qrels" / f"{name}.tsv.gz")
        if path.is_file()
    }
    if not tables:
        raise InvalidRequest(f"{source} has no qrels/train.tsv, qrels/dev.tsv or qrels/test.tsv")
    splits: dict[str, str] = {}
    judged: list[tuple[Position, Judgment]] = []
    for path, split in tables.items():
        for position, row in conversion.rows(path, _JUDGEMENT_COLUMNS):
            grade = number(row["grade"])
            if grade is None:
                conversion.skip(position, f"score {row['grade']!r} is not a number")
                continue
            query_id = str(row["query_id"])
            splits[query_id] = part_of_train(query_id) if split == TRAIN and _no_dev(tables) else split
            judged.append((position, Judgment(query_id, str(row["doc_id"]), max(float(grade), 0.0))))
    queries = {
        str(row["_id"]): DatasetQuery(str(row["_id"]), splits[str(row["_id"])], str(row["text"]))
        for _, row in conversion.rows(find(source, "queries"), _ID_COLUMNS)
        if str(row["_id"]) in splits
    }
    corpus = conversion.rows(find(source, "corpus"), {"_id": _ID_COLUMNS["_id"]})
    return conversion.write(((position, _document(row)) for position, row in corpus), list(queries.values()), judged)


def _no_dev(tables: dict[Path, str]) -> bool:
    return VALIDATION not in tables.values()


def _document(row: dict[str, Any]) -> dict[str, Any]:
    """The item of a row; the entries of `metadata` become fields."""
    metadata = row.get("metadata")
    extra = metadata if isinstance(metadata, dict) else {}
    return present({**extra, "id": str(row["_id"]), "title": row.get("title"), "text": row.get("text")})
