"""Model versions on disk: written whole, named by checksum, promoted by one atomic rename, never pickled.

    kind/
      versions/<version>/meta.json + files     complete when the folder has its name
      promotions/00000007.json                 what is in force and how it came to be; the highest intact number counts

Every file is written under another name, flushed to disk, renamed, and its folder flushed too, so that a process
killed at any point leaves either the state before or the state after. SHA-256 sums find what a disk or a hand damaged;
a damaged model is never served: the newest intact one that was promoted earlier takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.errors import ModelInvalid, NotFound

logger = logging.getLogger(__name__)

FORMAT = 1
META = "meta.json"
HISTORY = 100
"""Promotions remembered per kind."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_LEFT_OVER_SECONDS = 3600.0
"""A temporary folder this old belongs to nobody any more."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    kind: str
    version: str
    created: float
    meta: Mapping[str, Any]
    files: Mapping[str, bytes]
    """Contents, as verified against their SHA-256."""


@dataclass(frozen=True, slots=True)
class Promotion:
    version: str
    at: float
    action: str
    """promote | rollback"""
    reason: str


@dataclass(frozen=True, slots=True)
class Version:
    version: str
    created: float
    meta: Mapping[str, Any]
    current: bool
    promotions: tuple[Promotion, ...]
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class _Record:
    """One promotion file. `stack` ends with the version in force; before it, those that it took over from."""

    number: int
    stack: tuple[str, ...]
    history: tuple[Promotion, ...]


class ModelStore:
    """Safe for many readers and for the writing threads of one process."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._reported: set[tuple[str, str]] = set()

    def publish(
        self, kind: str, files: Mapping[str, bytes], meta: Mapping[str, Any], version: str | None = None
    ) -> str:
        """Store a version, not yet in force; durable when this returns. Publishing the same files again under the same
        version changes nothing. Raises ModelInvalid for unsafe names, or other files under a version that exists."""
        sums = {_safe(name): hashlib.sha256(data).hexdigest() for name, data in files.items()}
        if META in sums:
            raise ModelInvalid(f"{META} is the store's own file")
        created = self._clock()
        if version is None:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(created))
            version = f"{stamp}-{hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:8]}"
        target = self._folder / _safe(kind) / "versions" / _safe(version)
        manifest = {"format": FORMAT, "kind": kind, "version": version, "created": created}
        manifest |= {"files": {n: {"sha256": s, "bytes": len(files[n])} for n, s in sums.items()}, "meta": dict(meta)}
        if target.exists():
            if not self._replaceable(kind, version, sums):
                return version
            shutil.rmtree(target)
        parent = target.parent
        _make(parent)
        self._sweep(parent)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=parent))
        try:
            for name, data in files.items():
                _write(temporary / name, data)
            _write(temporary / META, _seal(manifest))
            _flush(temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _flush(parent)
        return version

    def promote(self, kind: str, version: str, reason: str) -> None:
        """Put a version in force. Raises NotFound, or ModelInvalid when it is damaged."""
        self._load(kind, version)
        with self._lock:
            record = self._record(kind)
            stack = (*(v for v in record.stack if v != version), version)
            self._put(kind, record, stack, Promotion(version, self._clock(), "promote", reason))

    def rollback(self, kind: str, reason: str) -> str:
        """Put the newest intact version before the one in force back; asked again, it goes back further.

        Returns it; raises NotFound when there is none.
        """
        with self._lock:
            record = self._record(kind)
            for depth in range(len(record.stack) - 1, 0, -1):
                version = record.stack[depth - 1]
                if self._intact(kind, version) is not None:
                    self._put(kind, record, record.stack[:depth], Promotion(version, self._clock(), "rollback", reason))
                    return version
        raise NotFound(f"{kind}: no earlier version to go back to")

    def current(self, kind: str) -> StoredModel | None:
        """The version in force, verified; a damaged one is passed over for the newest intact one before it."""
        for version in reversed(self._record(kind).stack):
            model = self._intact(kind, version)
            if model is not None:
                return model
        return None

    def current_version(self, kind: str) -> str | None:
        """Name of the version in force without reading it: cheap enough to ask every second."""
        stack = self._record(kind).stack
        return stack[-1] if stack else None

    def load(self, kind: str, version: str) -> StoredModel:
        """A version, verified. Raises NotFound or ModelInvalid."""
        return self._load(kind, version)

    def kinds(self) -> list[str]:
        """Kinds that have a version, in order."""
        if not self._folder.is_dir():
            return []
        return sorted(p.name for p in self._folder.iterdir() if (p / "versions").is_dir() and _NAME.fullmatch(p.name))

    def versions(self, kind: str) -> list[Version]:
        """Every readable version, newest first, with its promotions."""
        record = self._record(kind)
        found = []
        for name in self._names(kind):
            try:
                manifest = self._manifest(kind, name)
            except (ModelInvalid, NotFound):
                continue
            history = tuple(p for p in record.history if p.version == name)
            current = bool(record.stack) and record.stack[-1] == name
            found.append(Version(name, float(manifest["created"]), manifest["meta"], current, history))
        return sorted(found, key=lambda v: (v.created, v.version), reverse=True)

    def prune(self, kind: str, keep: int = 10) -> list[str]:
        """Remove all but the newest `keep` versions and the one in force; returns what went."""
        with self._lock:
            return self._prune(kind, keep)

    def _prune(self, kind: str, keep: int) -> list[str]:
        record = self._record(kind)
        kept = {v.version for v in self.versions(kind)[:keep]} | set(record.stack[-1:])
        gone = sorted(name for name in self._names(kind) if name not in kept)
        for name in gone:
            shutil.rmtree(self._folder / kind / "versions" / name, ignore_errors=True)
        numbers = self._numbers(kind)
        for number in numbers[keep:]:
            (self._folder / kind / "promotions" / f"{number:08d}.json").unlink(missing_ok=True)
        return gone

    # --- reading ---

    def _names(self, kind: str) -> list[str]:
        folder = self._folder / _safe(kind) / "versions"
        return sorted(p.name for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []

    def _numbers(self, kind: str) -> list[int]:
        """Numbers of the promotion files, highest first."""
        folder = self._folder / _safe(kind) / "promotions"
        names = [p.stem for p in folder.glob("*.json")] if folder.is_dir() else []
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _record(self, kind: str) -> _Record:
        numbers = self._numbers(kind)
        for number in numbers:
            try:
                body = _unseal((self._folder / kind / "promotions" / f"{number:08d}.json").read_bytes())
                history = tuple(Promotion(**entry) for entry in body["history"])
                # Numbering goes on after the highest file, even a damaged one, so that it is never taken for newer.
                return _Record(numbers[0], tuple(body["stack"]), history)
            except (ModelInvalid, OSError, KeyError, TypeError):
                self._report(kind, f"promotion {number}")
        return _Record(numbers[0] if numbers else 0, (), ())

    def _manifest(self, kind: str, version: str) -> dict[str, Any]:
        folder = self._folder / _safe(kind) / "versions" / _safe(version)
        if not folder.is_dir():
            raise NotFound(f"{kind} {version}: no such version")
        try:
            manifest = _unseal((folder / META).read_bytes())
        except OSError as error:
            raise ModelInvalid(f"{kind} {version}: {META} cannot be read") from error
        if manifest.get("format") != FORMAT or manifest.get("version") != version or manifest.get("kind") != kind:
            raise ModelInvalid(f"{kind} {version}: {META} is of another format, kind or version")
        return manifest

    def _load(self, kind: str, version: str) -> StoredModel:
        manifest = self._manifest(kind, version)
        folder = self._folder / kind / "versions" / version
        files = {}
        for name, expected in manifest["files"].items():
            try:
                data = (folder / _safe(name)).read_bytes()
            except OSError as error:
                raise ModelInvalid(f"{kind} {version}: {name} cannot be read") from error
            if hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise ModelInvalid(f"{kind} {version}: {name} does not match its checksum")
            files[name] = data
        return StoredModel(kind, version, float(manifest["created"]), manifest["meta"], files)

    def _intact(self, kind: str, version: str) -> StoredModel | None:
        try:
            return self._load(kind, version)
        except (ModelInvalid, NotFound) as error:
            self._report(kind, version, error)
            return None

    def _replaceable(self, kind: str, version: str, sums: Mapping[str, str]) -> bool:
        """Whether the stored version is damaged; False when it holds just these files; raises when it holds others."""
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

    def _put(self, kind: str, record: _Record, stack: tuple[str, ...], promotion: Promotion) -> None:
        folder = self._folder / kind / "promotions"
        _make(folder)
        known = set(self._names(kind))
        stack = tuple(v for v in stack if v in known)[-HISTORY:]
        history = (*(p for p in record.history if p.version in known), promotion)[-HISTORY:]
        body = {"format": FORMAT, "stack": stack, "history": [asdict(p) for p in history]}
        descriptor, name = tempfile.mkstemp(prefix=".", dir=folder)
        os.close(descriptor)
        try:
            _write(Path(name), _seal(body))
            Path(name).chmod(0o644)
            Path(name).rename(folder / f"{record.number + 1:08d}.json")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _flush(folder)

    def _sweep(self, folder: Path) -> None:
        """Remove what a killed process left half written."""
        for path in folder.glob(".*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_OVER_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def _safe(name: str) -> str:
    """Names become paths: letters, digits, `.`, `_`, `-`, beginning with neither sign, so never out of the folder."""
    if not _NAME.fullmatch(name):
        raise ModelInvalid(f"{name[:40]!r} is no name for a model, version or file")
    return name


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _seal(body: Mapping[str, Any]) -> bytes:
    """`body` as JSON for people to read, with a checksum of its canonical form."""
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


def _make(folder: Path) -> None:
    """`folder` and its parents, each new one flushed into the folder that holds it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _flush(path.parent)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
