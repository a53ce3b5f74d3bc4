"""Locks and leases: one holder at a time, whoever dies or loses touch."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.backends.base import Locks
from services.backends.local_locks import LocalLocks
from services.backends.redis.locks import Lease, RedisLocks
from services.backends.redis.server import Redis
from services.errors import StorageFailed
from tests.contracts.locks import LocksContract
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[3]
NAMES = (f"test{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@asynccontextmanager
async def connected(server: RedisServer, namespace: str = "ltrr") -> AsyncIterator[Redis]:
    redis = Redis(server.url, namespace)
    try:
        yield redis
    finally:
        await redis.close()


class TestLocalLocks(LocksContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Locks]:
        yield LocalLocks()


class TestRedisLocks(LocksContract):
    @pytest.fixture(autouse=True)
    def on(self, server: RedisServer) -> None:
        self.server = server

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Locks]:
        async with connected(self.server, next(NAMES)) as redis:
            yield RedisLocks(redis)


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# --- locks ---


CONTEND = """
import asyncio, sys
from services.backends.redis.server import Redis
from services.backends.redis.locks import RedisLocks

async def main():
    redis = Redis(sys.argv[1], "contention")
    inside, counter = redis.key("inside"), redis.key("counter")

    async def work(locks):
        for _ in range(10):
            async with locks.hold("indexing"):
                # Would lose counts, and find others inside, if two held it at once.
                assert await redis.write(lambda c: c.incr(inside)) == 1
                count = int(await redis.read(lambda c: c.get(counter)) or 0)
                await asyncio.sleep(0)
                await redis.write(lambda c: c.set(counter, count + 1))
                assert await redis.write(lambda c: c.decr(inside)) == 0

    print("ready", flush=True)
    sys.stdin.readline()
    # Two that share a queue, two that know nothing of each other.
    shared = RedisLocks(redis)
    await asyncio.gather(work(shared), work(shared), work(RedisLocks(redis)), work(RedisLocks(redis)))
    await redis.close()
    print("done")

asyncio.run(main())
"""


async def test_eight_tasks_of_two_processes_hold_it_one_at_a_time(server: RedisServer) -> None:
    children = [child(CONTEND, server.url) for _ in range(2)]
    assert [line(process) for process in children] == ["ready"] * 2
    for process in children:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in children] == ["done\n"] * 2
    async with connected(server, "contention") as redis:
        assert await redis.read(lambda c: c.get(redis.key("counter"))) == b"80"


HOLD = """
import asyncio, sys
from services.backends.redis.server import Redis
from services.backends.redis.locks import Lease, RedisLocks

async def main():
    redis = Redis(sys.argv[1], sys.argv[2])
    if sys.argv[3] == "lock":
        async with RedisLocks(redis, 1.0).hold("indexing"):
            print("held", flush=True)
            await asyncio.sleep(60)
    else:
        lease = Lease(redis, "learner", 1.0)
        print(await lease.acquire(), flush=True)
        await lease.wait_lost()
        try:
            await lease.verify()
        except Exception as error:
            print(type(error).__name__, flush=True)
        await redis.close()

