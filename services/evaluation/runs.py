"""A run: the ranked results of one system per query, read and written as TREC files (services/datasets/trec.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.datasets import trec

Scored = tuple[str, float]
"""(object_id, score)."""
_SUFFIXES = re.compile(r"(\.(run|trec|txt|tsv))?(\.gz)?$")


@dataclass(frozen=True, slots=True)
class Run:
    """`lists`: query_id -> (object_id, score), distinct items, best first."""

    name: str
    lists: Mapping[str, Sequence[Scored]]

    @classmethod
    def of(cls, name: str, scored: Mapping[str, Iterable[Scored]]) -> Run:
        """A run from lists in any order: sorted by descending score, then ascending object id."""
        return cls(name, {query_id: trec.ordered(found) for query_id, found in scored.items()})

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> Run:
        """A run from a TREC file; by default its name is the file name without suffixes. Raises InvalidRequest, with
        the line number, for a malformed line or an item listed twice."""
        return cls(name or _SUFFIXES.sub("", path.name), trec.read_run(path))

    def write(self, path: Path) -> None:
        """Write a TREC run file, compressed when its name ends in .gz; its tag is the run's name with `_` for white
        space. Raises InvalidRequest when an id cannot be written to such a file."""
        trec.write_run(path, self.lists, re.sub(r"\s+", "_", self.name))

    def ids(self, query_id: str) -> list[str]:
        """Object ids of a query, best first; empty when the run does not have the query."""
        return [object_id for object_id, _ in self.lists.get(query_id, ())]
