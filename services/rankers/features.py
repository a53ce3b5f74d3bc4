"""What the ranker sees of a candidate: one implementation for serving and for training.

Rows served are logged with the impression, so a ranker trains on what was really seen. NAMES may only grow at its end:
a model that was trained on fewer features reads the first columns, and a logged row of another width is not lost.

Nothing is missing: what is absent is 0, with a column of its own that says so where 0 could also be a value. NaN would
have to mean the same in two tree engines and could not be written to the log as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from sys import intern

import numpy as np
from numpy.typing import NDArray

from services.fusion import explained, scale
from services.priors import newness, prior, quality
from services.rankers.base import Rows
from services.text import normalize, tokenize
from services.types import Context, Document, Interpretation, Pooled, Scalar, Schema, Slot, Understanding
from services.values import values

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
    "query_explained",
    "query_explained_whole",
)
NAMES: tuple[str, ...] = (*(f"{arm}_{what}" for arm in ARMS for what in _PER_ARM), *_ITEM, *_QUERY)
"""Column names. Per arm: `scaled` score within its list (0..1, as fusion scales), `raw` score (signed log1p), `rank`
(1 / rank), `has` (0 or 1). Per item: number of `arms` that had it, `fused` score, what memory knows, priors from the
catalogue (0..1), how title and query share words (0..1), how far the item meets the query's slots (0..1), and the
weight of the person's last action on it (`seen`). Per query: its shape, the same in all rows."""

_LIMIT = 1e6
"""Values are cut to +-this, far above any honest one."""
_INTERPRETATIONS = 3
"""Readings looked at; later ones are too unlikely to matter."""
_TOKENS = 32
"""Query tokens compared with titles, so that a pasted page of text costs no more than a long query."""
_KEPT = 10_000
"""Items whose derived values are kept (about 5 kB each)."""


def rows(context: Context, pool: Sequence[Pooled], documents: Mapping[str, Document], schema: Schema) -> Rows:
    """float32 [len(pool), len(NAMES)], finite, in the order of `pool`; `Pooled.score` must still be the fused score.

    Never raises for a strange document (a missing field, a list where a string should be, a document that is absent).
    """
    if not pool:
        return np.zeros((0, len(NAMES)), dtype=np.float32)
    items = [_item(pooled.object_id, documents.get(pooled.object_id, {}), schema) for pooled in pool]
    parts = (
        _arms(pool),
        _memory(context, pool),
        _titles(context.understanding, items),
        _slots(context.understanding, items, schema),
        _person(context, pool),
        np.tile(_query(context, schema.title), (len(pool), 1)),
    )
    table = np.hstack(parts)
    np.nan_to_num(table, copy=False, nan=0.0, posinf=_LIMIT, neginf=-_LIMIT)
    return np.clip(table, -_LIMIT, _LIMIT, out=table).astype(np.float32)


def _arms(pool: Sequence[Pooled]) -> NDArray[np.float64]:
    """Per arm scaled, raw, rank, has; then `arms` and `fused`."""
    table = np.zeros((len(pool), len(ARMS) * len(_PER_ARM) + 2))
    lists: dict[str, list[int]] = {arm: [] for arm in ARMS}
    for i, pooled in enumerate(pool):
        table[i, -2:] = len(pooled.arms), pooled.score
        for arm in pooled.arms:
            if arm in lists:
                lists[arm].append(i)
    for place, (arm, held) in enumerate(lists.items()):
        if held:
            scores = [pool[i].arms[arm].score for i in held]
            ranks = [pool[i].arms[arm].rank for i in held]
            columns = slice(place * len(_PER_ARM), (place + 1) * len(_PER_ARM))
            raw = np.sign(scores) * np.log1p(np.abs(scores))
            table[held, columns] = np.column_stack(
                (scale(arm, scores), raw, np.reciprocal(ranks, dtype=float), np.ones(len(held)))
            )
    return table


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


class _Item:
    """What features need of one document and no query changes; kept, because the same items come up again and again."""

    __slots__ = ("_values", "document", "priors", "schema", "title", "trigrams", "words")

    def __init__(self, document: Document, schema: Schema) -> None:
        self.document = document
        self.schema = schema
        self.priors = prior(schema, document), quality(schema, document), newness(schema, document)
        name = document.get(schema.title) if schema.title else None
        tokens = tokenize(name) if isinstance(name, str) else []
        self.title = " ".join(tokens)
        self.words = frozenset(tokens)
        self.trigrams = _trigrams(self.title)
        self._values: dict[str, frozenset[Scalar]] = {}

    def meets(self, slot: Slot) -> bool:
        """Whether the item has the slot's value (compared normalised), or a number within its bounds."""
        held = self._values.get(slot.field)
        if held is None:
            held = self._values[slot.field] = self._read(slot.field)
        if slot.low is None and slot.high is None:
            return _normal(slot.value) in held
        low = -np.inf if slot.low is None else slot.low
        high = np.inf if slot.high is None else slot.high
        return any(not isinstance(value, str) and low <= value <= high for value in held)

    def _read(self, name: str) -> frozenset[Scalar]:
        field = self.schema.get(name)
        if field is None:
            return frozenset()
        return frozenset(_normal(value) if isinstance(value, str) else value for value in values(self.document, field))


