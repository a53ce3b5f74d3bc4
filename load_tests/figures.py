"""Aggregation of all rounds into the published figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

TANTIVY = "tantivy: queries and stored ids"
QDRANT = "Qdrant Edge: searches and look-ups"
ENCODER = "text encoder"
VW = "Vowpal Wabbit: parse and predict"
ONNX = "ONNX Runtime: scoring the rows"
SQLITE = {
    "log": "SQLite: insert of the impression, one fsync",
    "memory": "SQLite: reads of memory and history",
    "items": "SQLite: reads of documents",
}
JSON = "orjson: request and answer"
STAGE_OF = {
    TANTIVY: "retrieve",
    QDRANT: "retrieve",
    ENCODER: "retrieve",
    VW: "decide",
    ONNX: "rank",
    SQLITE["log"]: "log",
    SQLITE["memory"]: "recall",
    SQLITE["items"]: "documents",
}
"""Part -> the stage of a search in which it is called."""
STAGES = (
    "understand",
    "recall",
    "decide",
    "retrieve",
    "fuse",
    "documents",
    "features",
    "rank",
    "log",
    "present",
    "total",
)
NESTED_STAGES = {"rank": "features"}
"""Stages whose time includes another stage's."""
SERVICE_RUN = "service, 1 at a time"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least the share `share` of `values` do not exceed (nearest rank: an observed
    value)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Count, and p50, p95, p99 and maximum in milliseconds, of values in seconds."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {"n": len(values)} | {name: 1e3 * percentile(values, share) for name, share in shares.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of one figure per round."""
    return {"median": median(values), "low": min(values), "high": max(values)}


def figures(conditions: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures as written to latency.json. Times are pooled over rounds (the range of medians is given), CPU is the
    median over rounds; milliseconds."""
    http = {}
    for name in rounds[0]["runs"]:
        loads = [each["runs"][name] for each in rounds]
        requests = sum(len(load.latencies) for load in loads)
        http[name] = summary([seconds for load in loads for seconds in load.latencies]) | {
            "p50_of_rounds": spread([1e3 * percentile(load.latencies, 0.5) for load in loads]),
            "rate": spread([load.rate for load in loads]),
            "errors": sum(load.errors for load in loads),
            "degraded": sum(load.degraded for load in loads) / requests,
            "cpu": spread([1e3 * load.server_cpu / len(load.latencies) for load in loads]),
            "late_p99": 1e3 * percentile([s for load in loads for s in load.late], 0.99) if loads[0].late else None,
        }
    times = {
        concurrency: {
            kind: {
                name: summary([s for each in rounds for s in each["times"][concurrency][kind].get(name, ())])
                for name in sorted({n for each in rounds for n in each["times"][concurrency][kind]})
            }
            for kind in ("stages", "arms")
        }
        for concurrency in rounds[0]["times"]
    }
    cpu = [each["cpu"] for each in rounds]
    parts = {
        part: {
            "calls": median(each["parts"][part]["calls"] for each in cpu),
            "cpu": spread([1e3 * each["parts"][part]["cpu"] for each in cpu]),
        }
        for part in cpu[0]["parts"]
    }
    totals = [1e3 * sum(part["cpu"] for part in each["parts"].values()) for each in cpu]
    return {
        "conditions": dict(conditions),
        "ranker": cpu[0]["ranker"],
        "http": http,
        "times": times,
        "parts": parts,
        "sum_of_parts": spread(totals),
        "ratio": {
            name: spread(
                [
                    1e3 * load.server_cpu / len(load.latencies) / total
                    for load, total in zip([each["runs"][name] for each in rounds], totals, strict=True)
                ]
            )
            for name in http
            if name.startswith("service")
        },
        "search_cpu": spread([1e3 * each["cpu"] for each in cpu]),
        "search_cpu_passthrough": spread([1e3 * each["cpu_passthrough"] for each in cpu]),
        "search_cpu_with_learner": spread([1e3 * each["times"]["1"]["cpu"] for each in rounds]),
        "stage_cpu": {
            name: {which: median(1e3 * each["stages"][name][which] for each in cpu) for which in ("cpu", "loop")}
            for name in cpu[0]["stages"]
        },
        "idle_cpu_share": median(each["idle_cpu_share"] for each in rounds),
        "machine_busy_cores": spread([each["machine_busy_cores"] for each in rounds]),
    }


def cpu_breakdown(found: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """(where, CPU per request in ms, part of it on the event loop's thread, part of it in library calls); adds up to
    the CPU of a request over HTTP, one at a time."""
    stages = {name: (each["cpu"], each["loop"]) for name, each in found["stage_cpu"].items()}
    for outer, inner in NESTED_STAGES.items():
        stages[outer] = (stages[outer][0] - stages[inner][0], stages[outer][1] - stages[inner][1])
    library = dict.fromkeys(stages, 0.0)
    for part, stage in STAGE_OF.items():
        library[stage] += found["parts"][part]["cpu"]["median"]
    lines = [(name, *stages[name], library[name]) for name in STAGES if name in stages]
    search, served = found["search_cpu"]["median"], found["http"][SERVICE_RUN]["cpu"]["median"]
    between = search - sum(cpu for cpu, _ in stages.values())
    return [
        *lines,
        ("search, between the stages", between, between, 0.0),
        ("HTTP, validation, JSON, learner", served - search, served - search, found["parts"][JSON]["cpu"]["median"]),
    ]
