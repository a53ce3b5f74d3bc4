"""The file of a backup: a tar that is written whole or not at all, and of which every byte is verified.

The first member holds only the format, so that every later version can read it; the last is the manifest, with the size
and the SHA-256 of every member before it, and a checksum of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from services.errors import LtrrError

FORMAT = 1
FORMAT_MEMBER = "ltrr-backup.json"
MANIFEST = "manifest.json"
BLOCK = tarfile.BLOCKSIZE
CHUNK_BYTES = 1 << 20
END_OF_ARCHIVE = bytes(2 * BLOCK)


class BackupInvalid(LtrrError):
    """A file that is not a backup, is damaged, or has a format unknown to this version."""


class Member:
    """One file of the archive while it is being written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sum = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append to the member."""
        self._file.write(data)
        self._sum.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """SHA-256 of everything written so far, in hexadecimal."""
        return self._sum.hexdigest()


class ArchiveWriter:
    """Writes to a temporary file beside `path`, readable by its owner alone; `finish` renames it. A context manager: an
    unfinished file is removed at its end."""

    def __init__(self, path: Path, version: str, created: float) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._created = created
        self._members: list[dict[str, Any]] = []
        self._about = {"format": FORMAT, "product": "ltrr", "version": version, "created": created}
        descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: IO[bytes] = os.fdopen(descriptor, "w+b")
        self.add(FORMAT_MEMBER, json.dumps(self._about).encode() + b"\n")

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    @contextmanager
    def member(self, name: str) -> Iterator[Member]:
        """A new member to write to. Its size is written into its header at the end, when it is known."""
        start = self._file.tell()
        self._file.write(_header(name, 0, self._created))
        member = Member(self._file)
        yield member
        self._file.write(_padding(member.size))
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(_header(name, member.size, self._created))
        self._file.seek(end)
        self._members.append({"name": name, "bytes": member.size, "sha256": member.sha256})

    def add(self, name: str, data: bytes) -> None:
        """Add a member whose data is in memory."""
        with self.member(name) as member:
            member.write(data)

    def finish(self, contents: Mapping[str, Any]) -> None:
        """Write the manifest including `contents`; the file is on disk under its name when this returns."""
        body = {**contents, **self._about, "members": self._members}
        self.add(MANIFEST, json.dumps({**body, "checksum": _checksum(body)}, indent=1, sort_keys=True).encode())
        self._file.write(END_OF_ARCHIVE)
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._path.exists():
            raise FileExistsError(f"{self._path} came into being meanwhile; it stays as it is")
        self._temporary.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Archive:
    """A backup to read from. Call `check` first; the file stays open, so that the verified file is the one read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._members: dict[str, tarfile.TarInfo] = {}
        self.manifest: dict[str, Any] = {}
        """The contents passed to `finish`, plus format, version, created and members."""

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check(self, progress: Callable[[int], None]) -> None:
        """Read and verify every byte; `progress` gets the number of bytes read. Raises BackupInvalid, also for a newer
        format; the message says what to do."""
        try:
            self._check(progress)
        except (tarfile.TarError, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError) as error:
            raise self._damaged("cut short or damaged") from error

    def names(self) -> list[str]:
        """Names of all members, in archive order."""
        return list(self._members)

    def open(self, name: str) -> IO[bytes]:
        """Open a member for reading. Raises BackupInvalid when there is no such member."""
        if name not in self._members:
            raise self._damaged(f"without {name}")
        found = self._tar.extractfile(self._members[name])
        if found is None:
            raise self._damaged(f"{name} is no file")
        return found

    def read(self, name: str) -> bytes:
        """The whole content of a member."""
        with self.open(name) as file:
            return file.read()

    def _check(self, progress: Callable[[int], None]) -> None:
        self._tar = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115 - closed with the file
        first = self._tar.next()
        if first is None or first.name != FORMAT_MEMBER or first.size > CHUNK_BYTES:
            raise BackupInvalid(f"{self._path} is not a backup of LTRR")
        self._members[FORMAT_MEMBER] = first
        about = json.loads(self.read(FORMAT_MEMBER))
        if about["format"] != FORMAT:
            raise BackupInvalid(
                f"{self._path} has format {about['format']}, and this version reads format {FORMAT}: restore it with"
                f" LTRR {about['version']} or newer"
            )
        self._members = {info.name: info for info in self._tar.getmembers()}
        manifest = json.loads(self.read(MANIFEST))
        checksum = manifest.pop("checksum")
        if _checksum(manifest) != checksum or any(manifest[name] != value for name, value in about.items()):
            raise self._damaged("the manifest does not match its checksum")
        place, created = 0, float(about["created"])
        expected = {entry["name"]: entry for entry in manifest["members"]}
        if [*expected, MANIFEST] != [info.name for info in self._tar.getmembers()]:
            raise self._damaged("other members than its manifest says")
        for name, info in self._members.items():
            place = self._check_member(place, name, info.size, created, expected.get(name), progress)
        self._file.seek(place)
        if self._file.read(len(END_OF_ARCHIVE) + 1) != END_OF_ARCHIVE:
            raise self._damaged("its end is missing")
        self.manifest = manifest

    def _check_member(
        self,
        place: int,
        name: str,
        size: int,
        created: float,
        expected: Mapping[str, Any] | None,
        progress: Callable[[int], None],
    ) -> int:
        """Verify a member; returns the offset of the next one."""
        header = _header(name, size, created)
        self._file.seek(place)
        if self._file.read(len(header)) != header:
            raise self._damaged(f"the header of {name}")
        summed, left = hashlib.sha256(), size
        while left:
            chunk = self._file.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise self._damaged("cut short")
            summed.update(chunk)
            left -= len(chunk)
            progress(place + size - left)
        padding = _padding(size)
        if self._file.read(len(padding)) != padding:
            raise self._damaged(f"behind {name}")
        if expected is not None and (expected["bytes"], expected["sha256"]) != (size, summed.hexdigest()):
            raise self._damaged(f"{name} does not match its checksum")
        return place + len(header) + size + len(padding)

    def _damaged(self, how: str) -> BackupInvalid:
        return BackupInvalid(f"{self._path} is damaged ({how}); nothing was changed")


def _header(name: str, size: int, created: float) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(created)
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
