"""Priors of an item, each in 0..1 whatever the scales of its catalogue: popularity, quality and newness. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from services.schema.values import first_number
from services.types import Document, Schema

UNKNOWN_PRIOR = 0.5
"""Prior of every item of a catalogue without popularity data."""
_HIGH_QUANTILE = 0.99
_VOTES_SHARE = 0.75
"""Share of votes beside popularity in the prior, where a catalogue has both: popularity is momentary and noisy, the
number of votes stable. Of the shares tried (0 to 1 by 0.25) this one ordered films that users had clicked before
others most often (0.744 of pairs against 0.713 by popularity alone; MSRD, training queries)."""


def measure(schema: Schema, documents: Iterable[Document]) -> Schema:
    """`schema` with the constants that scale the priors, measured on `documents` (one pass).

    popularity_scale, votes_scale: the 99 % quantile; votes_median; rating_mean, rating_max (over items that were
    rated); created_min, created_max: the 1 % and 99 % quantiles (so that one item of the year 0 changes nothing), in
    the unit of the field, seconds for a DATE; items: how many documents were measured.
    """
    popularity, votes, ratings, created = [], [], [], []
    fields = {name: schema.get(name) if name else None for name in (schema.popularity, schema.votes)}
    rating_field = schema.get(schema.rating) if schema.rating else None
    created_field = schema.get(schema.created) if schema.created else None
    items = 0
    for document in documents:
        items += 1
        found = first_number(document, fields[schema.popularity])
        if found is not None:
            popularity.append(found)
        count = first_number(document, fields[schema.votes])
        if count is not None:
            votes.append(count)
        rating = first_number(document, rating_field)
        if rating is not None and (count is None or count > 0):
            ratings.append(rating)
        at = first_number(document, created_field)
        if at is not None:
            created.append(at)
    stats = {"items": float(items)}
    if popularity:
        stats["popularity_scale"] = _quantile(popularity, _HIGH_QUANTILE)
    if votes:
        stats |= {"votes_scale": _quantile(votes, _HIGH_QUANTILE), "votes_median": _quantile(votes, 0.5)}
    if ratings:
        stats |= {"rating_mean": sum(ratings) / len(ratings), "rating_max": max(ratings)}
    if created:
        stats |= {
            "created_min": _quantile(created, 1 - _HIGH_QUANTILE),
            "created_max": _quantile(created, _HIGH_QUANTILE),
        }
    return replace(schema, stats=stats)


def prior(schema: Schema, document: Document) -> float:
    """Query-independent prior of an item, 0..1: the logarithm of its popularity on the scale of the catalogue, averaged
    with that of its votes where there are both. 0 for an item without either, UNKNOWN_PRIOR
    for all items of a catalogue that has neither field. Never raises."""
    parts = [
        (_logarithmic(document, schema, name, scale), share)
        for name, scale, share in (
            (schema.popularity, "popularity_scale", 1 - _VOTES_SHARE),
            (schema.votes, "votes_scale", _VOTES_SHARE),
        )
        if name is not None and scale in schema.stats
    ]
    if not parts:
        return UNKNOWN_PRIOR
    return sum(value * share for value, share in parts) / sum(share for _, share in parts)


def quality(schema: Schema, document: Document) -> float:
    """Quality of an item, 0..1: its rating weighted by its votes against the catalogue's mean (the Bayesian average
    (v * r + m * mean) / (v + m), m = median votes), over the highest rating. Without votes the rating itself;
    in a catalogue without ratings the prior. Never raises."""
    highest = schema.stats.get("rating_max", 0.0)
    if schema.rating is None or highest <= 0:
        return prior(schema, document)
    mean = schema.stats.get("rating_mean", 0.0)
    rating = first_number(document, schema.get(schema.rating))
    if rating is None:
        return _clip(mean / highest)
    if schema.votes is None:
        return _clip(rating / highest)
    votes = max(0.0, first_number(document, schema.get(schema.votes)) or 0.0)
    ballast = max(1.0, schema.stats.get("votes_median", 1.0))
    return _clip((votes * rating + ballast * mean) / (votes + ballast) / highest)


def newness(schema: Schema, document: Document) -> float:
    """0 for the oldest items of the catalogue, 1 for the newest, linear in time; 0 when the item has no date."""
    low, high = schema.stats.get("created_min", 0.0), schema.stats.get("created_max", 0.0)
    at = first_number(document, schema.get(schema.created)) if schema.created else None
    if at is None or high <= low:
        return 0.0
    return _clip((at - low) / (high - low))


def _logarithmic(document: Document, schema: Schema, name: str, scale: str) -> float:
    value = max(0.0, first_number(document, schema.get(name)) or 0.0)
    top = math.log1p(max(0.0, schema.stats[scale]))
    return _clip(math.log1p(value) / top) if top > 0 else 0.0


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


def _quantile(numbers: Sequence[float], share: float) -> float:
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
