"""Every Prometheus metric of the product, in base units, in one place. Labels are closed sets: no text, no ids.

A gauge's `multiprocess_mode` says how the values of several workers are combined: `livesum` for amounts that each
worker has, `livemax` where the worst value counts, `livemostrecent` where all report the same thing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
FAST_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, *SECONDS[1:])
SHARES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
COUNTS = (0, 5, 10, 25, 50, 75, 100, 150, 200, 300, 500, 1000)

REQUESTS = Counter("ltrr_requests", "HTTP requests", ["route", "status"])
REQUEST_SECONDS = Histogram("ltrr_request_duration_seconds", "HTTP request time", ["route"], buckets=SECONDS)
IN_FLIGHT = Gauge("ltrr_searches_in_flight", "Searches being answered now", multiprocess_mode="livesum")
SHED = Counter("ltrr_shed_requests", "Requests refused because of overload", ["route"])

STAGE_SECONDS = Histogram("ltrr_stage_duration_seconds", "Time of one stage", ["stage"], buckets=FAST_SECONDS)
ARM_SECONDS = Histogram("ltrr_arm_duration_seconds", "Time of one retrieval by an arm", ["arm"], buckets=FAST_SECONDS)
ARM_REQUESTS = Counter("ltrr_arm_requests", "Retrievals asked of an arm", ["arm", "outcome"])
ARM_CANDIDATES = Counter("ltrr_arm_candidates", "Candidates an arm returned", ["arm"])
DEGRADED = Counter("ltrr_degraded_searches", "Searches whose answer lacks a part")
CANDIDATES = Histogram("ltrr_candidates", "Candidates taken per search, over all arms", buckets=COUNTS)
HITS_SHOWN = Counter("ltrr_hits_shown", "Hits shown, by the arms that found them", ["arm"])

ENGINE_REQUESTS = Counter("ltrr_engine_requests", "Calls to a remote engine", ["engine", "outcome"])
ENGINE_SECONDS = Histogram("ltrr_engine_duration_seconds", "Time of one call to an engine", ["engine"], buckets=SECONDS)
ENGINE_RETRIES = Counter("ltrr_engine_retries", "Second tries of calls to a remote engine", ["engine"])
CIRCUIT_STATE = Gauge(
    "ltrr_circuit_state",
    "Circuit of an engine: 0 closed, 0.5 half open, 1 open",
    ["engine"],
    multiprocess_mode="livemax",
)

DECISIONS = Counter("ltrr_decisions", "Decisions", ["policy", "mode"])
CHOICES = Counter("ltrr_choices", "Counts chosen", ["arm", "count"])
PROPENSITY = Histogram("ltrr_propensity", "Propensity of the chosen count", ["arm"], buckets=SHARES)
POLICY_FALLBACKS = Counter("ltrr_policy_fallbacks", "Decisions taken over by the static policy after a failure")
SURVEYS = Counter("ltrr_surveys", "Answers that were surveyed in full, to learn from", ["outcome"])
POLICY_MODE = Gauge("ltrr_policy_mode", "1 for the mode in force", ["mode"], multiprocess_mode="livemostrecent")

FEEDBACK = Counter("ltrr_feedback_events", "Feedback events by disposition", ["status"])
REWARD = Histogram(
    "ltrr_reward", "Reward of a decision when its window closed", buckets=(-1, -0.5, 0, 0.1, 0.25, 0.5, 1)
)
LEARNED = Counter("ltrr_learned_decisions", "Decisions whose window closed and that the policy learned from")
LEARNER_LAG = Gauge(
    "ltrr_learner_lag_records",
    "Log records a consumer has not taken in yet",
    ["consumer"],
    multiprocess_mode="livemostrecent",
)
LEARNER_OPEN = Gauge(
    "ltrr_learner_open_impressions", "Impressions whose reward window is open", multiprocess_mode="livemostrecent"
)
LEARNER_ERRORS = Counter("ltrr_learner_skipped_records", "Log records skipped because they could not be applied")
SNAPSHOT_TIME = Gauge(
    "ltrr_snapshot_timestamp_seconds",
    "When the newest policy snapshot was written (Unix time)",
    multiprocess_mode="livemostrecent",
)
SNAPSHOT_AGE = Gauge(
    "ltrr_snapshot_age_seconds", "Age of the newest policy snapshot", multiprocess_mode="livemostrecent"
)
ITEMS = Gauge("ltrr_items", "Items in the catalogue", multiprocess_mode="livemostrecent")

BUILD_INFO = Gauge("ltrr_build_info", "1 for the version that runs", ["version"], multiprocess_mode="livemax")
WORKERS = Gauge("ltrr_workers", "Gateway processes that serve", multiprocess_mode="livesum")
DRAINING = Gauge("ltrr_draining", "1 while the process leaves: not ready, still answering", multiprocess_mode="livemax")
LOOP_LAG = Histogram(
    "ltrr_event_loop_lag_seconds", "How late the event loop came back to a task that slept", buckets=SECONDS
)
PROCESS_CPU = Counter("ltrr_process_cpu_seconds", "CPU time of a worker and those before it in its place", ["worker"])
PROCESS_MEMORY = Gauge(
    "ltrr_process_resident_memory_bytes", "Resident memory of a worker", ["worker"], multiprocess_mode="livesum"
)
PROCESS_FDS = Gauge(
    "ltrr_process_open_fds", "Open file descriptors of a worker", ["worker"], multiprocess_mode="livesum"
)


_span: Callable[[str], AbstractContextManager[object]] | None = None


def trace_stages(span: Callable[[str], AbstractContextManager[object]] | None) -> None:
    """Also record each stage as a span from now on; None turns that off."""
    global _span
    _span = span


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage of the pipeline."""
    start = time.perf_counter()
    try:
        if _span is None:
            yield
        else:
            with _span(name):
                yield
    finally:
        STAGE_SECONDS.labels(name).observe(time.perf_counter() - start)
