from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from services.errors import InvalidRequest
from services.evaluation.runs import Run


def test_lists_are_put_in_order_by_score_then_id() -> None:
    run = Run.of("x", {"q": [("b", 1.0), ("c", 2.0), ("a", 1.0)], "empty": []})
    assert run.lists == {"q": [("c", 2.0), ("a", 1.0), ("b", 1.0)], "empty": []}
    assert run.ids("q") == ["c", "a", "b"]
    assert run.ids("empty") == run.ids("unheard of") == []


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run = Run.of("all arms, RRF", {"q2": [("b", 0.1 + 0.2), ("a", -1e-9)], "q1": [("é", 3.0)]})
    run.write(tmp_path / "together.run.gz")
    text = gzip.decompress((tmp_path / "together.run.gz").read_bytes()).decode()
    assert text.splitlines()[0] == "q2 Q0 b 1 0.30000000000000004 all_arms,_RRF"
    assert Run.read(tmp_path / "together.run.gz") == Run("together", run.lists)
    assert Run.read(tmp_path / "together.run.gz", "other").name == "other"


@pytest.mark.parametrize(
    ("file", "name"),
    [("a.run", "a"), ("a.b.txt.gz", "a.b"), ("a.trec", "a"), ("a", "a"), ("a.tsv", "a"), ("a.1", "a.1")],
)
def test_a_run_is_called_as_its_file(tmp_path: Path, file: str, name: str) -> None:
    Run("x", {"q": [("a", 1.0)]}).write(tmp_path / file)
    assert Run.read(tmp_path / file).name == name


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_text("q Q0 a 1 2.0 x\nq Q0 b 2 x\n")
    with pytest.raises(InvalidRequest, match=r"a\.run, line 2: 5 columns; 6 are wanted"):
        Run.read(path)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Run.read(tmp_path / "absent")
    with pytest.raises(InvalidRequest, match="'a b' holds white space"):
        Run("x", {"q": [("a b", 1.0)]}).write(path)
