"""Model versions: written atomically, named by checksum, promoted in one atomic step, never pickled.

A version is meta.json (its manifest) and its files. Promotion records are numbered; the highest intact one names the
current version and its history. SHA-256 sums detect damage; a damaged model is never served: the newest intact one that
was promoted earlier takes its place. The bytes are stored by services/models/files.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from services.errors import ModelInvalid, NotFound, StorageFailed
from services.models.files import Files, Guard
from services.models.folder_files import FolderFiles

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT = 1
META = "meta.json"
MAX_HISTORY = 100
"""Promotions remembered per kind."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_MAX_ATTEMPTS = 20
"""Attempts at a promotion or a pruning that conflicts with other processes."""
_MAX_PAUSE = 0.002
"""Largest pause in seconds before the next attempt, per attempt made so far."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A version with its files, as it is loaded."""

    kind: str
    version: str
    created: float
    meta: Mapping[str, Any]
    files: Mapping[str, bytes]
    """Name -> content, verified against its SHA-256."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """An entry of a kind's history."""

    version: str
    at: float
    action: str
    """promote | rollback | note"""
    reason: str


@dataclass(frozen=True, slots=True)
class Version:
    """A version as it is listed, without its files."""

    version: str
    created: float
    meta: Mapping[str, Any]
    current: bool
    promotions: tuple[Promotion, ...]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class _Record:
    """One promotion record. `stack` ends with the current version, after the versions that were current before it."""

    number: int
    stack: tuple[str, ...]
    history: tuple[Promotion, ...]


