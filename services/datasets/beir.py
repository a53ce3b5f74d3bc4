"""BEIR (Thakur et al., arXiv 2104.08663): corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.datasets.folder import DatasetQuery, Judgment, write_folder
from services.datasets.tables import find, number, present, rows
from services.errors import InvalidRequest

_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
_JUDGED = {"query_id": ("query-id", "query_id"), "doc_id": ("corpus-id", "doc_id"), "grade": ("score", "grade")}
_ID = {"_id": ("_id", "id"), "text": ("text",)}


def convert(source: Path, target: Path) -> dict[str, int]:
    """Write the data set folder `target` from the files in `source`; rows written by file. Queries that nobody judged
    are left out. Raises InvalidRequest."""
    tables = {path: split for name, split in _SPLITS.items() for path in (source / "qrels").glob(f"{name}.tsv*")}
    if not tables:
        raise InvalidRequest(f"{source} has no qrels/train.tsv, qrels/dev.tsv or qrels/test.tsv")
    judged: dict[str, str] = {}
    judgments: list[Judgment] = []
    for path, split in tables.items():
        for row in rows(path, _JUDGED):
            grade = number(row["grade"])
            if grade is not None:
                judged[str(row["query_id"])] = split
                judgments.append(Judgment(str(row["query_id"]), str(row["doc_id"]), float(grade)))
    corpus, asked = find(source, "corpus"), find(source, "queries")
    return write_folder(target, (_document(row) for row in rows(corpus, _ID)), _queries(asked, judged), judgments)


def _queries(path: Path, judged: dict[str, str]) -> Iterator[DatasetQuery]:
    for row in rows(path, _ID):
        if str(row["_id"]) in judged:
            yield DatasetQuery(str(row["_id"]), judged[str(row["_id"])], str(row["text"]))


def _document(row: dict[str, Any]) -> dict[str, Any]:
    """What `metadata` holds becomes fields of their own."""
    extra = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    return present({"id": str(row["_id"]), "title": row.get("title"), "text": row["text"], **(extra or {})})
