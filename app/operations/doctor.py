"""Read-only checks of an installation, each with a verdict and advice."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from app.settings import Settings
from app.system.indexes import open_opensearch, open_qdrant
from app.system.ownership import owner
from app.system.stores import LOG_FILE, Stores, model_store, open_items, open_log, open_redis, open_stores
from services.backends.base import EventLog
from services.errors import LtrrError, NotFound
from services.learning.learner_link import LearnerLink
from services.query_ids import parse_keys
from services.types import Deadline, Schema

REQUEST_SECONDS = 5.0
"""Deadline of one request to an engine."""
MIN_FREE_BYTES = 1_000_000_000
MIN_FREE_SHARE = 0.05
MAX_SKEW_SECONDS = 2.0
MIN_SECRET_LENGTH = 32
HEARTBEAT_TIMEOUT = 15.0
"""A learner without a heartbeat for this long counts as down."""
MAX_LAG = 10_000
MIN_OPENSEARCH_VERSION = 3


class Verdict(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check of one part."""

    part: str
    verdict: Verdict
    detail: str
    advice: str = ""
    """How to fix it."""


Findings = AsyncIterator[Finding]


def ok(part: str, detail: str) -> Finding:
    """A finding that needs no action."""
    return Finding(part, Verdict.OK, detail)


def warning(part: str, detail: str, advice: str) -> Finding:
    """A finding that should be looked into."""
    return Finding(part, Verdict.WARNING, detail, advice)


def failed(part: str, detail: str, advice: str) -> Finding:
    """A finding that keeps the part from working."""
    return Finding(part, Verdict.FAILED, detail, advice)


async def examine(settings: Settings) -> Findings:
    """All findings, one at a time. An unreachable part is a finding, never an exception."""
    checks: list[tuple[str, Callable[[Settings], Findings]]] = [
        ("settings", _settings),
        ("packages", _packages),
        ("disk", _disk),
    ]
    if settings.redis_url is not None:
        checks.append(("redis", _redis))
    if settings.opensearch_url is not None:
        checks.append(("opensearch", _opensearch))
    if settings.qdrant_url is not None:
        checks.append(("qdrant", _qdrant))
    checks += [("catalogue", _catalogue), ("event log", _log), ("models", _models)]
    for part, check in checks:
        try:
            async for finding in check(settings):
                yield finding
        except NotFound as error:
            yield warning(part, str(error), "`ltrr index --help`, or `ltrr demo` for a sample catalogue")
        except (LtrrError, OSError, TimeoutError) as error:
            yield failed(part, str(error) or "no answer in time", _advice(part))


async def _settings(settings: Settings) -> Findings:
    engines = {"OpenSearch": settings.opensearch_url, "Qdrant": settings.qdrant_url, "Redis": settings.redis_url}
    used = [name for name, url in engines.items() if url is not None]
    yield ok("settings", f"engines: {', '.join(used)}" if used else "engines: all embedded")
    if settings.signing_keys is not None:
        short = [
            kid
            for kid, secret in parse_keys(settings.signing_keys.get_secret_value())
            if len(secret) < MIN_SECRET_LENGTH
        ]
        if short:
            yield warning(
                "settings",
                f"signing key {short[0]} is shorter than {MIN_SECRET_LENGTH} bytes",
                "add a longer one before it in LTRR_SIGNING_KEYS (`openssl rand -hex 32`); the old one still verifies",
            )
    if settings.admin_key is None and settings.redis_url is not None:
        yield warning(
            "settings", "no admin key", "set LTRR_ADMIN_KEY: without it the service binds only to loopback addresses"
        )
    if settings.workers > 1 and settings.embedded:
        yield failed(
            "settings", f"{settings.workers} workers with an embedded part", f"set {', '.join(settings.embedded)}"
        )


async def _packages(settings: Settings) -> Findings:
    current = {
        "opentelemetry.sdk": ("tracing", settings.otlp_endpoint is not None),
        "tokenizers": ("encoder", settings.encoder is not None),
    }
    missing = [extra for module, (extra, needed) in current.items() if needed and not _installed(module)]
    for extra in missing:
        yield failed("packages", f"the extra `{extra}` is not installed", f"pip install 'ltrr[{extra}]'")
    if not missing:
        yield ok("packages", "everything that the settings need is installed")


async def _disk(settings: Settings) -> Findings:
    folder = settings.data_dir
    if not folder.is_dir():
        if settings.embedded:
            yield warning(
                "disk", f"{folder} does not exist yet", "it is created at the first start; LTRR_DATA_DIR sets it"
            )
        return
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / 1e9:.1f} GB free at {folder.resolve()}"
    if usage.free < MIN_FREE_BYTES or usage.free < MIN_FREE_SHARE * usage.total:
        yield warning("disk", free, "free some space: with a full disk, feedback and item writes are refused (503)")
    else:
        yield ok("disk", free)
    running = owner(folder) if settings.embedded else None
    if running is not None:
        yield ok("disk", f"process {running.pid} owns the folder{f', serving at {running.url}' if running.url else ''}")