class ModelStore:
    """Versions, promotions and history of every kind of model. Safe for many readers, and for the writing threads of a
    process where the files are a folder (`Path`), or of many processes where they are on a server.

    Blocking. Every method raises StorageFailed when the server with the files cannot be reached, and OSError when a
    disk fails.
    """

    def __init__(self, files: Files | Path, clock: Callable[[], float] = time.time) -> None:
        self._files: Files = FolderFiles(files) if isinstance(files, Path) else files
        self._clock = clock
        self._lock = threading.Lock()
        self._reported: set[tuple[str, str]] = set()

    def publish(
        self,
        kind: str,
        files: Mapping[str, bytes],
        meta: Mapping[str, Any],
        version: str | None = None,
        guard: Guard | None = None,
    ) -> str:
        """Store a version without making it current, and return its name; durable when this returns. Publishing the
        same files again under the same version changes nothing. `guard` is called right before the write and may raise
        to prevent it.

        Raises ModelInvalid for unsafe names, or other files under a version that exists.
        """
        sums = {_safe(name): hashlib.sha256(data).hexdigest() for name, data in files.items()}
        if META in sums:
            raise ModelInvalid(f"{META} is the store's own file")
        created = self._clock()
        if version is None:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(created))
            version = f"{stamp}-{hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:8]}"
        _safe(kind), _safe(version)
        manifest = {"format": FORMAT, "kind": kind, "version": version, "created": created}
        manifest |= {"files": {n: {"sha256": s, "bytes": len(files[n])} for n, s in sums.items()}, "meta": dict(meta)}
        replace = False
        if self._files.has(kind, version):
            if not self._replaceable(kind, version, sums):
                return version
            replace = True
        try:
            self._files.write(kind, version, {**files, META: _seal(manifest)}, replace, guard)
        except FileExistsError:  # another process got there first
            if self._replaceable(kind, version, sums):
                raise ModelInvalid(f"{kind} {version} is damaged") from None
        return version

    def promote(self, kind: str, version: str, reason: str, guard: Guard | None = None) -> None:
        """Make a version the current one. `guard` is called right before and may raise to prevent it.

        Raises NotFound, or ModelInvalid when the version is damaged.
        """
        self._load(kind, version)

        def put() -> None:
            record = self._record(kind)
            stack = (*(v for v in record.stack if v != version), version)
            self._put(kind, record, stack, Promotion(version, self._clock(), "promote", reason), guard)

        self._retried(put)

    def rollback(self, kind: str, reason: str) -> str:
        """Make the newest intact version before the current one current again, and return it; called again, this goes
        back further. Raises NotFound when there is none.
        """

        def put() -> str:
            record = self._record(kind)
            for depth in range(len(record.stack) - 1, 0, -1):
                version = record.stack[depth - 1]
                if self._intact(kind, version) is not None:
                    self._put(kind, record, record.stack[:depth], Promotion(version, self._clock(), "rollback", reason))
                    return version
            raise NotFound(f"{kind}: no earlier version to go back to")

        return self._retried(put)

    def note(self, kind: str, version: str, reason: str) -> None:
        """Add a remark to a version's history; the current version stays current.

        Raises NotFound.
        """

        def put() -> None:
            record = self._record(kind)
            self._put(kind, record, record.stack, Promotion(version, self._clock(), "note", reason))

        if not self._files.has(_safe(kind), _safe(version)):
            raise NotFound(f"{kind} {version}: no such version")
        self._retried(put)

    def current(self, kind: str) -> StoredModel | None:
        """The current version, verified; a damaged one is skipped for the newest intact one before it. None when there
        is none."""
        for version in reversed(self._record(kind).stack):
            model = self._intact(kind, version)
            if model is not None:
                return model
        return None

    def current_version(self, kind: str) -> str | None:
        """Name of the current version, without reading it: cheap enough to call every second."""
        stack = self._record(kind).stack
        return stack[-1] if stack else None

    def load(self, kind: str, version: str) -> StoredModel:
        """A version, verified. Raises NotFound or ModelInvalid."""
        return self._load(kind, version)

    def kinds(self) -> list[str]:
        """Kinds that ever had a version, in order."""
        return self._files.kinds()

    def versions(self, kind: str) -> list[Version]:
        """Every readable version, newest first, with its promotions."""
        record = self._record(kind)
        found = []
        for name in self._files.versions(_safe(kind)):
            try:
                manifest = self._manifest(kind, name)
            except (ModelInvalid, NotFound):
                continue
            history = tuple(p for p in record.history if p.version == name)
            current = bool(record.stack) and record.stack[-1] == name
            found.append(Version(name, float(manifest["created"]), manifest["meta"], current, history))
        return sorted(found, key=lambda v: (v.created, v.version), reverse=True)

    def prune(self, kind: str, keep: int = 10) -> list[str]:
        """Remove all but the newest `keep` versions and the current one; returns the names of those removed."""
        return self._retried(lambda: self._prune(kind, keep))

    def _prune(self, kind: str, keep: int) -> list[str]:
        # Names first: a version published or promoted after this line is not mistaken for an old one.
        names = self._files.versions(_safe(kind))
        record = self._record(kind)
        kept = {v.version for v in self.versions(kind)[:keep]} | set(record.stack[-1:])
        gone = [name for name in names if name not in kept]
        self._files.remove(kind, gone, self._files.promotions(kind)[keep:], record.number)
        return gone

    # --- reading ---

    def _record(self, kind: str) -> _Record:
        numbers = self._files.promotions(_safe(kind))
        for number in numbers:
            try:
                body = _unseal(self._files.promotion(kind, number))
                history = tuple(Promotion(**entry) for entry in body["history"])
                # The next number follows the highest record, damaged or not: a damaged one never counts as newer.
                return _Record(numbers[0], tuple(body["stack"]), history)
            except (ModelInvalid, OSError, KeyError, TypeError):
                self._report(kind, f"promotion {number}")
        return _Record(numbers[0] if numbers else 0, (), ())

    def _manifest(self, kind: str, version: str) -> dict[str, Any]:
        if not self._files.has(_safe(kind), _safe(version)):
            raise NotFound(f"{kind} {version}: no such version")
        manifest = _unseal(self._read(kind, version, META))
        if manifest.get("format") != FORMAT or manifest.get("version") != version or manifest.get("kind") != kind:
            raise ModelInvalid(f"{kind} {version}: {META} is of another format, kind or version")
        return manifest

    def _load(self, kind: str, version: str) -> StoredModel:
        manifest = self._manifest(kind, version)
        files = {}
        for name, expected in manifest["files"].items():
            data = self._read(kind, version, _safe(name))
            if hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise ModelInvalid(f"{kind} {version}: {name} does not match its checksum")
            files[name] = data
        return StoredModel(kind, version, float(manifest["created"]), manifest["meta"], files)

    def _read(self, kind: str, version: str, name: str) -> bytes:
        try:
            return self._files.read(kind, version, name)
        except OSError as error:
            raise ModelInvalid(f"{kind} {version}: {name} cannot be read") from error

    def _intact(self, kind: str, version: str) -> StoredModel | None:
        try:
            return self._load(kind, version)
        except (ModelInvalid, NotFound) as error:
            self._report(kind, version, error)
            return None

    def _replaceable(self, kind: str, version: str, sums: Mapping[str, str]) -> bool:
        """Whether the stored version is damaged; False when it holds just these files. Raises ModelInvalid when it
        holds others."""
        try:
            stored = self._load(kind, version)
        except ModelInvalid:
            return True
        if {name: hashlib.sha256(data).hexdigest() for name, data in stored.files.items()} != sums:
            raise ModelInvalid(f"{kind} {version} exists with other files")
        return False

    def _report(self, kind: str, what: str, error: Exception | None = None) -> None:
        if (kind, what) not in self._reported:  # a poller must not write the same line every second
            self._reported.add((kind, what))
            logger.error("model_passed_over kind=%s version=%s reason=%s", kind, what, error or "damaged")

    # --- writing ---

    def _retried(self, change: Callable[[], T]) -> T:
        """Make a change that begins with reading the current record; repeated when another process got there first."""
        with self._lock:
            for attempt in range(_MAX_ATTEMPTS):
                try:
                    return change()
                except FileExistsError:
                    # Jitter: in step, two processes would collide again and again.
                    time.sleep(random.uniform(0.0, _MAX_PAUSE * attempt))  # noqa: S311
        raise StorageFailed("other processes promote models all the time")

    def _put(
        self, kind: str, record: _Record, stack: tuple[str, ...], promotion: Promotion, guard: Guard | None = None
    ) -> None:
        known = {*self._files.versions(kind), promotion.version}
        stack = tuple(v for v in stack if v in known)[-MAX_HISTORY:]
        history = (*(p for p in record.history if p.version in known), promotion)[-MAX_HISTORY:]
        body = {"format": FORMAT, "stack": stack, "history": [asdict(p) for p in history]}
        try:
            self._files.promote(kind, promotion.version, record.number + 1, _seal(body), guard)
        except FileNotFoundError:
            raise NotFound(f"{kind} {promotion.version}: no such version any more") from None


def _safe(name: str) -> str:
    """`name`, if it is safe as part of a path and of a key: letters, digits, `.`, `_`, `-`, a letter or digit first.
    Raises ModelInvalid otherwise."""
    if not _NAME.fullmatch(name):
        raise ModelInvalid(f"{name[:40]!r} is no name for a model, version or file")
    return name


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _seal(body: Mapping[str, Any]) -> bytes:
    """`body` as readable JSON, with a checksum of its canonical form."""
    checksum = hashlib.sha256(_canonical(body)).hexdigest()
    return json.dumps({**body, "checksum": checksum}, sort_keys=True, indent=1, allow_nan=False).encode()


def _unseal(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
        checksum = body.pop("checksum")
        intact = hashlib.sha256(_canonical(body)).hexdigest() == checksum
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelInvalid("not readable") from error
    if not intact:
        raise ModelInvalid("does not match its checksum")
    return dict(body)
