"""Backup and restore of a data folder or of Redis. The Redis modules are imported only when Redis is configured."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.settings import Settings
from app.system.checks import check_settings
from app.system.ownership import owned
from app.system.restore_marker import FOLDER, mark, refuse_folder, refuse_redis
from app.system.stores import DAY, ITEMS_FILE, LOG_FILE, MEMORY_FILE, MODELS_FOLDER, STATE_FILE, open_redis
from app.telemetry.metrics_export import version
from services.backends.sqlite.items import SqliteItems
from services.backends.sqlite.log import SqliteLog
from services.backends.sqlite.memory import SqliteMemory
from services.backends.sqlite.state import SqliteState
from services.backup.archive import Archive, ArchiveWriter
from services.backup.contents import KEYS, Parts, Progress
from services.backup.restoring import describe_contents, restore
from services.backup.saving import save
from services.errors import NotFound, SettingsInvalid, StorageFailed
from services.models.folder_files import FolderFiles

if TYPE_CHECKING:
    from services.backends.redis.server import Redis

KEYS_FILE = "signing_keys"
STAGING = "restoring.part"
"""Subfolder of a data folder into which a backup is unpacked; can be ignored when left behind."""
STORE_FILES = (MEMORY_FILE, STATE_FILE, ITEMS_FILE, LOG_FILE)
"""Moved in this order, the log last: without it no learner continues from the rest."""
INDEX_FOLDERS = ("lexical", "vectors", "taste")
LEASE_SECONDS = 3.0
LEASE_WAIT_SECONDS = 12.0
"""Seconds to wait for the lease: longer than that of a dead learner lasts."""
SCAN_BATCH = 1000
"""Keys per SCAN call."""


# --- backup ---


async def create_backup(
    settings: Settings, path: Path, with_keys: bool, progress: Progress
) -> tuple[dict[str, Any], list[str]]:
    """Write a backup of the configured stores to `path`, which must not exist. Returns (its manifest, notes for the
    operator). Raises NotFound when there is nothing to back up, StorageFailed."""
    now = time.time()
    keys, key_entry = _keys(settings, with_keys)
    async with _source(settings) as parts:
        source = {"stores": "redis" if parts.shared else "embedded", "namespace": settings.namespace}
        entries = {"source": source, "keys": key_entry}
        with ArchiveWriter(path, version(), now) as archive:
            manifest = await save(parts, archive, settings.model_dump(mode="json"), keys, entries, progress)
            archive.finish(manifest)
    return manifest | {"version": version(), "created": now}, [*manifest["warnings"], _key_note(key_entry)]


@asynccontextmanager
async def _source(settings: Settings) -> AsyncIterator[Parts]:
    if settings.redis_url is not None:
        async with open_redis(settings) as redis:
            await refuse_redis(redis)
            yield _shared_parts(settings, redis)
        return
    folder = settings.data_dir
    if not (folder / LOG_FILE).exists() or not (folder / ITEMS_FILE).exists():
        raise NotFound(f"there is nothing to back up in {folder}; LTRR_DATA_DIR sets the folder of the service")
    refuse_folder(folder)
    async with AsyncExitStack() as stack:
        yield _folder_parts(settings, folder, stack)


def _keys(settings: Settings, include: bool) -> tuple[bytes | None, dict[str, Any]]:
    """(the signing keys, if requested and stored in the data folder; the manifest's entry about them)."""
    if settings.signing_keys is not None:
        return None, {"where": "settings", "included": False, "fingerprint": None}
    path = settings.data_dir / KEYS_FILE
    keys = path.read_bytes() if path.exists() else b""
    included = bool(include and keys)
    return (keys if included else None), {"where": "folder", "included": included, "fingerprint": _fingerprint(keys)}


def _key_note(key_entry: dict[str, Any]) -> str:
    if key_entry["where"] == "settings":
        return "LTRR_SIGNING_KEYS is not in the backup: store it with your secrets"
    if key_entry["included"]:
        return "the backup contains the signing keys: store it with your secrets"
    return (
        f"the signing keys are not in the backup: after a restore without this {KEYS_FILE} file, earlier answers take"
        " no feedback (see --with-keys)"
    )


def _fingerprint(keys: bytes) -> str:
    """Distinguishes generated keys without revealing them: they are long and random."""
    return hashlib.sha256(b"ltrr signing keys\0" + keys).hexdigest()[:8]


# --- restore ---


async def restore_backup(settings: Settings, archive: Archive, force: bool, progress: Progress) -> list[str]:
    """Restore a checked backup into the configured stores, which must be empty unless `force`. Returns notes for the
    operator. Raises SettingsInvalid when the stores are not empty or in use, StorageFailed."""
    check_settings(settings)
    with owned(settings.data_dir) if settings.embedded else nullcontext():
        if settings.redis_url is None:
            await _restore_folder(settings, archive, force, progress)
        else:
            await _restore_redis(settings, archive, force, progress)
        return _notes(settings, archive)


async def _restore_folder(settings: Settings, archive: Archive, force: bool, progress: Progress) -> None:
    """Unpack everything into a subfolder first, and replace the existing files only then."""
    folder = settings.data_dir
    if not force:
        refuse_folder(folder)
        if any((folder / name).exists() for name in (*STORE_FILES, MODELS_FOLDER)):
            async with AsyncExitStack() as stack:
                _refuse(await describe_contents(_folder_parts(settings, folder, stack)), str(folder))
    staging, complete = folder / STAGING, folder / FOLDER
    shutil.rmtree(staging, ignore_errors=True)
    try:
        async with AsyncExitStack() as stack:
            await restore(_folder_parts(settings, staging, stack), archive, progress)
        if KEYS in archive.names() and settings.signing_keys is None:
            _write_private(staging / KEYS_FILE, archive.read(KEYS))
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    shutil.rmtree(complete, ignore_errors=True)
    _flush(staging)
    staging.rename(complete)
    _flush(folder)
    for name in (*(file + end for file in STORE_FILES for end in ("", "-wal", "-shm")), MODELS_FOLDER, *INDEX_FOLDERS):
        _remove(folder / name)
    for name in (MODELS_FOLDER, KEYS_FILE, *STORE_FILES):
        if (complete / name).exists():
            (complete / name).rename(folder / name)
            _flush(folder)
    shutil.rmtree(complete)
    _flush(folder)


async def _restore_redis(settings: Settings, archive: Archive, force: bool, progress: Progress) -> None:
    from app.system.learner_process import LEASE
    from services.backends.redis.locks import Lease

    async with open_redis(settings) as redis:
        lease = Lease(redis, LEASE, LEASE_SECONDS)
        try:
            async with asyncio.timeout(LEASE_WAIT_SECONDS):
                await lease.acquire()
        except TimeoutError:
            raise SettingsInvalid("restore: a learner is running on this Redis; stop it and the gateways") from None
        try:
            parts = _shared_parts(settings, redis)
            if not force:
                await refuse_redis(redis)
                _refuse(await describe_contents(parts), f"Redis under {settings.namespace}")
            await redis.write(lambda c: c.set(mark(redis), "1"))
            await _empty(redis)
            await restore(parts, archive, progress)
            await lease.verify()
            await redis.write(lambda c: c.delete(mark(redis)))
        finally:
            await lease.release()


async def _empty(redis: Redis) -> None:
    """Remove all keys of our namespace except locks, leases and the restore marker."""
    kept = tuple(redis.key(name).encode() for name in ("lock:", "lease:", "restoring"))
    cursor = 0
    while True:
        found: Any = await redis.read(lambda c, of=cursor: c.scan(of, match=redis.key("*"), count=SCAN_BATCH))  # type: ignore[misc]
        cursor, keys = found
        deletable = [key for key in keys if not key.startswith(kept)]
        if deletable:
            await redis.write(lambda c, them=deletable: c.unlink(*them))  # type: ignore[misc]
        if int(cursor) == 0:
            return


def _refuse(there: str | None, where: str) -> None:
    if there is not None:
        raise SettingsInvalid(f"restore: {where} is not empty ({there}); --force deletes its contents first")


def _notes(settings: Settings, archive: Archive) -> list[str]:
    manifest = archive.manifest
    notes = [f"at the time of the backup: {warning}" for warning in manifest["warnings"]]
    keys, key_file = manifest["keys"], settings.data_dir / KEYS_FILE
    if settings.signing_keys is None:
        same = key_file.exists() and _fingerprint(key_file.read_bytes()) == keys["fingerprint"]
        if not same:
            notes.append("the signing keys differ from those of the backup: answers given before it take no feedback")
    elif keys["included"]:
        notes.append(
            "LTRR_SIGNING_KEYS is set, so the keys in the backup were not restored: answers given before it take"
            " feedback only if LTRR_SIGNING_KEYS includes them (`tar -xOf FILE signing_keys` prints them)"
        )
    else:
        notes.append("answers given before the backup take feedback only with the signing keys of that time")
    return notes


# --- common ---


def _folder_parts(settings: Settings, folder: Path, stack: AsyncExitStack) -> Parts:
    """The stores in `folder`; a service may be running on it."""
    log = SqliteLog(folder / LOG_FILE)
    stack.push_async_callback(log.close)
    memory = SqliteMemory(folder / MEMORY_FILE, half_life=settings.memory_half_life_days * DAY)
    stack.push_async_callback(memory.close)
    items = SqliteItems(folder / ITEMS_FILE, owner=False)
    stack.push_async_callback(items.close)
    state = SqliteState(folder / STATE_FILE)
    stack.push_async_callback(state.close)
    return Parts(log, items, memory, state, FolderFiles(folder / MODELS_FOLDER), shared=False)


def _shared_parts(settings: Settings, redis: Redis) -> Parts:
    from services.backends.redis.items import RedisItems
    from services.backends.redis.log import RedisLog
    from services.backends.redis.memory import RedisMemory
    from services.backends.redis.state import RedisState
    from services.models.redis_files import RedisFiles

    if settings.redis_url is None:
        raise StorageFailed("LTRR_REDIS_URL is not set")
    return Parts(
        RedisLog(redis),
        RedisItems(redis),
        RedisMemory(redis, half_life=settings.memory_half_life_days * DAY),
        RedisState(redis),
        RedisFiles(settings.redis_url.get_secret_value(), settings.namespace),
        shared=True,
    )


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
