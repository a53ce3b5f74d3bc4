"""Ranker features of a candidate: one implementation for serving and for training.

Rows are logged with the impression as served, so a ranker trains on the features it will see. NAMES may only grow at
its end: a row logged before some columns existed has the first ones, and a model finds its own columns by name.

There are no missing values: an absent one is 0, with an indicator column where 0 could also be a value. NaN would have
to mean the same in two tree engines and could not be written to the log as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.arm_profiles import by_number
from services.rankers import matches
from services.rankers.base import Rows
from services.rankers.fusion import scale, slot_coverage
from services.types import Context, Document, Interpretation, Person, Pooled, Schema

FIRST_ARMS = 6
"""Columns of the arms with numbers up to this come first; those of later arms come last."""
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
_WORDS = ("keywords_query_rarity", "texts_query_rarity", "words_query_rarity")
_KNOWN = ("query_clicks", "person_actions", "person_seen")
_FIRST = tuple(profile.name for profile in by_number() if profile.number <= FIRST_ARMS)
_LATER = tuple(profile.name for profile in by_number() if profile.number > FIRST_ARMS)
ARMS = (*_FIRST, *_LATER)
"""Arms with columns of their own, in column order; others count only in `arms` and `fused`."""


def _columns_of(arms: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{arm}_{what}" for arm in arms for what in _PER_ARM)


NAMES: tuple[str, ...] = (*_columns_of(_FIRST), *_ITEM, *_QUERY, *_WORDS, *_KNOWN, *_columns_of(_LATER))
"""Column names. Per arm: `scaled` score within its list (0..1, as fusion scales), `raw` score (signed log1p), `rank`
(1 / rank), `has` (0 or 1). Per item: number of `arms` that had it, `fused` score, what memory knows, priors from the
catalogue (0..1), how title and query share words (0..1), how far the item meets the query's slots (0..1), and the
weight of the person's last action on it (`seen`). Per query: its shape, the same in all rows. Per item again: share of
the query's words, by rarity, in its keywords, in its texts but the title, and anywhere in it. Per query again: how much
is known about it and about the user. An item without clicks means something where others have many, and nothing where
the query was never searched; the same holds for an item that a user with a long history has not taken."""

_LIMIT = 1e6
"""Values are clipped to +-this, far above any legitimate one."""


def rows(context: Context, pool: Sequence[Pooled], documents: Mapping[str, Document], schema: Schema) -> Rows:
    """float32 [len(pool), len(NAMES)], finite, in the order of `pool`; `Pooled.score` must still be the fused score.

    Never raises for a strange document (a missing field, a list where a string should be, a document that is absent).
    """
    if not pool:
        return np.zeros((0, len(NAMES)), dtype=np.float32)
    items = [matches.item(pooled.object_id, documents.get(pooled.object_id, {}), schema) for pooled in pool]
    terms, seen = matches.QueryTerms(context.understanding), _seen(context.person, pool)
    parts = (
        _arms(pool, _FIRST),
        _union(pool),
        _memory(context, pool),
        np.array([item.priors for item in items]),
        matches.titles(terms, items),
        matches.slots(context.understanding, items, schema),
        seen[:, None],
        np.tile(_query(context, schema.title), (len(pool), 1)),
        matches.words(terms, items),
        np.tile(_known(context, seen), (len(pool), 1)),
        _arms(pool, _LATER),
    )
    table = np.hstack(parts)
    np.nan_to_num(table, copy=False, nan=0.0, posinf=_LIMIT, neginf=-_LIMIT)
    return np.clip(table, -_LIMIT, _LIMIT, out=table).astype(np.float32)


def _union(pool: Sequence[Pooled]) -> NDArray[np.float64]:
    """`arms` and `fused`."""
    return np.array([(len(pooled.arms), pooled.score) for pooled in pool], dtype=np.float64)


def _arms(pool: Sequence[Pooled], arms: Sequence[str]) -> NDArray[np.float64]:
    """Per arm scaled, raw, rank, has."""
    table = np.zeros((len(pool), len(arms) * len(_PER_ARM)))
    lists: dict[str, list[int]] = {arm: [] for arm in arms}
    for i, pooled in enumerate(pool if arms else ()):
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
    """Memory features of (query, item), whether or not the memory arm was chosen."""
    table = np.zeros((len(pool), 4))
    known = {remembered.object_id: remembered for remembered in context.memory}
    if known:
        for i, pooled in enumerate(pool):
            remembered = known.get(pooled.object_id)
            if remembered is not None:
                clicks = np.log1p(max(remembered.clicks, 0.0))
                table[i] = remembered.score, clicks, remembered.predicted, remembered.similarity
    return table


def _seen(person: Person, pool: Sequence[Pooled]) -> NDArray[np.float64]:
    """[pool]: weight of the user's last action on each item."""
    last: dict[str, float] = {}
    for object_id, weight, _ in person.recent:
        last.setdefault(object_id, weight)  # newest first
    return np.array([last.get(pooled.object_id, 0.0) for pooled in pool], dtype=np.float64)


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
            *slot_coverage(understanding, title),
        ),
        dtype=np.float64,
    )


def _known(context: Context, seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """Clicks for the query itself, actions of the user, and number of items in the pool the user acted on (log1p)."""
    clicks = sum(max(remembered.clicks, 0.0) for remembered in context.memory if remembered.similarity >= 1.0)
    return np.log1p(np.array((clicks, len(context.person.recent), np.count_nonzero(seen)), dtype=np.float64))
