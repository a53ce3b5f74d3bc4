"""Context features of a policy: numbers that describe a search, none of which depends on the catalogue's vocabulary.

A feature is a finite number, nearly always within 0..1; those that are 0 are left out. The values computed here are
logged with the impression and learned from exactly as logged, so they are rounded to what survives the log.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from services.types import ArmOption, Context, Person, Query, Remembered, Scalar, Slot, Understanding

DEVICES = frozenset({"desktop", "mobile", "tablet", "tv", "console", "speaker", "car", "watch"})
LANGUAGES = frozenset({"en", "de", "fr", "es", "it", "und"})
BUCKETS = 64
"""Number of features that unknown context entries are hashed into: callers cannot add ever more of them, and none of
their text gets into the logged features."""
DIGITS = 6

_PARTS_OF_DAY = ("night", "morning", "afternoon", "evening")
_LONGEST_OFFSET = 14 * 60


def features(context: Context, options: Sequence[ArmOption], title: str | None = "title") -> dict[str, float]:
    """Feature name -> value. `title` is the catalogue field that names an item.

    Names come from closed sets: also those made from the request's own `context` (see `_caller`) and from arms' names.
    """
    found: dict[str, float] = {}
    found |= _query(context.query, context.understanding)
    found |= _slots(context.understanding, title)
    found |= _memory(context.memory)
    found |= _person(context.person, context.at)
    found |= _caller(context.query.context)
    found |= _time(context.at, context.query.context.get("utc_offset_minutes"))
    for option in options:
        found[f"has_{option.name}"] = float(len(option.counts) > 1)
    rounded = ((name, round(value, DIGITS)) for name, value in found.items())
    return {name: value for name, value in rounded if value != 0.0}


def _query(query: Query, understanding: Understanding) -> dict[str, float]:
    tokens, text = understanding.tokens, understanding.normalized
    rarity = understanding.rarity or (0.0,)
    language = understanding.language if understanding.language in LANGUAGES else "other"
    return {
        "tokens": _share(len(tokens), 10),
        f"tokens_{min(len(tokens), 6)}": 1.0,
        "characters": _share(len(text), 100),
        "digits": sum(map(str.isdigit, text)) / len(text) if text else 0.0,
        "number": float(any(token.isdigit() for token in tokens)),
        "unknown": understanding.unknown,
        "some_unknown": float(understanding.unknown > 0.0),
        "corrected": float(understanding.corrected is not None),
        "rarity_max": max(rarity),
        "rarity_mean": sum(rarity) / len(rarity),
        "rarity_min": min(rarity),
        f"language_{language}": 1.0,
        "filters": _share(len(query.filters), 4),
        "filtered": float(bool(query.filters)),
        "depth": _share(query.offset + query.limit, 100),
    }


def _slots(understanding: Understanding, title: str | None) -> dict[str, float]:
    slots = understanding.slots
    best = understanding.interpretations[0] if understanding.interpretations else None
    confidence = {"title": 0.0, "keyword": 0.0, "range": 0.0}
    for slot in slots:
        kind = _kind(slot, title)
        confidence[kind] = max(confidence[kind], slot.confidence)
    covered = sum(slot.end - slot.start for slot in slots) / len(understanding.normalized) if slots else 0.0
    rest = len(best.rest) / len(understanding.tokens) if best and understanding.tokens else 0.0
    return {
        "slot_title": confidence["title"],
        "slot_keyword": confidence["keyword"],
        "slot_range": confidence["range"],
        "slots": _share(len(slots), 4),
        "slots_none": float(not slots),
        "covered": min(covered, 1.0),
        "rest": min(rest, 1.0),
        "rest_none": float(bool(slots) and rest == 0.0),
        "title_alone": float(len(slots) == 1 and rest == 0.0 and confidence["title"] > 0.0),
        "reading": best.likelihood if best else 0.0,
        "readings": _share(len(understanding.interpretations), 8),
    }


def _kind(slot: Slot, title: str | None) -> str:
    if slot.low is not None or slot.high is not None:
        return "range"
    return "title" if slot.field == title else "keyword"


def _memory(memory: Sequence[Remembered]) -> dict[str, float]:
    if not memory:
        return {"memory_none": 1.0}
    scores = [max(remembered.score, 0.0) for remembered in memory]
    return {
        "memory_hits": _log_share(len(memory), 100),
        "memory_best": max(scores) / (1.0 + max(scores)),
        "memory_focus": max(scores) / sum(scores) if sum(scores) > 0.0 else 0.0,
        "memory_similarity": max(remembered.similarity for remembered in memory),
        "memory_predicted": sum(remembered.predicted for remembered in memory) / len(memory),
        "memory_clicks": _log_share(sum(max(remembered.clicks, 0.0) for remembered in memory), 1000),
    }


def _person(person: Person, at: float) -> dict[str, float]:
    if person.key is None:
        return {}
    found = {"person": 1.0, "history": _log_share(len(person.recent), 100)}
    if person.recent:
        hours = max(at - max(when for _, _, when in person.recent), 0.0) / 3600.0
        found["history_fresh"] = 1.0 / (1.0 + hours)
        found["history_disliked"] = sum(weight < 0.0 for _, weight, _ in person.recent) / len(person.recent)
    return found


def _caller(context: Mapping[str, Scalar]) -> dict[str, float]:
    """Features of the request's `context`: `device` by an allow-list, anything else hashed into one of BUCKETS."""
    found: dict[str, float] = {}
    for key, value in context.items():
        if key == "device":
            found[f"device_{value if value in DEVICES else 'other'}"] = 1.0
        elif key != "utc_offset_minutes":
            digest = blake2b(f"{key}={value}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
            found[f"context_{int.from_bytes(digest, 'big') % BUCKETS}"] = 1.0
    return found


def _time(at: float, offset: Scalar | None) -> dict[str, float]:
    """Parts of the day and the week by the caller's clock when `utc_offset_minutes` is given, else by UTC: never by the
    server's own time zone, which would make a decision depend on where it was made."""
    local = datetime.fromtimestamp(at, UTC)
    if isinstance(offset, int | float) and not isinstance(offset, bool) and abs(offset) <= _LONGEST_OFFSET:
        local += timedelta(minutes=offset)
    return {
        f"time_{_PARTS_OF_DAY[local.hour // 6]}": 1.0,
        f"weekday_{local.weekday()}": 1.0,
        "weekend": float(local.weekday() >= 5),
        "holidays": float((local.month, local.day) >= (11, 20) or (local.month, local.day) <= (1, 6)),
    }


def _share(value: float, full: float) -> float:
    return min(value / full, 1.0)


def _log_share(value: float, full: float) -> float:
    """0 for 0, 1 from `full` on, logarithmic between."""
    return min(math.log1p(value) / math.log1p(full), 1.0)
