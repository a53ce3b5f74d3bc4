"""TREC's two files, their columns apart by white space: qrels ("query 0 document grade") and runs ("query Q0 document
rank score tag"). See https://trec.nist.gov/data/qrels_eng and https://github.com/usnistgov/trec_eval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from services.datasets.tables import number
from services.errors import InvalidRequest

Qrels = dict[str, dict[str, float]]
"""query_id -> object_id -> grade."""
Run = dict[str, list[tuple[str, float]]]
"""query_id -> (object_id, score), best first."""


def read_qrels(path: Path) -> Qrels:
    """Raises InvalidRequest naming the line that is not one."""
    qrels: Qrels = {}
    for line, (query_id, _, object_id, grade) in _lines(path, 4):
        qrels.setdefault(query_id, {})[object_id] = _number(path, line, grade)
    return qrels


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, float]]) -> None:
    _write(path, (f"{q} 0 {o} {grade:g}" for q, judged in qrels.items() for o, grade in judged.items()))


def read_run(path: Path) -> Run:
    """Ordered by score as trec_eval does (the rank column is not read), ties by object id. Raises InvalidRequest."""
    run: Run = {}
    for line, (query_id, _, object_id, _, score, _) in _lines(path, 6):
        run.setdefault(query_id, []).append((object_id, _number(path, line, score)))
    return {query_id: sorted(found, key=lambda entry: (-entry[1], entry[0])) for query_id, found in run.items()}


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """`tag` names the system; ids and the tag must not hold white space."""
    _write(
        path,
        (
            f"{q} Q0 {object_id} {rank} {score!r} {tag}"
            for q, found in run.items()
            for rank, (object_id, score) in enumerate(found, 1)
        ),
    )


def _lines(path: Path, cells: int) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8") as source:
            for line, text in enumerate(source, 1):
                found = text.split()
                if found and len(found) != cells:
                    raise InvalidRequest(f"{path}, line {line}: {len(found)} columns; {cells} are wanted")
                if found:
                    yield line, found
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error


def _number(path: Path, line: int, text: str) -> float:
    found = number(text)
    if found is None:
        raise InvalidRequest(f"{path}, line {line}: {text!r} is not a number")
    return float(found)


def _write(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8") as sink:
        sink.writelines(f"{line}\n" for line in lines)
