"""Files that must be whole after a crash, and copies of files with holes."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

_CHUNK = 2**20


def replace_text(path: Path, text: str) -> None:
    """Replace the content of `path` so that a crash at any moment leaves either the old text or the new one on disk."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def copy_sparse(source: str, target: str) -> str:
    """Copy a file without filling its holes; a `copy_function` of shutil.copytree. Engines reserve files of many
    megabytes for a few kilobytes of data."""
    with open(source, "rb", buffering=0) as file, open(target, "wb", buffering=0) as copy:
        size = os.fstat(file.fileno()).st_size
        copy.truncate(size)
        at = 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # the rest is a hole
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            while start < at and (data := os.pread(file.fileno(), min(_CHUNK, at - start), start)):
                start += os.pwrite(copy.fileno(), data, start)
    shutil.copystat(source, target)
    return target
