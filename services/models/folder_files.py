"""Model versions in a folder that one process at a time writes to.

    kind/
      versions/<version>/meta.json + files     complete once the folder has this name
      promotions/00000007.json                 complete once the file has this name

Every file is written under a temporary name, synced to disk and renamed; then its folder is synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.models.files import Guard

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_ABANDONED_SECONDS = 3600.0
"""Age at which a temporary folder is taken to be left over from a killed process."""


class FolderFiles:
    """Files (services/models/files.py) in a folder. Safe for many readers and for the writing threads of a process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def kinds(self) -> list[str]:
        """Kinds that have a folder of versions, in order."""
        return [kind for kind in _names(self._folder) if (self._folder / kind / "versions").is_dir()]

    def versions(self, kind: str) -> list[str]:
        """Names of the complete versions, in order."""
        return _names(self._folder / kind / "versions")

    def has(self, kind: str, version: str) -> bool:
        """Whether the version has a folder."""
        return self._version(kind, version).is_dir()

    def read(self, kind: str, version: str, name: str) -> bytes:
        """A file of a version. Raises FileNotFoundError."""
        return (self._version(kind, version) / name).read_bytes()

    def write(
        self, kind: str, version: str, files: Mapping[str, bytes], replace: bool, guard: Guard | None = None
    ) -> None:
        """Write a version to a temporary folder and rename it. Raises FileExistsError unless `replace` is set."""
        target = self._version(kind, version)
        if guard is not None:
            guard()
        if replace and target.exists():
            shutil.rmtree(target)
        parent = target.parent
        _make(parent)
        _sweep(parent)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=parent))
        try:
            for name, data in files.items():
                _write(temporary / name, data)
            _flush(temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and error.errno == errno.ENOTEMPTY:
                raise FileExistsError(errno.EEXIST, "such a version exists", version) from error
            raise
        _flush(parent)

    def promotions(self, kind: str) -> list[int]:
        """Numbers of the promotion records, highest first."""
        folder = self._folder / kind / "promotions"
        names = [p.stem for p in folder.glob("*.json")] if folder.is_dir() else []
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def promotion(self, kind: str, number: int) -> bytes:
        """The promotion record of that number. Raises FileNotFoundError."""
        return self._promotion(kind, number).read_bytes()

    def promote(self, kind: str, version: str, number: int, record: bytes, guard: Guard | None = None) -> None:
        """Write a promotion record to a temporary file and rename it. Raises FileNotFoundError when the version does
        not exist, FileExistsError when the number is taken."""
        target = self._promotion(kind, number)
        if not self.has(kind, version):
            raise FileNotFoundError(errno.ENOENT, "no such version", version)
        if target.exists():
            raise FileExistsError(errno.EEXIST, "such a promotion exists", target.name)
        if guard is not None:
            guard()
        folder = target.parent
        _make(folder)
        descriptor, name = tempfile.mkstemp(prefix=".", dir=folder)
        os.close(descriptor)
        try:
            _write(Path(name), record)
            Path(name).chmod(0o644)
            Path(name).rename(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _flush(folder)

    def remove(self, kind: str, versions: Sequence[str], promotions: Sequence[int], newest: int) -> None:
        """Remove versions and promotion records. Raises FileExistsError when there is a promotion after `newest`."""
        if max(self.promotions(kind), default=0) > newest:
            raise FileExistsError(errno.EEXIST, "a later promotion exists", kind)
        for version in versions:
            shutil.rmtree(self._version(kind, version), ignore_errors=True)
        for number in promotions:
            self._promotion(kind, number).unlink(missing_ok=True)

    def _version(self, kind: str, version: str) -> Path:
        return self._folder / kind / "versions" / version

    def _promotion(self, kind: str, number: int) -> Path:
        return self._folder / kind / "promotions" / f"{number:08d}.json"


def _names(folder: Path) -> list[str]:
    """Names in a folder, in order, without temporary ones; empty when there is no such folder."""
    return sorted(p.name for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def _make(folder: Path) -> None:
    """Create `folder` and its parents, and sync each new directory entry to disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _flush(path.parent)


def _sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left behind."""
    for path in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Sync the entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