async def _redis(settings: Settings) -> Findings:
    async with open_redis(settings) as redis:
        began = time.perf_counter()
        seconds, micros = await redis.read(lambda client: client.time())
        took = time.perf_counter() - began
        yield ok("redis", f"version {await redis.version()}, answers in {1000 * took:.1f} ms")
        for problem in await redis.check():
            yield warning("redis", problem, "see deploy/engines and the durability section of RESILIENCY.md")
        skew = time.time() - took / 2 - (seconds + micros / 1e6)
        if abs(skew) > MAX_SKEW_SECONDS:
            yield warning(
                "clock", f"{skew:+.1f} s from the clock of Redis", "run time synchronisation (NTP) on every machine"
            )
        else:
            yield ok("clock", f"{skew:+.2f} s from the clock of Redis")


async def _opensearch(settings: Settings) -> Findings:
    schema = await _schema(settings)
    index = open_opensearch(settings, schema or Schema())
    try:
        version = await index.version(Deadline.after(REQUEST_SECONDS))
        if int(version.split(".")[0]) < MIN_OPENSEARCH_VERSION:
            yield warning("opensearch", f"version {version} scores text differently from 3.x", "upgrade to 3.x")
        else:
            yield ok("opensearch", f"version {version}")
        if schema is not None and await index.stale():
            yield warning(
                "opensearch",
                "no index for the current schema",
                "a running service builds it; or run `ltrr index --rebuild`",
            )
    finally:
        await index.close()


async def _qdrant(settings: Settings) -> Findings:
    server = open_qdrant(settings)
    try:
        version = await server.version(Deadline.after(REQUEST_SECONDS))
        problems = await server.problems(Deadline.after(REQUEST_SECONDS))
        for problem in problems:
            yield warning("qdrant", problem, "use a server version that the client supports")
        if not problems:
            yield ok("qdrant", f"version {version}")
    finally:
        await server.close()


async def _catalogue(settings: Settings) -> Findings:
    async with open_items(settings) as items:
        count, schema = await items.count(), await items.schema()
    if not count:
        yield warning("catalogue", "no items", "`ltrr index CATALOGUE_OR_DIR`, or PUT /v1/items")
        return
    fields = len(schema.fields) if schema else 0
    yield ok("catalogue", f"{count} items, {fields} fields with a role")


async def _log(settings: Settings) -> Findings:
    async with open_log(settings) as log:
        end, at = await log.end()
        age = f", the last {time.time() - at:.0f} s ago" if end else ""
        yield ok("event log", f"{end} records{age}")
        dead = await log.dead_letters(100)
        if dead:
            offset, reason = dead[0]
            yield warning(
                "event log",
                f"{'100 or more' if len(dead) == 100 else len(dead)} records could not be applied, the newest at "
                f"offset {offset}: {reason}",
                "all other records are learned from; keep a backup and report it",
            )
    if settings.redis_url is not None:
        async with open_stores(settings) as stores:
            async for finding in _learner(stores, stores.log):
                yield finding


async def _learner(stores: Stores, log: EventLog) -> Findings:
    link = LearnerLink(log, stores.memory, stores.state)
    seen = await link.status_age()
    progress = await link.observe()
    behind = max(progress.lag.values())
    if seen is None or seen > HEARTBEAT_TIMEOUT:
        when = "has never reported" if seen is None else f"has not reported for {seen:.0f} s"
        yield failed("learner", f"it {when}; {behind} records are waiting", "start `ltrr learn` with the same settings")
    elif behind > MAX_LAG:
        yield warning(
            "learner",
            f"{behind} records behind",
            "wait for it to catch up; otherwise the machine is too slow for the traffic",
        )
    else:
        yield ok("learner", f"running, {progress.learned} decisions learned, {behind} records behind")


async def _models(settings: Settings) -> Findings:
    if settings.redis_url is None and not (settings.data_dir / LOG_FILE).exists():
        return
    store = model_store(settings)
    for kind in await asyncio.to_thread(store.kinds):
        current = await asyncio.to_thread(store.current_version, kind)
        intact = await asyncio.to_thread(store.current, kind)
        if current is None:
            yield ok("models", f"{kind}: none active")
        elif intact is None or intact.version != current:
            served = intact.version if intact else "none"
            yield failed(
                "models",
                f"{kind} {current} is damaged; served: {served}",
                f"`ltrr models rollback {kind}`, or train it again",
            )
        else:
            yield ok("models", f"{kind} {current} is active and intact")


async def _schema(settings: Settings) -> Schema | None:
    try:
        async with open_items(settings) as items:
            return await items.schema()
    except LtrrError:
        return None


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _advice(part: str) -> str:
    return {
        "redis": "check that it is running and LTRR_REDIS_URL is correct; without it the service does not start",
        "opensearch": "check that it is running and LTRR_OPENSEARCH_URL is correct; without it only other arms answer",
        "qdrant": "check that it is running and LTRR_QDRANT_URL is correct; without it vector arms are unavailable",
    }.get(part, "see the error; RESILIENCY.md describes how the service behaves without this part")
