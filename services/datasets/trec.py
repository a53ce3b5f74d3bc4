"""TREC's two file formats, with columns separated by white space: qrels ("query 0 document grade") and runs ("query Q0
document rank score tag"); compressed when the name ends in .gz. See https://github.com/usnistgov/trec_eval.

A line that cannot be read is an error: measures from half a file would be wrong. Ties of a run are ordered by object
id, as everywhere in this service; trec_eval orders them the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from services.datasets.folder import reading, writing
from services.datasets.tables import number
from services.errors import InvalidRequest

Qrels = dict[str, dict[str, float]]
"""query_id -> object_id -> grade, none below 0."""
Run = dict[str, list[tuple[str, float]]]
"""query_id -> (object_id, score), best first."""


def read_qrels(path: Path) -> Qrels:
    """The judgements of a qrels file. Grades below 0 (spam) become 0, as trec_eval counts them. Raises InvalidRequest
    for a malformed line or a pair judged twice, with the line's number."""
    qrels: Qrels = {}
    for line, (query_id, _, object_id, grade) in _lines(path, 4):
        judged = qrels.setdefault(query_id, {})
        if object_id in judged:
            raise InvalidRequest(f"{path}, line {line}: {object_id} is judged twice for {query_id}")
        judged[object_id] = max(_number(path, line, grade), 0.0)
    return qrels


def read_run(path: Path) -> Run:
    """The lists of a run file, ordered by score (the rank column is ignored), ties by object id. Raises InvalidRequest
    for a malformed line or an item listed twice, with the line's number."""
    run: dict[str, dict[str, float]] = {}
    for line, (query_id, _, object_id, _, score, _) in _lines(path, 6):
        found = run.setdefault(query_id, {})
        if object_id in found:
            raise InvalidRequest(f"{path}, line {line}: {object_id} is listed twice for {query_id}")
        found[object_id] = _number(path, line, score)
    return {query_id: ordered(found.items()) for query_id, found in run.items()}


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """Write a run file in the order of `read_run`; `tag` names the system. Raises InvalidRequest when an id or the tag
    is empty or has white space."""
    _write(
        path,
        (
            (q, "Q0", object_id, str(rank), repr(float(score)), tag)
            for q, found in run.items()
            for rank, (object_id, score) in enumerate(ordered(found), 1)
        ),
    )


def ordered(found: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Score descending, then object id ascending."""
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))


def _lines(path: Path, cells: int) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, columns) of every line that is not empty."""
    with reading(path) as source:
        for line, raw in enumerate(source, 1):
            try:
                found = raw.decode("utf-8").split()
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"{path}, line {line}: not UTF-8") from error
            if found and len(found) != cells:
                raise InvalidRequest(f"{path}, line {line}: {len(found)} columns; {cells} are wanted")
            if found:
                yield line, found


def _number(path: Path, line: int, text: str) -> float:
    found = number(text)
    if found is None:
        raise InvalidRequest(f"{path}, line {line}: {text!r} is not a number")
    return float(found)


def _write(path: Path, rows: Iterator[tuple[str, ...]]) -> None:
    with writing(path) as sink:
        for row in rows:
            if bad := [cell for cell in row if cell.split() != [cell]]:
                raise InvalidRequest(f"{bad[0]!r} holds white space or nothing, and cannot stand in a TREC file")
            sink.write(" ".join(row).encode() + b"\n")
