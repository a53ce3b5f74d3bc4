"""Storage of model versions as named bytes; services/models/store.py gives them meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

Guard = Callable[[], None]
"""Called right before a change; raises to prevent it."""


class Files(Protocol):
    """Blocking and thread-safe storage. Kinds, versions and file names are letters, digits, `.`, `_`, `-`.

    Changes are durable when they return and atomic: a process killed at any point leaves the old state or the new one.
    While the storage is unreachable, every method raises StorageFailed (a server) or OSError (a disk).
    """

    def kinds(self) -> list[str]:
        """Kinds that ever had a version, in order."""
        ...

    def versions(self, kind: str) -> list[str]:
        """Names of the versions, in order."""
        ...

    def has(self, kind: str, version: str) -> bool:
        """Whether there is such a version, intact or not."""
        ...

    def read(self, kind: str, version: str, name: str) -> bytes:
        """A file of a version. Raises FileNotFoundError."""
        ...

    def write(
        self, kind: str, version: str, files: Mapping[str, bytes], replace: bool, guard: Guard | None = None
    ) -> None:
        """Write a version atomically: readers see all of it or nothing. Raises FileExistsError when it exists, unless
        `replace` is set."""
        ...

    def promotions(self, kind: str) -> list[int]:
        """Numbers of the promotion records, highest first."""
        ...

    def promotion(self, kind: str, number: int) -> bytes:
        """The promotion record of that number. Raises FileNotFoundError."""
        ...

    def promote(self, kind: str, version: str, number: int, record: bytes, guard: Guard | None = None) -> None:
        """Add a record that makes `version` current. Raises FileExistsError when there is a record of that number, and
        FileNotFoundError when the version is gone: in both cases another process got there first."""
        ...

    def remove(self, kind: str, versions: Sequence[str], promotions: Sequence[int], newest: int) -> None:
        """Remove versions and promotion records. Raises FileExistsError, having removed nothing, when there is a
        promotion record after number `newest`."""
        ...
