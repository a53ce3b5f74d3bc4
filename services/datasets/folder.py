"""A data set folder: catalogue.jsonl, optional schema.toml, queries.tsv, qrels.tsv, history.tsv; each also as .gz.

Tables are UTF-8, tab separated, with a header line. A line that cannot be read is skipped and reported by its number.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import orjson

from services.errors import InvalidRequest
from services.ndjson import MAX_LINE_BYTES, Line, read
from services.schema.schema import load_schema
from services.types import Document, Schema

CATALOGUE = "catalogue.jsonl"
SCHEMA = "schema.toml"
QUERIES = "queries.tsv"
QRELS = "qrels.tsv"
HISTORY = "history.tsv"
CONTENTS = (
    f"a data set folder holds {CATALOGUE} (one JSON object a line, with an id) and, to learn and to measure, {QUERIES} "
    f"(columns query_id, split, query) and {QRELS} (query_id, doc_id, grade); each may end in .gz"
)
MAX_PROBLEMS = 1000
_SUFFIXES = ("", ".gz")
_LINE_BREAKS = str.maketrans("\t\r\n", "   ")


@dataclass(frozen=True, slots=True)
class DatasetQuery:
    """One row of queries.tsv."""

    query_id: str
    split: str
    """train | validation | test, or a name of the data's own"""
    text: str
    slice: str = ""
    """Kind of query, where a data set has several."""
    user_id: str | None = None
    weight: float = 1.0
    """Relative frequency in traffic."""


@dataclass(frozen=True, slots=True)
class Judgment:
    """One row of qrels.tsv: how relevant an item is to a query."""

    query_id: str
    object_id: str
    grade: float
    """0: not relevant; larger is better."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One row of history.tsv."""

    user_id: str
    object_id: str
    action_name: str
    timestamp: float
    """Unix seconds."""


Position = tuple[str, int]
"""(file name, line number from 1)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that was skipped, and why."""

    file: str
    line: int
    detail: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.detail}"


@dataclass(slots=True)
class Dataset:
    """A data set folder being read. `problems`: the lines skipped so far (the first thousand)."""

    catalogue: Path
    folder: Path | None
    schema: Schema | None = None
    """The schema in the folder's schema.toml, if any."""
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """The folder `path`, or a catalogue alone when it is a file. Raises InvalidRequest when there is no catalogue,
        SettingsInvalid when the schema is invalid."""
        if path.is_file():
            return cls(path, None)
        if not path.is_dir():
            raise InvalidRequest(f"{path} does not exist; {CONTENTS}")
        schema = path / SCHEMA
        return cls(_file(path, CATALOGUE), path, load_schema(schema) if schema.exists() else None)

    def documents(self) -> Iterator[Document]:
        """The catalogue's items that are JSON objects with an id, which becomes a string."""
        name = self.catalogue.name
        for line in catalogue_lines(self.catalogue):
            value = line.value
            if line.problem is not None:
                self._note((name, line.number), line.problem)
            elif not isinstance(value, dict) or not is_id(value.get("id")):
                self._note((name, line.number), "not a JSON object with an id")
            else:
                value["id"] = str(value["id"])
                yield value

    def has(self, name: str) -> bool:
        """Whether the folder has the table `name` (QUERIES, QRELS, HISTORY), plain or compressed."""
        return self.folder is not None and any((self.folder / f"{name}{end}").is_file() for end in _SUFFIXES)

    @property
    def is_judged(self) -> bool:
        """Whether the folder has queries and judgments of them."""
        return self.has(QUERIES) and self.has(QRELS)

    def queries(self, split: str | None = None) -> Iterator[DatasetQuery]:
        """The queries, of one `split` or all. Raises InvalidRequest when the table or a column (query_id, split, query)
        is missing."""
        for position, row in self._rows(QUERIES, ("query_id", "split", "query")):
            if split is not None and row["split"] != split:
                continue
            weight = number(row.get("weight") or "1")
            if weight is None or weight < 0:
                self._note(position, f"weight {row['weight']!r} is not a number from 0")
                continue
            yield DatasetQuery(
                query_id=row["query_id"],
                split=row["split"],
                text=row["query"],
                slice=row.get("slice") or "",
                user_id=row.get("user_id") or None,
                weight=weight,
            )

    def qrels(self) -> Iterator[Judgment]:
        """The judgements. Raises InvalidRequest when the table or a column (query_id, doc_id, grade) is missing."""
        for position, row in self._rows(QRELS, ("query_id", "doc_id", "grade")):
            grade = number(row["grade"])
            if grade is None:
                self._note(position, f"grade {row['grade']!r} is not a number")
            else:
                yield Judgment(row["query_id"], row["doc_id"], grade)

    def judgments(self) -> dict[str, dict[str, float]]:
        """query_id -> object_id -> grade; of several grades for one pair the last counts."""
        found: dict[str, dict[str, float]] = {}
        for judgment in self.qrels():
            found.setdefault(judgment.query_id, {})[judgment.object_id] = judgment.grade
        return found

    def history(self) -> Iterator[HistoryEvent]:
        """Past events in the order of the file; none when there is no history.tsv. Raises InvalidRequest when a column
        is missing."""
        if not self.has(HISTORY):
            return
        for position, row in self._rows(HISTORY, ("user_id", "object_id", "action_name", "timestamp")):
            timestamp = number(row["timestamp"])
            if timestamp is None:
                self._note(position, f"timestamp {row['timestamp']!r} is not Unix seconds")
            else:
                yield HistoryEvent(row["user_id"], row["object_id"], row["action_name"], timestamp)

    def _rows(self, name: str, required: Sequence[str]) -> Iterator[tuple[Position, Mapping[str, str]]]:
        if self.folder is None:
            raise InvalidRequest(
                f"{self.catalogue} is a catalogue alone; {name} is looked for in its folder: {CONTENTS}"
            )
        path = _file(self.folder, name)
        for line, row in table(path, required):
            if isinstance(row, str):
                self._note((path.name, line), row)
            else:
                yield (path.name, line), row

    def _note(self, position: Position, detail: str) -> None:
        problem = Problem(*position, detail)
        if len(self.problems) < MAX_PROBLEMS and problem not in self.problems:  # a table may be read again
            self.problems.append(problem)


