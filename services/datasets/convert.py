"""Shared parts of converters: reading the tables of a source, skipping invalid rows, and writing the folder."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.datasets.folder import (
    CATALOGUE,
    MAX_PROBLEMS,
    QRELS,
    DatasetQuery,
    Judgment,
    Position,
    Problem,
    write_folder,
)
from services.datasets.tables import rows
from services.errors import InvalidRequest
from services.types import Document


@dataclass(slots=True)
class Summary:
    """Numbers of rows that a conversion wrote and skipped."""

    items: int = 0
    judgements: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    """Queries by split."""
    skipped: int = 0
    """Lines of the source that could not be used."""
    problems: list[Problem] = field(default_factory=list)
    """The first thousand skipped lines."""

    @property
    def queries(self) -> int:
        """Number of queries written."""
        return sum(self.splits.values())


class Conversion:
    """One run of a converter into `target`, which must not hold anything yet. Raises InvalidRequest if it does."""

    def __init__(self, target: Path) -> None:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InvalidRequest(f"{target} is there already; name a folder that is empty or does not exist")
        self._target = target
        self._summary = Summary()

    def rows(self, path: Path, columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[Position, dict[str, Any]]]:
        """Rows of a table as returned by `tables.rows`, each with its position; invalid rows, and those without a value
        in one of `columns`, are skipped."""
        for line, row in rows(path, columns):
            if isinstance(row, str):
                self.skip((path.name, line), row)
            elif empty := [name for name in columns if row[name] is None or row[name] == ""]:
                self.skip((path.name, line), f"no {' and no '.join(empty)}")
            else:
                yield (path.name, line), row

    def skip(self, position: Position, detail: str) -> None:
        """Record a line that cannot be used, and the reason."""
        self._summary.skipped += 1
        if len(self._summary.problems) < MAX_PROBLEMS:
            self._summary.problems.append(Problem(*position, detail))

    def write(
        self,
        documents: Iterable[tuple[Position, Document]],
        queries: Sequence[DatasetQuery],
        judgements: Iterable[tuple[Position, Judgment]],
    ) -> Summary:
        """Write the folder; of several items with one id the first counts. The target appears only when it is
        complete."""
        summary = self._summary
        self._target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".converting-", dir=self._target.parent) as scratch:
            written = Path(scratch) / "folder"
            counts = write_folder(
                written, self._first(documents), queries, self._known(judgements, {q.query_id for q in queries})
            )
            if self._target.exists():
                self._target.rmdir()
            written.rename(self._target)
        summary.items, summary.judgements = counts[CATALOGUE], counts.get(QRELS, 0)
        summary.splits = dict(Counter(query.split for query in queries))
        return summary

    def _first(self, documents: Iterable[tuple[Position, Document]]) -> Iterator[Document]:
        seen: set[str] = set()
        for position, document in documents:
            if document["id"] in seen:
                self.skip(position, f"item {document['id']!r} again")
            else:
                seen.add(document["id"])
                yield document

    def _known(self, judgements: Iterable[tuple[Position, Judgment]], queries: set[str]) -> Iterator[Judgment]:
        for position, judgement in judgements:
            if judgement.query_id in queries:
                yield judgement
            else:
                self.skip(position, f"judgement of query {judgement.query_id!r}, which is not there")
