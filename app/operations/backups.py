"""Where backups are made from and put back into: a data folder, or Redis. The production clients are imported only
where they are asked for."""

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
"""In a data folder, while a backup is unpacked there; of no meaning when left behind."""
FILES = (MEMORY_FILE, STATE_FILE, ITEMS_FILE, LOG_FILE)
"""The log last: without it, no learner goes on from the rest."""
DERIVED = ("lexical", "vectors", "taste")
LEASE_SECONDS = 3.0
LEASE_PATIENCE = 12.0
"""Seconds after which the lease of a learner that died is free."""
UNLINK_AT_ONCE = 1000


# --- making ---


async def back_up(
    settings: Settings, path: Path, with_keys: bool, progress: Progress
) -> tuple[dict[str, Any], list[str]]:
    """Write a backup of the stores in use to `path`, which must not exist; its manifest, and what its operator has to
    know. Raises NotFound when there is nothing to back up, StorageFailed."""
    now = time.time()
    keys, about = _keys(settings, with_keys)
    async with _source(settings) as parts:
        source = {"stores": "redis" if parts.shared else "embedded", "namespace": settings.namespace}
        told = {"source": source, "keys": about}
        with ArchiveWriter(path, version(), now) as archive:
            manifest = await save(parts, archive, settings.model_dump(mode="json"), keys, told, progress)
            archive.finish(manifest)
    return manifest | {"version": version(), "created": now}, [*manifest["warnings"], _key_note(about)]


@asynccontextmanager
async def _source(settings: Settings) -> AsyncIterator[Parts]:
    if settings.redis_url is not None:
        async with open_redis(settings) as redis:
            await refuse_redis(redis)
            yield _shared_parts(settings, redis)
        return
    folder = settings.data_dir
    if not (folder / LOG_FILE).exists() or not (folder / ITEMS_FILE).exists():
        raise NotFound(f"there is nothing to back up in {folder}; LTRR_DATA_DIR names the folder of the service")
    refuse_folder(folder)
    async with AsyncExitStack() as stack:
        yield _folder_parts(settings, folder, stack)


def _keys(settings: Settings, wanted: bool) -> tuple[bytes | None, dict[str, Any]]:
    """The signing keys, if they are wanted and ours to give, and what the manifest says of them."""
    if settings.signing_keys is not None:
        return None, {"where": "settings", "included": False, "fingerprint": None}
    path = settings.data_dir / KEYS_FILE
    keys = path.read_bytes() if path.exists() else b""
    included = bool(wanted and keys)
    return (keys if included else None), {"where": "folder", "included": included, "fingerprint": _fingerprint(keys)}


def _key_note(about: dict[str, Any]) -> str:
    if about["where"] == "settings":
        return "LTRR_SIGNING_KEYS is not in the backup: keep it where you keep secrets"
    if about["included"]:
        return "the backup holds the signing keys: keep it where you keep secrets"
    return (
        f"the signing keys are not in the backup: restored without this {KEYS_FILE} file, answers given before it take"
        " no feedback (see --with-keys)"
    )


def _fingerprint(keys: bytes) -> str:
    """Tells keys that we made from each other, and nothing about them: they are long and random."""
    return hashlib.sha256(b"ltrr signing keys\0" + keys).hexdigest()[:8]


# --- putting back ---


async def put_back(settings: Settings, archive: Archive, force: bool, progress: Progress) -> list[str]:
    """Put a backup that was checked in the place of what is there: nothing, unless `force`. Returns what its operator
    has to know. Raises SettingsInvalid when the place is not empty or in use, StorageFailed."""
    check_settings(settings)
    with owned(settings.data_dir) if settings.embedded else nullcontext():
        if settings.redis_url is None:
            await _into_folder(settings, archive, force, progress)
        else:
            await _into_redis(settings, archive, force, progress)
        return _notes(settings, archive)


async def _into_folder(settings: Settings, archive: Archive, force: bool, progress: Progress) -> None:
    """All is unpacked beside what is there, which gives way only then."""
    folder = settings.data_dir
    if not force:
        refuse_folder(folder)
        if any((folder / name).exists() for name in (*FILES, MODELS_FOLDER)):
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
    for name in (*(file + end for file in FILES for end in ("", "-wal", "-shm")), MODELS_FOLDER, *DERIVED):
        _remove(folder / name)
    for name in (MODELS_FOLDER, KEYS_FILE, *FILES):
        if (complete / name).exists():
            (complete / name).rename(folder / name)
            _flush(folder)
    shutil.rmtree(complete)
    _flush(folder)


async def _into_redis(settings: Settings, archive: Archive, force: bool, progress: Progress) -> None:
    from app.system.learner_process import LEASE
    from services.backends.redis.locks import Lease

    async with open_redis(settings) as redis:
        lease = Lease(redis, LEASE, LEASE_SECONDS)
        try:
            async with asyncio.timeout(LEASE_PATIENCE):
                await lease.acquire()
        except TimeoutError:
            raise SettingsInvalid("restore: a learner is at work on this Redis; stop it and the gateways") from None
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
    """Remove every key of ours but locks, leases and the mark."""
    kept = tuple(redis.key(name).encode() for name in ("lock:", "lease:", "restoring"))
    cursor = 0
    while True:
        found: Any = await redis.read(lambda c, of=cursor: c.scan(of, match=redis.key("*"), count=UNLINK_AT_ONCE))  # type: ignore[misc]
        cursor, keys = found
        gone = [key for key in keys if not key.startswith(kept)]
        if gone:
            await redis.write(lambda c, them=gone: c.unlink(*them))  # type: ignore[misc]
        if int(cursor) == 0:
            return


def _refuse(there: str | None, where: str) -> None:
    if there is not None:
        raise SettingsInvalid(f"restore: {where} is not empty ({there}); --force removes all that first")


def _notes(settings: Settings, archive: Archive) -> list[str]:
    manifest = archive.manifest
    notes = [f"when it was made: {warning}" for warning in manifest["warnings"]]
    keys, here = manifest["keys"], settings.data_dir / KEYS_FILE
    if settings.signing_keys is None:
        same = here.exists() and _fingerprint(here.read_bytes()) == keys["fingerprint"]
        if not same:
            notes.append("the signing keys are not those of the backup: answers given before it take no feedback")
    elif keys["included"]:
        notes.append(
            "LTRR_SIGNING_KEYS is set, so the keys in the backup (`tar -xOf FILE signing_keys`) were left there:"
            " answers given before it take feedback only when they are among LTRR_SIGNING_KEYS"
        )
    else:
        notes.append("answers given before the backup take feedback only under the signing keys of that time")
    return notes


# --- both ---


def _folder_parts(settings: Settings, folder: Path, stack: AsyncExitStack) -> Parts:
    """What lies in `folder`, beside a service that may be running on it."""
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
