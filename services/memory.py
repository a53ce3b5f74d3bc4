"""The memory of queries and clicks, as arithmetic: under which key a query is remembered, which queries are its
neighbours, and what a remembered item is worth. Pure; the stores are in services/backends.

Neighbours are found by exact look-ups alone: two keys are neighbours when deleting a token or two from each can make
them equal (the symmetric-delete idea of SymSpell, Garbe 2012, on tokens instead of characters), so that any key-value
store can serve them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from services.text import fold, normalize, tokenize
from services.types import Document, Remembered, Role, Schema
from services.understanding.language import ENGLISH_STOPWORDS, stem

MAX_TOKENS = 16
"""Tokens of a query that its key keeps; what comes after them says little."""
MAX_TOKEN = 40
TWO_DELETIONS = range(4, 7)
"""Key lengths from which two tokens may be deleted: below, little would remain; above, there would be too many."""
MIN_SIMILARITY = 0.5
PRIOR = 2.0
"""Impressions that every query is taken to have had without an action: few clicks must not look like certainty."""
MIN_EXAMINATION = 0.2
"""Inverse examination is clipped here: a lucky click far down counts as at most 5 clicks at the top."""
PREDICTED_QUERIES = 8


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
    """Those variants of `key` by which it may meet another key's variant. Of one token they would join everything that
    has this word to everything else, at a similarity below MIN_SIMILARITY."""
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


def debiased(weight: float, examination: float) -> float:
    """An action's weight over the probability that its position was looked at (Joachims et al., WSDM 2017), clipped."""
    return weight / max(examination, MIN_EXAMINATION)


def decay(seconds: float, half_life: float) -> float:
    """What is left of a weight after `seconds`, 0..1."""
    return float(2.0 ** (-max(0.0, seconds) / half_life))


def score(clicks: float, shown: float, prior: float = PRIOR) -> float:
    """Q2E score in [0, 1): decayed, debiased action weight over the query's decayed impressions and a prior.

    When actions outweigh impressions (purchases, clicks far down) they stand for impressions too, so that the score
    still rises with every action and never reaches 1. Net dislike scores 0.
    """
    return max(0.0, clicks) / (max(clicks, shown, 0.0) + prior)


def merge(found: Iterable[Remembered], limit: int) -> list[Remembered]:
    """One entry an item, best first: entries of several queries add up as independent evidence,
    1 - Π(1 - similarity × score), so that a neighbour never lowers what the query itself knows.

    The entry of the most similar query gives clicks, predicted and similarity; items that score 0 are left out.
    """
    best: dict[str, Remembered] = {}
    doubt: dict[str, float] = {}
    for entry in found:
        object_id = entry.object_id
        doubt[object_id] = doubt.get(object_id, 1.0) * (1.0 - entry.similarity * entry.score)
        known = best.get(object_id)
        if known is None or (entry.similarity, entry.clicks) > (known.similarity, known.clicks):
            best[object_id] = entry
    merged = [
        Remembered(e.object_id, 1.0 - doubt[e.object_id], e.clicks, e.predicted, e.similarity) for e in best.values()
    ]
    kept = [entry for entry in merged if entry.score > 0.0]
    return sorted(kept, key=lambda entry: (-entry.score, -entry.clicks, entry.object_id))[:limit]


def predicted_queries(document: Document, schema: Schema) -> list[tuple[str, float]]:
    """Queries by which people may look for an item nobody has clicked yet, with how likely they mean it, best first.

    The title, and the title with one value of each keyword field (a person, a brand), at most PREDICTED_QUERIES in all.
    The title alone is what most people type; every further word is typed by fewer. Both stay below what a single click
    at the first place scores, so that evidence always comes before prediction.
    """
    title = normalize(str(document.get(schema.title) or "")) if schema.title else ""
    if not title:
        return []
    queries = {title: 0.25}
    tokens = set(tokenize(title))
    for field in schema.of(Role.KEYWORD):
        values = document.get(field.name)
        first = values[0] if isinstance(values, list | tuple) and values else values
        value = normalize(first) if isinstance(first, str) else ""
        if value and not set(tokenize(fold(value))) <= tokens:
            queries.setdefault(f"{title} {value}", 0.2)
    return list(queries.items())[:PREDICTED_QUERIES]