def state(source: Path) -> str:
    """A text that differs when a file of the catalogue or folder was added, removed or changed (names, sizes,
    times)."""
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    return "".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)


def _file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}{ending}" for ending in _SUFFIXES):
        if path.is_file():
            return path
    raise InvalidRequest(f"{folder} has no {name} (or {name}.gz); {CONTENTS}")


def is_id(value: object) -> bool:
    """Whether `value` can be an item's id: a non-empty string or a whole number."""
    if isinstance(value, str):
        return value != ""
    return isinstance(value, int) and not isinstance(value, bool)


def catalogue_lines(path: Path) -> Iterator[Line]:
    """Lines of a JSON-lines file, compressed or not."""
    with reading(path) as source:
        yield from read(source)


def table(
    path: Path, required: Sequence[str] = (), separator: str = "\t"
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """(line number, row by column name, or the problem with the line) of a table with a header line. Values are taken
    verbatim: quotes are part of them. Raises InvalidRequest when the file cannot be read, or one of the `required`
    columns is missing."""
    with reading(path) as source:
        header = next(source, b"").decode("utf-8", "replace").strip("\r\n").removeprefix("\ufeff").split(separator)
        missing = [name for name in required if name not in header]
        if missing:
            raise InvalidRequest(f"{path}: no column {', '.join(missing)}; the first line names the columns")
        for at, raw in enumerate(source, 2):
            if len(raw) > MAX_LINE_BYTES:
                yield at, f"longer than {MAX_LINE_BYTES} bytes"
                continue
            try:
                text = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield at, "not UTF-8"
                continue
            if not text:
                continue
            cells = text.split(separator)
            if len(cells) != len(header):
                yield at, f"{len(cells)} cells; the header has {len(header)}"
            elif any(not cells[header.index(name)] for name in required if name.endswith("id")):
                yield at, "an empty id"
            else:
                yield at, dict(zip(header, cells, strict=True))


def write_folder(
    target: Path,
    documents: Iterable[Document],
    queries: Iterable[DatasetQuery] = (),
    qrels: Iterable[Judgment] = (),
    history: Iterable[HistoryEvent] = (),
) -> dict[str, int]:
    """Write a data set folder (compressed; the same values always give the same bytes); returns the rows written, by
    file name.

    Tables without rows are left out. Tabs and line ends in text become spaces.
    """
    target.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    with writing(target / f"{CATALOGUE}.gz") as sink:
        counts[CATALOGUE] = 0
        for document in documents:
            sink.write(orjson.dumps(dict(document), option=orjson.OPT_APPEND_NEWLINE))
            counts[CATALOGUE] += 1
    tables: tuple[tuple[str, str, Iterable[tuple[str, ...]]], ...] = (
        (
            QUERIES,
            "query_id split slice user_id weight query",
            ((q.query_id, q.split, q.slice, q.user_id or "", f"{q.weight:.12g}", q.text) for q in queries),
        ),
        (QRELS, "query_id doc_id grade", ((j.query_id, j.object_id, f"{j.grade:.12g}") for j in qrels)),
        (
            HISTORY,
            "user_id object_id action_name timestamp",
            ((e.user_id, e.object_id, e.action_name, f"{e.timestamp:.0f}") for e in history),
        ),
    )
    for name, header, rows in tables:
        (target / f"{name}.gz").unlink(missing_ok=True)
        iterator = iter(rows)
        first = next(iterator, None)
        if first is None:
            continue
        with writing(target / f"{name}.gz") as sink:
            sink.write("\t".join(header.split()).encode() + b"\n")
            counts[name] = 0
            for row in _chained(first, iterator):
                sink.write("\t".join(cell.translate(_LINE_BREAKS).strip() for cell in row).encode() + b"\n")
                counts[name] += 1
    return counts


def _chained(first: tuple[str, ...], rest: Iterator[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    yield first
    yield from rest


@contextmanager
def reading(path: Path) -> Iterator[Iterator[bytes]]:
    """Lines of a file, decompressed when its name ends in .gz. A line longer than MAX_LINE_BYTES is truncated to a part
    that is still too long, so that memory stays bounded. Raises InvalidRequest when the file cannot be read (to its
    end)."""
    try:
        with path.open("rb") as file:
            source: IO[bytes] = file
            if path.suffix == ".gz":
                source = io.BufferedReader(gzip.GzipFile(fileobj=file))
            yield _lines(source)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error


def _lines(source: IO[bytes]) -> Iterator[bytes]:
    limit = MAX_LINE_BYTES + 2
    while line := source.readline(limit):
        yield line
        while len(line) == limit and not line.endswith(b"\n"):  # the rest of a line that is too long
            line = source.readline(limit)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, compressed when its name ends in .gz (without a date, so equal content gives equal bytes)."""
    with path.open("wb") as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as sink:
            yield sink  # type: ignore[misc]


def number(text: str) -> float | None:
    """`text` as a finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
