"""Values as JSON, as in API responses and log records. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.types import Answer, ArmChoice, Decision, Degraded, Hit, Understanding


def understanding(value: Understanding) -> dict[str, Any]:
    """The query's normal form, correction, language and slots."""
    return {
        "normalized": value.normalized,
        "corrected": value.corrected,
        "language": value.language,
        "slots": [
            {
                "field": slot.field,
                "value": slot.value,
                "start": slot.start,
                "end": slot.end,
                "confidence": round(slot.confidence, 4),
            }
            for slot in value.slots
        ],
    }


def decision(value: Decision) -> dict[str, Any]:
    """Policy, mode, model, and per arm the count and its probability."""
    return {
        "policy": value.policy,
        "mode": value.mode,
        "model_version": value.model_version,
        "arms": {name: {"count": choice.count, "propensity": choice.propensity} for name, choice in value.arms.items()},
    }


def distributions(arms: Mapping[str, ArmChoice]) -> dict[str, Any]:
    """Per arm, the count that was drawn and the probability of every count."""
    return {
        name: {
            "count": choice.count,
            "propensity": choice.propensity,
            "distribution": [{"count": count, "probability": p} for count, p in choice.distribution],
        }
        for name, choice in arms.items()
    }


def degraded(value: Degraded) -> dict[str, str]:
    """A part that is missing from the answer, and why."""
    return {"arm": value.arm, "reason": value.reason}


def hit(value: Hit) -> dict[str, Any]:
    """An item of the page; `tail` and `explanation` are there only where they apply."""
    form: dict[str, Any] = {
        "object_id": value.object_id,
        "position": value.position,
        "score": value.score,
        "document": value.document,
        "highlights": value.highlights,
        "arms": {name: {"rank": found.rank, "score": found.score} for name, found in value.arms.items()},
    }
    if value.tail:
        form["tail"] = True
    if value.explanation is not None:
        form["explanation"] = value.explanation
    return form


def answer(value: Answer) -> dict[str, Any]:
    """The whole answer of a search."""
    return {
        "query_id": value.query_id,
        "took_ms": round(value.took * 1000, 3),
        "total": value.total,
        "hits": [hit(h) for h in value.hits],
        "facets": {
            name: [{"value": f.value, "count": f.count} for f in counts] for name, counts in value.facets.items()
        },
        "understanding": understanding(value.understanding),
        "decision": decision(value.decision),
        "degraded": [degraded(d) for d in value.degraded],
    }
