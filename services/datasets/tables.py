"""Rows of the tables that people have: CSV, TSV, JSON lines (each also as .gz) and, where pyarrow is there, Parquet."""

from __future__ import annotations

import csv
import gzip
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from services.errors import InvalidRequest
from services.lines import read
from services.values import as_number

Row = Mapping[str, Any]
ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_PART = 10_000


def find(folder: Path, *stems: str) -> Path:
    """The file of `folder`, or of one of its folders, that is named like one of `stems`. Raises InvalidRequest."""
    for place in (folder, *sorted(entry for entry in folder.glob("*") if entry.is_dir())):
        for stem in stems:
            for ending in ENDINGS:
                if (place / f"{stem}{ending}").is_file():
                    return place / f"{stem}{ending}"
    raise InvalidRequest(f"{folder} has no {' or '.join(stems)} ({', '.join(ENDINGS)})")


def rows(path: Path, columns: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Each row of the table with what `columns` (our name -> names it may have there) asks for added under our names.

    Raises InvalidRequest when the first row has none of the names of a column, or when the file cannot be read.
    """
    names: dict[str, str] | None = None
    try:
        for row in _rows(path):
            if names is None:
                names = {ours: _present(path, row, ours, theirs) for ours, theirs in columns.items()}
            yield {**row, **{ours: row.get(theirs) for ours, theirs in names.items()}}
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error


def number(text: Any) -> float | int | None:
    """A number that a table gives as text; None for an empty cell and what is no number."""
    try:
        found = as_number(float(text)) if text is not None else None
    except (TypeError, ValueError):
        return None
    return int(found) if found is not None and found.is_integer() else found


def present(document: Mapping[str, Any]) -> dict[str, Any]:
    """`document` without the fields that hold nothing."""
    return {name: value for name, value in document.items() if value is not None and value != "" and value != []}


def _present(path: Path, row: Row, ours: str, theirs: Sequence[str]) -> str:
    found = next((name for name in theirs if name in row), None)
    if found is None:
        raise InvalidRequest(f"{path} has no column for {ours} ({' or '.join(theirs)}); it has {', '.join(row)}")
    return found


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    with _opened(path) as source:
        if ".json" in path.name:
            for line in read(source):
                if not isinstance(line.value, dict):
                    raise InvalidRequest(f"{path}, line {line.number}: {line.problem or 'not a JSON object'}")
                yield line.value
            return
        csv.field_size_limit(sys.maxsize)
        header = next(source, b"").decode("utf-8-sig")
        separator = "\t" if "\t" in header else ","
        names = next(csv.reader([header], delimiter=separator), [])
        texts = (raw.decode("utf-8") for raw in source)
        yield from csv.DictReader(texts, fieldnames=names, delimiter=separator)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _parquet(path: Path) -> Iterator[Row]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InvalidRequest(f"{path.name}: reading Parquet needs pyarrow; install it, or export to CSV") from error
    for batch in parquet.ParquetFile(path).iter_batches(_PART):
        yield from batch.to_pylist()
