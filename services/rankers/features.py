"""What the ranker sees of a candidate: one implementation for serving and for training.

Rows served are logged with the impression, so a ranker trains on what was really seen. NAMES may only grow at its end:
a model that was trained on fewer features reads the first columns, and a logged row of another width is not lost.

Nothing is missing: what is absent is 0, with a column of its own that says so where 0 could also be a value. NaN would
have to mean the same in two tree engines and could not be written to the log as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from services.priors import newness, prior, quality
from services.rankers.base import Rows
from services.text import normalize, tokenize
from services.types import Context, Document, Interpretation, Pooled, Schema, Slot, Understanding

ARMS = ("lexical", "structured", "vector", "memory", "personal", "explore")
"""Arms with features of their own; others count only in `arms` and `fused`."""

_PER_ARM = ("scaled", "raw", "rank", "has")
_ITEM = (
    "arms",
    "fused",
    "remembered_score",
    "remembered_clicks",
    "remembered_predicted",
    "remembered_similarity",
    "prior",
    "quality",
    "newness",
    "title_query_share",
    "title_query_rarity",
    "title_share",
    "title_exact",
    "title_prefix",
    "title_trigrams",
    "slots_first",
    "slots_best",
    "slots_expected",
    "slots_title",
    "slots_range",
    "seen",
)
_QUERY = (
    "query_tokens",
    "query_unknown",
    "query_slots",
    "query_rest",
    "query_likelihood",
    "query_corrected",
    "query_rarity",
    "person_known",
)
NAMES: tuple[str, ...] = (*(f"{arm}_{what}" for arm in ARMS for what in _PER_ARM), *_ITEM, *_QUERY)
"""Column names. Per arm: `scaled` score within its list (0..1, as fusion scales), `raw` score (signed log1p), `rank`
(1 / rank), `has` (0 or 1). Per item: number of `arms` that had it, `fused` score, what memory knows, priors from the
catalogue (0..1), how title and query share words (0..1), how far the item meets the query's slots (0..1), and the
weight of the person's last action on it (`seen`). Per query: its shape, the same in all rows."""

_LIMIT = 1e6
"""Values are cut to +-this, far above any honest one."""
_INTERPRETATIONS = 4
"""Readings looked at; later ones are too unlikely to matter."""
_TOKENS = 32
"""Query tokens compared with titles, so that a pasted page of text costs no more than a long query."""
_CACHED = 50_000


def rows(context: Context, pool: Sequence[Pooled], documents: Mapping[str, Document], schema: Schema) -> Rows:
    """float32 [len(pool), len(NAMES)], finite, in the order of `pool`; `Pooled.score` must still be the fused score.

    Never raises for a strange document (a missing field, a list where a string should be, a document that is absent).
    """
    if not pool:
        return np.zeros((0, len(NAMES)), dtype=np.float32)
    found = [documents.get(pooled.object_id, {}) for pooled in pool]
    parts = (
        _arms(pool),
        _memory(context, pool),
        _items(context.understanding, found, schema),
        _slots(context.understanding, found, schema),
        _person(context, pool),
        np.tile(_query(context), (len(pool), 1)),
    )
    table = np.hstack(parts)
    np.nan_to_num(table, copy=False, nan=0.0, posinf=_LIMIT, neginf=-_LIMIT)
    return np.clip(table, -_LIMIT, _LIMIT, out=table).astype(np.float32)


def _arms(pool: Sequence[Pooled]) -> NDArray[np.float64]:
    """Per arm scaled, raw, rank, has; then `arms` and `fused`."""
    n = len(pool)
    score = np.zeros((n, len(ARMS)))
    rank = np.zeros((n, len(ARMS)))
    for i, pooled in enumerate(pool):
        for name, place in pooled.arms.items():
            column = _ARM_COLUMN.get(name)
            if column is not None:
                score[i, column] = place.score
                rank[i, column] = place.rank
    has = rank > 0
    low = np.where(has, score, np.inf).min(axis=0)
    width = np.where(has, score, -np.inf).max(axis=0) - low
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(has, np.where(width > 0, (score - low) / width, 1.0), 0.0)
    raw = np.sign(score) * np.log1p(np.abs(score))
    inverse = has / np.maximum(rank, 1.0)
    per_arm = np.stack((scaled, raw, inverse, has), axis=2).reshape(n, -1)
    rest = np.array([(len(pooled.arms), pooled.score) for pooled in pool], dtype=np.float64)
    return np.hstack((per_arm, rest))


def _memory(context: Context, pool: Sequence[Pooled]) -> NDArray[np.float64]:
    """What memory knows of (query, item), whether or not the memory arm was asked."""
    table = np.zeros((len(pool), 4))
    known = {remembered.object_id: remembered for remembered in context.memory}
    if known:
        for i, pooled in enumerate(pool):
            remembered = known.get(pooled.object_id)
            if remembered is not None:
                clicks = np.log1p(max(remembered.clicks, 0.0))
                table[i] = remembered.score, clicks, remembered.predicted, remembered.similarity
    return table


@dataclass(frozen=True, slots=True)
class _Title:
    tokens: tuple[str, ...]
    words: frozenset[str]
    text: str
    trigrams: frozenset[str]


