"""Memory keys of queries, and neighbouring queries. Pure.

Neighbours are found by exact look-ups alone: two keys are neighbours when deleting a token or two from each can make
them equal (the symmetric-delete idea of SymSpell, Garbe 2012, on tokens instead of characters), so that any key-value
store can serve them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, combinations

from services.text import normalize, tokenize
from services.understanding.language import ENGLISH_STOPWORDS, stem

MAX_TOKENS = 16
"""Tokens of a query that its key keeps; later ones carry little information."""
MAX_TOKEN = 40
TWO_DELETIONS = range(4, 7)
"""Key lengths from which two tokens may be deleted: below, little would remain; above, there would be too many."""
MIN_SIMILARITY = 0.5
NEIGHBOURS = 16
"""Default number of neighbouring queries that one look-up reads."""
KEYS_PER_VARIANT = 64
"""Keys read for one variant before the nearest are chosen: a bound for words that thousands of queries have."""


def memory_key(text: str) -> str:
    """The form under which a query is remembered: its unique stemmed tokens without stopwords, sorted.

    A query of stopwords keeps them ("it"), one without any word keeps its signs; "" only for an empty query.
    """
    tokens = tokenize(text)
    content = [token for token in tokens if token not in ENGLISH_STOPWORDS] or tokens
    if not content:
        return normalize(text)[: MAX_TOKENS * MAX_TOKEN]
    unique = dict.fromkeys(stem(token)[:MAX_TOKEN] for token in content)
    return " ".join(sorted(list(unique)[:MAX_TOKENS]))


def variants(key: str) -> tuple[str, ...]:
    """Keys that remain of `key` without one token, or without two where that leaves enough; at most 21, never ""."""
    tokens = key.split(" ")
    if len(tokens) < 2:
        return ()
    deletions = (1, 2) if len(tokens) in TWO_DELETIONS else (1,)
    return tuple(" ".join(kept) for deleted in deletions for kept in combinations(tokens, len(tokens) - deleted))


def shared_variants(key: str) -> tuple[str, ...]:
    """The variants of `key` that are matched against other keys' variants. Variants of one token are left out: they
    would connect all keys that share a word, at a similarity below MIN_SIMILARITY."""
    return tuple(variant for variant in variants(key) if " " in variant)


def similarity(key_a: str, key_b: str) -> float:
    """Jaccard overlap of the tokens, 0..1; 0 when both have numbers and these differ ("rocky 2" is not "rocky 3")."""
    if key_a == key_b:
        return 1.0
    a, b = set(key_a.split(" ")), set(key_b.split(" "))
    numbers_a = {token for token in a if token.isdecimal()}
    numbers_b = {token for token in b if token.isdecimal()}
    if numbers_a and numbers_b and numbers_a != numbers_b:
        return 0.0
    return len(a & b) / len(a | b)


def nearest(key: str, sharing: Iterable[str], limit: int = NEIGHBOURS) -> list[str]:
    """`key`, then the `limit` keys nearest to it among its own variants and the keys `sharing` one with it."""
    found = set(chain(variants(key), sharing)) - {key}
    ranked = sorted((-similarity(key, other), other) for other in found)
    return [key, *[other for negative, other in ranked if -negative >= MIN_SIMILARITY][:limit]]


def by_key(queries: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Memory key -> best score, up to 1, of (query text, score) pairs; what has no key or scores 0 is left out."""
    best: dict[str, float] = {}
    for text, score in queries:
        key = memory_key(text)
        if key and score > 0.0:
            best[key] = max(min(1.0, score), best.get(key, 0.0))
    return best
