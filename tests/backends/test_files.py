"""Copies of files with holes."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.backends.files import copy_sparse

MEGABYTE = 2**20


@pytest.mark.parametrize("parts", [[], [(0, b"begin")], [(MEGABYTE, b"middle"), (3 * MEGABYTE, b"x" * 2 * MEGABYTE)]])
def test_a_copy_has_the_same_bytes_and_keeps_the_holes(tmp_path: Path, parts: list[tuple[int, bytes]]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.write_bytes(b"what was there before" * 1000)
    with source.open("wb") as file:
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        file.truncate(16 * MEGABYTE)
    source.chmod(0o640)
    assert copy_sparse(str(source), str(target)) == str(target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode == source.stat().st_mode
    assert target.stat().st_mtime == source.stat().st_mtime
    assert target.stat().st_blocks <= source.stat().st_blocks


def test_a_file_without_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 10_000)
    copy_sparse(str(source), str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
