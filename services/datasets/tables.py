"""Rows of tables in common formats: CSV, TSV, JSON lines (each also as .gz) and, where pyarrow is installed,
Parquet."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.datasets.folder import catalogue_lines, reading
from services.errors import InvalidRequest
from services.ndjson import MAX_LINE_BYTES
from services.schema.values import as_number

SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_BATCH_ROWS = 10_000

Row = dict[str, Any]
NumberedRows = Iterator[tuple[int, Row | str]]
"""(line number, row by column name or the problem with the line)."""


def find(folder: Path, *stems: str) -> Path:
    """The file of `folder`, or of one of its folders, that is named like one of `stems`. Raises InvalidRequest."""
    for place in (folder, *sorted(entry for entry in folder.glob("*") if entry.is_dir())):
        for stem in stems:
            for ending in SUFFIXES:
                if (place / f"{stem}{ending}").is_file():
                    return place / f"{stem}{ending}"
    raise InvalidRequest(f"{folder} has no {' or '.join(stems)} ({', '.join(SUFFIXES)})")


def rows(path: Path, columns: Mapping[str, Sequence[str]]) -> NumberedRows:
    """Each row of the table, with the values of `columns` (our name -> names it may have there) added under our names.

    Raises InvalidRequest when the first row has none of the names of a column, or when the file cannot be read.
    """
    names: dict[str, str] | None = None
    for line, row in _rows(path):
        if isinstance(row, str):
            yield line, row
            continue
        if names is None:
            names = {ours: _named(path, row, ours, theirs) for ours, theirs in columns.items()}
        yield line, {**row, **{ours: row.get(theirs) for ours, theirs in names.items()}}


def number(text: Any) -> float | int | None:
    """The number in a cell; None for an empty cell and for anything but a finite number."""
    try:
        found = as_number(float(text)) if text is not None else None
    except (TypeError, ValueError):
        return None
    return int(found) if found is not None and found.is_integer() else found


def present(document: Mapping[str, Any]) -> dict[str, Any]:
    """`document` without empty fields."""
    return {name: value for name, value in document.items() if value is not None and value != "" and value != []}


def _named(path: Path, row: Row, ours: str, theirs: Sequence[str]) -> str:
    found = next((name for name in theirs if name in row), None)
    if found is None:
        raise InvalidRequest(f"{path} has no column for {ours} ({' or '.join(theirs)}); it has {', '.join(row)}")
    return found


def _rows(path: Path) -> NumberedRows:
    if path.suffix == ".parquet":
        return _parquet(path)
    return _objects(path) if ".json" in path.name else _delimited(path)


def _objects(path: Path) -> NumberedRows:
    for line in catalogue_lines(path):
        yield line.number, line.value if isinstance(line.value, dict) else line.problem or "not a JSON object"


def _delimited(path: Path) -> NumberedRows:
    """Quoted cells may hold separators and line ends. The first line names the columns; they are separated by tabs if
    it has any, otherwise by commas."""
    with reading(path) as source:
        last = 0  # line on which the row before ended

        def texts() -> Iterator[str]:
            nonlocal last
            for raw in source:
                last += 1
                # Invalid UTF-8 must not end the reading: it is carried through and reported with its row.
                yield raw.decode("utf-8", "surrogateescape")

        lines = texts()
        first = next(lines, "").removeprefix("\ufeff")
        separator = "\t" if "\t" in first else ","
        header = next(csv.reader([first], delimiter=separator), [])
        table = csv.reader(lines, delimiter=separator)
        while True:
            begins = last + 1
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                yield begins, str(error)
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield begins, f"{len(cells)} cells; the header has {len(header)}"
            elif not _is_text(cells):
                yield begins, "not UTF-8"
            elif sum(map(len, cells)) > MAX_LINE_BYTES:
                yield begins, f"longer than {MAX_LINE_BYTES} bytes"
            else:
                yield begins, dict(zip(header, cells, strict=True))


def _is_text(cells: Sequence[str]) -> bool:
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parquet(path: Path) -> NumberedRows:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InvalidRequest(f"{path.name}: reading Parquet needs pyarrow; install it, or export to CSV") from error
    at = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for row in batch.to_pylist():
                    at += 1
                    yield at, row
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
