"""A log of simulated clicks for a ranker to learn from: what people who see the train queries' answers click.

Of the judgements it knows what the judge's clicks tell. Positions are those of the log's own ranker; in a stated share
of the answers one of the items is swapped with another one by chance, so that the curve of looks can be estimated and
items from below the first page are seen at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.models.ranker.answers import Answers
from services.models.ranker.rows import Group, clicked
from services.rankers.features import NAMES
from services.rewards.examination import ClickCounts
from services.simulation.judge import Judge
from services.simulation.users import Traffic

PAGE = 10
DEPTH = 30
"""Items that a swap may bring up come from so many first ones."""
REORDERED = 2 * PAGE
"""Items of the fused order that the poor ranker orders."""
PRIOR = NAMES.index("prior")


@dataclass(frozen=True, slots=True)
class Answer:
    """`shown`: places in the query's pool, best first; `clicked`: places in `shown`."""

    query_id: str
    shown: tuple[int, ...]
    clicked: tuple[int, ...]


def by_fusion(pool: Group) -> NDArray[np.int64]:
    """Places of the pool in the fused order, ties by id."""
    return np.lexsort((np.array(pool.ids), -pool.baseline))


def by_popularity(pool: Group) -> NDArray[np.int64]:
    """The first REORDERED by popularity, the others after them: a ranker that knows little of the query."""
    order = by_fusion(pool)
    first = order[:REORDERED]
    return np.concatenate([first[np.argsort(-pool.rows[first, PRIOR], kind="stable")], order[REORDERED:]])


def answered(
    pools: Mapping[str, Group],
    order: Callable[[Group], NDArray[np.int64]],
    traffic: Traffic,
    judge: Judge,
    impressions: int,
    swaps: float,
) -> Iterator[Answer]:
    """The first `impressions` searches of the traffic, each answered with a page of its query's pool in `order`; in a
    share of `swaps` a place of the page is swapped with one of the first DEPTH. Queries without a pool are no searches
    that teach, but count."""
    generator = np.random.default_rng((traffic.seed, 1))
    orders: dict[str, NDArray[np.int64]] = {}
    for index in range(impressions):
        query_id = traffic.search(index).query.query_id
        pool = pools.get(query_id)
        if pool is None or len(pool.ids) == 0:
            continue
        if query_id not in orders:
            orders[query_id] = order(pool)[:DEPTH]
        places = orders[query_id].copy()
        if generator.random() < swaps and len(places) > 1:
            one, other = generator.integers(min(PAGE, len(places))), generator.integers(len(places))
            places[[one, other]] = places[[other, one]]
        page = tuple(places[:PAGE].tolist())
        yield Answer(query_id, page, judge.clicks([pool.ids[place] for place in page], query_id, index))


def put_together(answers: Iterable[Answer], pools: Mapping[str, Group], curve: Callable[[int], float]) -> list[Group]:
    """What a ranker is trained on, as the event log's answers become it; a click is worth 1."""
    together = Answers(curve)
    for answer in answers:
        pool = pools[answer.query_id]
        ids = [pool.ids[place] for place in answer.shown]
        found = together.add(answer.query_id, ids, pool.rows[list(answer.shown)])
        for place in answer.clicked:
            found.earn(ids[place], 1.0)
    return [clicked(found) for found in together.wanted()]


def estimated(answers: Iterable[Answer], pools: Mapping[str, Group]) -> NDArray[np.float64]:
    """The curve of looks of the first page, by services.rewards.examination."""
    shown = ClickCounts(PAGE)
    for answer in answers:
        pool = pools[answer.query_id]
        shown.add(answer.query_id, [pool.ids[place] for place in answer.shown], answer.clicked)
    return shown.curve()


def ranked(pool: Group, scores: Sequence[float] | NDArray[np.floating]) -> list[str]:
    """Ids by score, descending, ties by id."""
    return [pool.ids[place] for place in np.lexsort((np.array(pool.ids), -np.asarray(scores)))]
