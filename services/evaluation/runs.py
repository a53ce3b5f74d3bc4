"""A run: what one system found for each query, in order. Files are TREC's (services/datasets/trec.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.datasets import trec

Scored = tuple[str, float]
"""(object_id, score)."""
_ENDINGS = re.compile(r"(\.(run|trec|txt|tsv))?(\.gz)?$")


@dataclass(frozen=True, slots=True)
class Run:
    """`lists`: query_id -> (object_id, score), each item once, best first."""

    name: str
    lists: Mapping[str, Sequence[Scored]]

    @classmethod
    def of(cls, name: str, scored: Mapping[str, Iterable[Scored]]) -> Run:
        """Lists in any order: by score descending, then object id ascending."""
        return cls(name, {query_id: trec.ordered(found) for query_id, found in scored.items()})

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> Run:
        """A TREC run file; its name is that of the file, without endings. Raises InvalidRequest naming the line that is
        not one, or that lists an item again."""
        return cls(name or _ENDINGS.sub("", path.name), trec.read_run(path))

    def write(self, path: Path) -> None:
        """A TREC run file, compressed when its name ends in .gz; its tag is the run's name, `_` for white space. Raises
        InvalidRequest when an id cannot stand in such a file."""
        trec.write_run(path, self.lists, re.sub(r"\s+", "_", self.name))

    def ids(self, query_id: str) -> list[str]:
        """Best first; none when the run does not have the query."""
        return [object_id for object_id, _ in self.lists.get(query_id, ())]