def _items(understanding: Understanding, documents: Sequence[Document], schema: Schema) -> NDArray[np.float64]:
    """Catalogue priors and how the words of title and query overlap."""
    spellings, rarity = _spellings(understanding), _rarity(understanding)
    asked = " ".join(understanding.tokens[:_TOKENS])
    meant = " ".join(word[0].text for word in understanding.words[:_TOKENS] if word) or asked
    trigrams = _trigrams(asked)
    table = np.zeros((len(documents), 9))
    for i, document in enumerate(documents):
        title = _title(_string(document, schema.title))
        table[i, :3] = prior(schema, document), quality(schema, document), newness(schema, document)
        if not title.tokens or not spellings:
            continue
        matched = [max((word[t] for t in word.keys() & title.words), default=0.0) for word in spellings]
        covered = {t for word in spellings for t in word.keys() & title.words}
        table[i, 3:] = (
            sum(matched) / len(matched),
            sum(m * r for m, r in zip(matched, rarity, strict=True)),
            sum(t in covered for t in title.tokens) / len(title.tokens),
            title.text in (asked, meant),
            title.text.startswith((asked, meant)),
            2 * len(trigrams & title.trigrams) / (len(trigrams) + len(title.trigrams)),
        )
    return table


def _spellings(understanding: Understanding) -> list[dict[str, float]]:
    """Per query token, spelling -> weight; the token itself always weighs 1, as it may be right as it stands."""
    words = understanding.words or ((),) * len(understanding.tokens)
    return [
        {**{alternative.text: min(alternative.weight, 1.0) for alternative in word}, token: 1.0}
        for token, word in zip(understanding.tokens[:_TOKENS], words, strict=False)
    ]


def _rarity(understanding: Understanding) -> list[float]:
    """Per token its share of the query's rarity (sums to 1): "the matrix" is about "matrix"."""
    rarity = (understanding.rarity or (1.0,) * len(understanding.tokens))[:_TOKENS]
    total = sum(rarity)
    return [r / total if total > 0 else 1.0 / len(rarity) for r in rarity]


def _slots(understanding: Understanding, documents: Sequence[Document], schema: Schema) -> NDArray[np.float64]:
    """How far each item meets the readings of the query: the first, the best, the expected one; titles and ranges."""
    n = len(documents)
    table = np.zeros((n, 5))
    for place, reading in enumerate(understanding.interpretations[:_INTERPRETATIONS]):
        if not reading.slots:
            continue
        met = np.array([[_meets(document, slot) for slot in reading.slots] for document in documents], dtype=np.float64)
        weights = np.array([max(slot.confidence, 1e-6) for slot in reading.slots])
        share = met @ weights / weights.sum()
        table[:, 1] = np.maximum(table[:, 1], share * reading.likelihood)
        table[:, 2] += share * reading.likelihood
        if place == 0:
            table[:, 0] = share
            table[:, 3] = _mean(met, [slot.field == schema.title for slot in reading.slots])
            table[:, 4] = _mean(met, [slot.low is not None or slot.high is not None for slot in reading.slots])
    return table


def _mean(met: NDArray[np.float64], columns: Sequence[bool]) -> NDArray[np.float64]:
    if not any(columns):
        return np.zeros(len(met))
    mean: NDArray[np.float64] = met[:, np.array(columns)].mean(axis=1)
    return mean


def _meets(document: Document, slot: Slot) -> bool:
    """Whether the item has the slot's value (compared normalised), or a number within its bounds."""
    held = document.get(slot.field)
    values = held if isinstance(held, (list, tuple)) else (held,)
    if slot.low is not None or slot.high is not None:
        low = -np.inf if slot.low is None else slot.low
        high = np.inf if slot.high is None else slot.high
        return any(isinstance(value, (int, float)) and low <= value <= high for value in values)
    if slot.value in values:
        return True
    wanted = _normal(slot.value)
    return any(isinstance(value, str) and _normal(value) == wanted for value in values)


def _person(context: Context, pool: Sequence[Pooled]) -> NDArray[np.float64]:
    seen: dict[str, float] = {}
    for object_id, weight, _ in context.person.recent:
        seen.setdefault(object_id, weight)  # newest first: the last action counts
    return np.array([[seen.get(pooled.object_id, 0.0)] for pooled in pool], dtype=np.float64)


def _query(context: Context) -> NDArray[np.float64]:
    understanding = context.understanding
    first = understanding.interpretations[0] if understanding.interpretations else Interpretation(0.0, (), ())
    return np.array(
        (
            len(understanding.tokens),
            understanding.unknown,
            len(first.slots),
            len(first.rest),
            first.likelihood,
            understanding.corrected is not None,
            max(understanding.rarity, default=0.0),
            bool(context.person.recent),
        ),
        dtype=np.float64,
    )


def _string(document: Document, name: str | None) -> str:
    value = document.get(name) if name else None
    return value if isinstance(value, str) else ""


def _trigrams(text: str) -> frozenset[str]:
    padded = f"  {text} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


@lru_cache(_CACHED)
def _title(text: str) -> _Title:
    tokens = tuple(tokenize(text))
    joined = " ".join(tokens)
    return _Title(tokens, frozenset(tokens), joined, _trigrams(joined))


@lru_cache(_CACHED)
def _normal(text: str) -> str:
    return normalize(text)


_ARM_COLUMN = {arm: i for i, arm in enumerate(ARMS)}
