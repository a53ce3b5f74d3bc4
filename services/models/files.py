"""Where model versions are kept: names and bytes, nothing of what they mean (that is services/models/store.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

Guard = Callable[[], None]
"""Called right before something is changed; raises when it must not be changed (any more)."""


class Files(Protocol):
    """Blocking; safe for threads. Kinds, versions and file names are letters, digits, `.`, `_`, `-`.

    What changes something is durable when it returns, and a process killed at any point leaves the state before or the
    state after. Where the keeper is away, everything raises StorageFailed (a shared one) or OSError (a disk).
    """

    def kinds(self) -> list[str]:
        """Kinds that ever had a version, in order."""
        ...

    def versions(self, kind: str) -> list[str]:
        """Names of the versions, in order."""
        ...

    def has(self, kind: str, version: str) -> bool: ...

    def read(self, kind: str, version: str, name: str) -> bytes:
        """A file of a version. Raises FileNotFoundError."""
        ...

    def write(
        self, kind: str, version: str, files: Mapping[str, bytes], replace: bool, guard: Guard | None = None
    ) -> None:
        """A whole version, visible at once. Raises FileExistsError when there is one, unless it is to be replaced."""
        ...

    def promotions(self, kind: str) -> list[int]:
        """Numbers of the promotion records, highest first."""
        ...

    def promotion(self, kind: str, number: int) -> bytes:
        """Raises FileNotFoundError."""
        ...

    def promote(self, kind: str, version: str, number: int, record: bytes, guard: Guard | None = None) -> None:
        """Add a record that puts `version` in force. Raises FileExistsError when there is a record of that number, and
        FileNotFoundError when the version is gone: somebody else was faster."""
        ...

    def remove(self, kind: str, versions: Sequence[str], promotions: Sequence[int], newest: int) -> None:
        """Raises FileExistsError, having removed nothing, when there is a promotion record after number `newest`."""
        ...