_kept: dict[str, _Item] = {}


def _item(object_id: str, document: Document, schema: Schema) -> _Item:
    item = _kept.get(object_id)
    # Compared by value when it is another object: a store may read the same document anew for every search.
    if item is None or item.schema is not schema or (item.document is not document and item.document != document):
        if len(_kept) >= _KEPT:
            _kept.clear()
        item = _kept[object_id] = _Item(document, schema)
    return item


def _titles(understanding: Understanding, items: Sequence[_Item]) -> NDArray[np.float64]:
    """Catalogue priors and how the words of title and query overlap."""
    tokens = understanding.tokens[:_TOKENS]
    spellings = _spellings(understanding)
    rarity = _rarity(understanding)
    asked = " ".join(tokens)
    meant = " ".join(word[0].text for word in understanding.words[:_TOKENS] if word and word[0].text) or asked
    trigrams = _trigrams(asked)
    table = []
    for item in items:
        covered = item.words & spellings.keys()
        matched: dict[int, float] = {}
        for word in covered:
            for place, weight in spellings[word]:
                matched[place] = max(matched.get(place, 0.0), weight)
        table.append(
            (
                *item.priors,
                sum(matched.values()) / len(tokens) if matched else 0.0,
                sum([rarity[place] * weight for place, weight in matched.items()]),
                len(covered) / len(item.words) if covered else 0.0,
                bool(asked) and item.title in (asked, meant),
                bool(asked) and item.title.startswith((asked, meant)),
                2 * len(trigrams & item.trigrams) / (len(trigrams) + len(item.trigrams)),
            )
        )
    return np.array(table, dtype=np.float64)


def _spellings(understanding: Understanding) -> dict[str, list[tuple[int, float]]]:
    """Word -> (place in the query, weight) of the tokens it is a spelling of; a token itself weighs 1, as it may be
    right as it stands."""
    found: dict[str, list[tuple[int, float]]] = {}
    for place, token in enumerate(understanding.tokens[:_TOKENS]):
        found.setdefault(token, []).append((place, 1.0))
    for place, word in enumerate(understanding.words[:_TOKENS]):
        for alternative in word:
            found.setdefault(alternative.text, []).append((place, min(alternative.weight, 1.0)))
    return found


def _rarity(understanding: Understanding) -> list[float]:
    """Per token its share of the query's rarity (sums to 1): "the matrix" is about "matrix"."""
    rarity = (understanding.rarity or (1.0,) * len(understanding.tokens))[:_TOKENS]
    total = sum(rarity)
    return [r / total if total > 0 else 1.0 / len(rarity) for r in rarity]


def _slots(understanding: Understanding, items: Sequence[_Item], schema: Schema) -> NDArray[np.float64]:
    """How far each item meets the readings of the query: the first, the best, the expected one; titles and ranges."""
    table = np.zeros((len(items), 5))
    readings = [reading for reading in understanding.interpretations[:_INTERPRETATIONS] if reading.slots]
    met = {
        slot: np.array([item.meets(slot) for item in items], dtype=np.float64)
        for slot in dict.fromkeys(slot for reading in readings for slot in reading.slots)
    }
    for reading in readings:
        total = sum(slot.confidence for slot in reading.slots) or 1.0
        share = sum((met[slot] * (slot.confidence / total) for slot in reading.slots), np.zeros(len(items)))
        np.maximum(table[:, 1], share * reading.likelihood, out=table[:, 1])
        table[:, 2] += share * reading.likelihood
        if reading is understanding.interpretations[0]:
            table[:, 0] = share
            table[:, 3] = _mean(met, [slot for slot in reading.slots if slot.field == schema.title])
            table[:, 4] = _mean(met, [slot for slot in reading.slots if not (slot.low is None and slot.high is None)])
    return table


def _mean(met: Mapping[Slot, NDArray[np.float64]], slots: Sequence[Slot]) -> NDArray[np.float64] | float:
    return sum((met[slot] for slot in slots), np.float64(0)) / len(slots) if slots else 0.0


def _person(context: Context, pool: Sequence[Pooled]) -> NDArray[np.float64]:
    seen: dict[str, float] = {}
    for object_id, weight, _ in context.person.recent:
        seen.setdefault(object_id, weight)  # newest first: the last action counts
    return np.array([[seen.get(pooled.object_id, 0.0)] for pooled in pool], dtype=np.float64)


def _query(context: Context, title: str | None) -> NDArray[np.float64]:
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
            *explained(understanding, title),
        ),
        dtype=np.float64,
    )


def _trigrams(text: str) -> frozenset[str]:
    padded = f"  {text} "
    return frozenset(intern(padded[i : i + 3]) for i in range(len(padded) - 2))


@lru_cache(_KEPT)
def _normal(text: str) -> str:
    return normalize(text)