asyncio.run(main())
"""


async def test_a_holder_that_died_is_taken_over_from(server: RedisServer) -> None:
    holder = child(HOLD, server.url, "takeover", "lock")
    assert line(holder) == "held"
    async with connected(server, "takeover") as redis:
        left = await redis.read(lambda c: c.pttl(redis.key("lock", "indexing")))
        assert 0 < left <= 1000
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        async with asyncio.timeout(5), RedisLocks(redis, 1.0).hold("indexing"):
            pass


async def test_a_lock_is_renewed_for_as_long_as_it_is_held(server: RedisServer) -> None:
    async with connected(server, "renewal") as redis:
        locks, others = RedisLocks(redis, 1.2), RedisLocks(redis, 1.2)
        async with locks.hold("a"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.0), others.hold("a"):
                    pytest.fail("held twice")
        assert await redis.read(lambda c: c.exists(redis.key("lock", "a"))) == 0


async def test_the_body_is_broken_off_when_the_lock_is_lost(server: RedisServer) -> None:
    async with connected(server, "lost") as redis:
        ended = False

        async def work() -> None:
            nonlocal ended
            async with RedisLocks(redis, 0.4).hold("a"):
                await redis.write(lambda c: c.set(redis.key("lock", "a"), "somebody else"))
                try:
                    await asyncio.sleep(60)
                finally:
                    ended = True

        with pytest.raises(StorageFailed, match="lost"):
            await work()
        assert ended
        # What is somebody else's stays theirs.
        assert await redis.read(lambda c: c.get(redis.key("lock", "a"))) == b"somebody else"


async def test_the_body_is_broken_off_before_others_can_have_the_lock_when_the_server_is_away() -> None:
    with RedisServer() as server:
        async with connected(server) as redis:
            loop = asyncio.get_running_loop()
            start = 0.0

            async def work() -> None:
                nonlocal start
                async with RedisLocks(redis, 0.5).hold("a"):
                    start = loop.time()
                    server.kill()
                    await asyncio.sleep(60)

            with pytest.raises(StorageFailed, match="lost"):
                await work()
            assert loop.time() - start < 0.5
            with pytest.raises(StorageFailed):
                async with RedisLocks(redis).hold("a"):
                    pytest.fail("held without a server")


async def test_a_restart_of_the_server_takes_no_lock_away() -> None:
    with RedisServer() as server:
        async with connected(server) as redis, RedisLocks(redis, 2.0).hold("a"):
            server.kill()
            server.restart()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.5), RedisLocks(redis, 2.0).hold("a"):
                    pytest.fail("held twice")


# --- leases ---


async def test_a_lease_begins_a_new_epoch_every_time(server: RedisServer) -> None:
    async with connected(server, "epochs") as redis:
        one, other = Lease(redis, "learner", 1.0), Lease(redis, "learner", 1.0)
        assert await one.current_epoch() == 0
        assert not one.held
        assert await one.acquire() == 1
        assert one.held
        await one.verify()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await other.acquire()
        assert not other.held
        with pytest.raises(StorageFailed):
            await other.verify()
        waiting = asyncio.create_task(other.acquire())
        await one.release()
        await one.wait_lost()
        assert await waiting == 2
        assert (one.held, other.held) == (False, True)
        assert await one.current_epoch() == 2
        await one.release()  # Not ours any more: nothing happens.
        await other.verify()
        await other.release()
        assert await one.acquire() == 3
        await one.release()
        other_name = Lease(redis, "another")
        assert await other_name.acquire() == 1
        await other_name.release()


async def test_a_lease_is_kept_for_as_long_as_one_lives_and_across_a_restart() -> None:
    with RedisServer() as server:
        async with connected(server) as redis:
            lease = Lease(redis, "learner", 1.5)
            await lease.acquire()
            other = asyncio.create_task(Lease(redis, "learner", 1.5).acquire())
            server.kill()
            server.restart()
            await asyncio.wait([other], timeout=2.5)
            assert lease.held
            await lease.verify()
            assert await lease.current_epoch() == 1
            other.cancel()
            await asyncio.wait([other])
            await lease.release()


async def test_a_lease_is_lost_before_others_can_have_it_when_the_server_is_away() -> None:
    with RedisServer() as server:
        async with connected(server) as redis:
            loop = asyncio.get_running_loop()
            lease = Lease(redis, "learner", 0.5)
            await lease.acquire()
            start = loop.time()
            server.kill()
            async with asyncio.timeout(5):
                await lease.wait_lost()
            assert loop.time() - start < 0.5
            assert not lease.held
            with pytest.raises(StorageFailed):
                await lease.verify()
            server.restart()
            with pytest.raises(StorageFailed):
                await lease.verify()  # Lost is lost, though nobody else has it.


async def test_a_lease_that_is_somebody_elses_is_noticed(server: RedisServer) -> None:
    async with connected(server, "noticed") as redis:
        lease = Lease(redis, "learner", 2.0)
        await lease.acquire()
        await lease.verify()
        # At once by who asks the server, whatever our own clock says.
        await redis.write(lambda c: c.incr(lease.epoch_key))
        assert lease.held
        with pytest.raises(StorageFailed):
            await lease.verify()
        await lease.release()
        await lease.acquire()
        # With the next renewal by who does not; and it stays lost, though no other epoch began.
        await redis.write(lambda c: c.set(redis.key("lease", "learner"), "somebody else"))
        async with asyncio.timeout(1.5):
            await lease.wait_lost()
        assert not lease.held
        assert await lease.current_epoch() == lease.epoch
        with pytest.raises(StorageFailed):
            await lease.verify()


FENCED = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""


async def test_a_learner_that_was_stopped_for_too_long_can_write_nothing(server: RedisServer) -> None:
    stopped = child(HOLD, server.url, "fence", "lease")
    assert line(stopped) == "1"
    stopped.send_signal(signal.SIGSTOP)
    try:
        async with connected(server, "fence") as redis:
            lease = Lease(redis, "learner", 1.0)
            async with asyncio.timeout(5):
                assert await lease.acquire() == 2

            async def publish(epoch: int) -> Any:
                keys = [lease.epoch_key, redis.key("model")]
                return await redis.write(lambda c: c.eval(FENCED, 2, *keys, str(epoch), f"model {epoch}"))

            assert await publish(lease.epoch) == 1
            assert await publish(1) == 0
            assert await redis.read(lambda c: c.get(redis.key("model"))) == b"model 2"
            stopped.send_signal(signal.SIGCONT)
            assert (await asyncio.to_thread(stopped.communicate))[0] == "StorageFailed\n"
            await lease.verify()
            await lease.release()
    finally:
        stopped.kill()
        stopped.communicate()
