"""Memory scores: how much a remembered item is worth to a query. Pure; the stores are in services/backends, the keys of
queries in services/memory/keys.py.

Actual scores are shares of clicks; predicted ones (services/models/query_predictor) stand in until there are clicks,
and fade as the query is searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.memory.keys import similarity
from services.types import Remembered

PRIOR = 5.0
"""Pseudo-impressions without an action that every query starts with: few clicks must not look like certainty."""
MIN_EXAMINATION = 0.5
"""Inverse examination is clipped here: a lucky click far down counts as at most 2 clicks at the top. With 0.2 and a
PRIOR of 2 one such click outweighed every other arm (films, train queries seen before: NDCG@10 .664 with these,
.660 with those, .657 without memory)."""


def debiased(weight: float, examination: float) -> float:
    """An action's weight over the probability that its position was looked at (Joachims et al., WSDM 2017), clipped."""
    return weight / max(examination, MIN_EXAMINATION)


def decay(seconds: float, half_life: float) -> float:
    """Share of a weight that remains after `seconds`, 0..1."""
    return float(2.0 ** (-max(0.0, seconds) / half_life))


def score(clicks: float, shown: float, prior: float = PRIOR) -> float:
    """Q2E score in [0, 1): decayed, debiased action weight over the query's decayed impressions and a prior.

    When actions outweigh impressions (purchases, clicks far down) they stand for impressions too, so that the score
    still rises with every action and never reaches 1. Net dislike scores 0.
    """
    return max(0.0, clicks) / (max(clicks, shown, 0.0) + prior)


def expected(predicted: float, shown: float, prior: float = PRIOR) -> float:
    """A predicted score after `shown` impressions of the query without a click on the item: the mean of a Beta
    distribution that began at `predicted` with the weight of `prior` impressions."""
    return predicted * prior / (prior + max(0.0, shown))


def trust(alike: float) -> float:
    """Weight of evidence from a neighbouring query, 0..1: the cube of the similarity. Users whose query has one word
    more or less often want something else."""
    return alike**3


def recollect(
    key: str,
    shown: Mapping[str, float],
    actual: Iterable[tuple[str, str, float]],
    predicted: Iterable[tuple[str, str, float]],
    limit: int,
) -> list[Remembered]:
    """Items remembered for `key`, from the entries of a store for it and its neighbours: key -> decayed impressions,
    (key, object_id, decayed clicks) and (key, object_id, predicted score).

    An actual score, even of 0, replaces the predicted one; under `key` itself it replaces all predictions for the item.
    Of several predictions for an item the best counts: they were made from the same words and are not independent. All
    of them fade as `key` is searched.
    """
    found: dict[tuple[str, str], Remembered] = {}
    for k, object_id, clicks in actual:
        worth = score(clicks, shown.get(k, 0.0))
        found[k, object_id] = Remembered(object_id, worth, clicks, False, similarity(key, k))
    predicted_best: dict[str, Remembered] = {}
    for k, object_id, likelihood in predicted:
        if (k, object_id) in found or (key, object_id) in found:
            continue
        worth = expected(likelihood, max(shown.get(k, 0.0), shown.get(key, 0.0)))
        entry = Remembered(object_id, worth, 0.0, True, similarity(key, k))
        known = predicted_best.get(object_id)
        if known is None or _weight(entry) > _weight(known):
            predicted_best[object_id] = entry
    return merge([*found.values(), *predicted_best.values()], limit)


def _weight(entry: Remembered) -> tuple[float, float]:
    return trust(entry.similarity) * entry.score, entry.similarity


def merge(found: Iterable[Remembered], limit: int) -> list[Remembered]:
    """One entry per item, best first: entries of several queries combine as independent evidence,
    1 - Π(1 - trust × score), so that a neighbour never lowers the query's own score.

    The entry of the most similar query gives clicks, predicted and similarity; items that score 0 are left out.
    """
    best: dict[str, Remembered] = {}
    doubt: dict[str, float] = {}
    for entry in found:
        object_id = entry.object_id
        doubt[object_id] = doubt.get(object_id, 1.0) * (1.0 - trust(entry.similarity) * entry.score)
        known = best.get(object_id)
        if known is None or (entry.similarity, entry.clicks) > (known.similarity, known.clicks):
            best[object_id] = entry
    return _ranked(
        (Remembered(e.object_id, 1.0 - doubt[e.object_id], e.clicks, e.predicted, e.similarity) for e in best.values()),
        limit,
    )


def joined(own: Iterable[Remembered], other: Iterable[Remembered], alike: float, limit: int) -> list[Remembered]:
    """Merge the items of a query with those of another one whose similarity is `alike` (0..1), as for neighbours."""
    found = {entry.object_id: entry for entry in own}
    for entry in other:
        worth, near = trust(alike) * entry.score, alike * entry.similarity
        known = found.get(entry.object_id)
        if known is None:
            found[entry.object_id] = Remembered(entry.object_id, worth, entry.clicks, entry.predicted, near)
            continue
        nearer = known if known.similarity >= near else entry
        together = 1.0 - (1.0 - known.score) * (1.0 - worth)
        found[entry.object_id] = Remembered(
            entry.object_id, together, nearer.clicks, nearer.predicted, max(known.similarity, near)
        )
    return _ranked(found.values(), limit)


def _ranked(entries: Iterable[Remembered], limit: int) -> list[Remembered]:
    kept = [entry for entry in entries if entry.score > 0.0]
    return sorted(kept, key=lambda entry: (-entry.score, -entry.clicks, entry.object_id))[:limit]
