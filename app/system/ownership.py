"""Ownership of an embedded data folder by one process at a time; others look it up and use its HTTP API."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.errors import SettingsInvalid


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that uses a data folder."""

    pid: int
    url: str | None
    """URL at which the owner serves; None while it does other work on the folder."""


class Owned(SettingsInvalid):
    """The data folder belongs to a running process."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        where = f", serving at {owner.url}" if owner.url else ""
        super().__init__(f"{folder} is in use by process {owner.pid}{where}; stop it, or set another LTRR_DATA_DIR")
        self.owner = owner


@contextmanager
def owned(folder: Path, url: str | None = None) -> Iterator[None]:
    """Own `folder` for as long as the context lasts. Raises Owned when another process has it.

    The lock is the kernel's (flock): it is released with its process however that ends. The content of the file is for
    operators and for `owner`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _file(folder) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Owned(folder, _read(handle)) from None
        handle.seek(0)
        handle.truncate()
        json.dump({"pid": os.getpid(), "url": url}, handle)
        handle.flush()
        yield


def owner(folder: Path) -> Owner | None:
    """The current owner of `folder`, or None."""
    if not _path(folder).exists():
        return None
    with _file(folder) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(handle)
    return None


def _path(folder: Path) -> Path:
    return folder / "owner.lock"


def _file(folder: Path) -> IO[str]:
    descriptor = os.open(_path(folder), os.O_RDWR | os.O_CREAT, 0o600)
    return os.fdopen(descriptor, "r+", encoding="utf-8")


def _read(handle: IO[str]) -> Owner:
    handle.seek(0)
    try:
        written = json.load(handle)
        return Owner(int(written["pid"]), written["url"])
    except (ValueError, KeyError, TypeError):
        return Owner(0, None)
