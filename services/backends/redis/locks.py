"""Locks and leases in Redis, for work that only one process may do at a time.

A lock is a key with a random token and an expiry, renewed while it is held; a lease is a lock that is held for long and
whose holders are numbered. Both rest on clocks that run at the same speed, not on clocks that show the same time.

A holder that was stopped for longer than its lock lasts (SIGSTOP, a suspended machine) may do one more thing before it
notices. Where that must not be, the write itself has to be fenced: see `Lease`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from services.backends.local_locks import LocalLocks
from services.backends.redis.server import Redis
from services.errors import StorageFailed

LOCK_SECONDS = 10.0
"""Lifetime of a lock: seconds that others wait for a holder that died."""
SAFE_SHARE = 0.8
"""Share of its lifetime after which a lock that could not be renewed counts as lost; others get it only after all of
it."""
RENEWALS = 4
"""Attempts to renew within a lock's lifetime."""
MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.01, 0.25
"""Bounds of the pause between two attempts to take a held lock: doubling, each less a random part."""
CALL_SECONDS = 2.0


class RedisLocks:
    """Locks in `redis`. A holder that died is taken over from after `seconds`."""

    def __init__(self, redis: Redis, seconds: float = LOCK_SECONDS) -> None:
        self._redis = redis
        self._seconds = seconds
        # Tasks of one process queue up here, so that only one of them polls the server.
        self._local = LocalLocks()

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Wait until nobody else holds `name`, then hold it. Raises StorageFailed when the server cannot say who holds
        it, also from the body: when the lock cannot be renewed in time, the body is interrupted (as by a cancellation)
        before anybody else can get the lock."""
        async with self._local.hold(name):
            key, token = self._redis.key("lock", name), secrets.token_hex(16)
            held = asyncio.timeout(None)
            try:
                until = await self._acquire(key, token)
                async with held:
                    held.reschedule(until)
                    renewing = asyncio.create_task(self._renew(key, token, held))
                    try:
                        yield
                    finally:
                        renewing.cancel()
                        await asyncio.wait([renewing])
            except TimeoutError:
                if held.expired():
                    raise StorageFailed(f"redis: the lock {name} was lost") from None
                raise
            finally:
                # Also after a failure to acquire: the server may have given it to us without our hearing of it.
                with suppress(StorageFailed):
                    await _call(self._redis, CALL_SECONDS, "lock_release", [key], token)

    async def _acquire(self, key: str, token: str) -> float:
        """Take the lock; returns the time until which it is ours, by the event loop's clock."""
        loop = asyncio.get_running_loop()
        wait, milliseconds = MIN_WAIT_SECONDS, round(1000 * self._seconds)
        while True:
            until = loop.time() + SAFE_SHARE * self._seconds
            taken = await self._redis.write(lambda c: c.set(key, token, nx=True, px=milliseconds), CALL_SECONDS)
            if taken and loop.time() < until:  # An answer that took too long is worth nothing: the lock will expire.
                return until
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311
            wait = min(2 * wait, MAX_WAIT_SECONDS)

    async def _renew(self, key: str, token: str, held: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SAFE_SHARE * self._seconds / RENEWALS)
            sent_at = loop.time()
            try:
                ours = await _renewed(self._redis, key, token, self._seconds)
            except StorageFailed:
                continue
            if held.expired():
                return
            held.reschedule(sent_at + SAFE_SHARE * self._seconds if ours else sent_at)


class Lease:
    """The right to do something alone for as long as one lives, such as learning.

    Every time it is acquired a new epoch begins, numbered upwards. A write that must not come from a former holder is
    conditioned on the epoch, in the script that writes: pass `epoch_key` among its KEYS and `epoch` among its ARGV, and
    refuse unless `redis.call('GET', KEYS[n]) == ARGV[m]`. An expired lease that nobody took over passes; that is safe.
    """

    def __init__(self, redis: Redis, name: str, seconds: float = LOCK_SECONDS) -> None:
        self._redis = redis
        self._name = name
        self._seconds = seconds
        self._key = redis.key("lease", name)
        self.epoch_key = redis.key("lease", name, "epoch")
        self.epoch = 0
        """Number of this holder's epoch; 0 before the first."""
        self._until = 0.0
        self._renewing: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether the lease is ours at this moment; from any thread. Once lost, it stays lost until `acquire`."""
        return time.monotonic() < self._until

    async def acquire(self) -> int:
        """Wait until nobody else holds the lease and take it; returns the number of the epoch. Raises StorageFailed."""
        await self._stop()
        wait, milliseconds = MIN_WAIT_SECONDS, round(1000 * self._seconds)
        while True:
            until = time.monotonic() + SAFE_SHARE * self._seconds
            epoch = await _call(self._redis, CALL_SECONDS, "lock_lease", [self._key, self.epoch_key], milliseconds)
            if epoch and time.monotonic() < until:
                break
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311
            wait = min(2 * wait, MAX_WAIT_SECONDS)
        self.epoch, self._until = epoch, until
        self._renewing = asyncio.create_task(self._renew())
        return self.epoch

    async def wait_lost(self) -> None:
        """Wait until the lease is lost."""
        if self._renewing is not None:
            await asyncio.wait([self._renewing])

    async def verify(self) -> None:
        """Raises StorageFailed when the lease is lost, or when the server cannot say."""
        if not self.held or await self.current_epoch() != self.epoch:
            raise StorageFailed(f"the lease {self._name} was lost")

    async def current_epoch(self) -> int:
        """Number of the newest epoch, whichever process holds it; 0 before the first. Raises StorageFailed."""
        value: Any = await self._redis.read(lambda c: c.get(self.epoch_key))
        return 0 if value is None else int(value)

    async def release(self) -> None:
        """Release the lease at once; if the server is away, it expires."""
        await self._stop()
        if self.epoch:
            with suppress(StorageFailed):
                await _call(self._redis, CALL_SECONDS, "lock_release", [self._key], self.epoch)

    async def _renew(self) -> None:
        """Renew the lease for as long as it is ours."""
        while self.held:
            await asyncio.sleep(min(SAFE_SHARE * self._seconds / RENEWALS, self._until - time.monotonic()))
            sent_at = time.monotonic()
            try:
                ours = await _renewed(self._redis, self._key, self.epoch, self._seconds)
            except StorageFailed:
                continue
            self._until = sent_at + SAFE_SHARE * self._seconds if ours else 0.0

    async def _stop(self) -> None:
        self._until = 0.0
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None


async def _renewed(redis: Redis, key: str, token: str | int, seconds: float) -> bool:
    """Whether the lock is still that holder's, now for `seconds` from the call on. Raises StorageFailed."""
    ours = await _call(redis, seconds / RENEWALS, "lock_renew", [key], token, round(1000 * seconds))
    return bool(ours)


async def _call(redis: Redis, seconds: float, name: str, keys: list[str], *arguments: str | int) -> int:
    script = redis.script(name)
    result: Any = await redis.write(lambda c: script(keys=keys, args=arguments, client=c), seconds)
    return int(result)
