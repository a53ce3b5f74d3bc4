"""A log of simulated clicks for training a ranker: users of the train queries click on pages in a given order.

The only trace of the judgments is the judge's clicks. In a given share of the answers one item is swapped with a random
other one, so that the examination curve can be estimated and items from below the first page are shown at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.models.ranker.answers import AnswerGroups
from services.models.ranker.rows import Group, to_group
from services.rankers.features import NAMES
from services.rewards.examination import ClickCounts
from services.simulation.judge import Judge
from services.simulation.traffic import Traffic

PAGE_SIZE = 10
SWAP_DEPTH = 30
"""A swap brings up an item from the first so many."""
RERANK_DEPTH = 2 * PAGE_SIZE
"""Items of the fused order that `popularity_order` reorders."""
PRIOR_COLUMN = NAMES.index("prior")


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """One answer. `shown`: places in the query's pool, best first; `clicked`: places in `shown`."""

    query_id: str
    shown: tuple[int, ...]
    clicked: tuple[int, ...]


def fused_order(pool: Group) -> NDArray[np.int64]:
    """Places of the pool by fused score, ties by id, [items]."""
    return np.lexsort((np.array(pool.ids), -pool.baseline))


def popularity_order(pool: Group) -> NDArray[np.int64]:
    """Places of the pool with the first RERANK_DEPTH ordered by popularity, [items]: a poor ranker."""
    order = fused_order(pool)
    first = order[:RERANK_DEPTH]
    return np.concatenate([first[np.argsort(-pool.rows[first, PRIOR_COLUMN], kind="stable")], order[RERANK_DEPTH:]])


def simulate_answers(
    pools: Mapping[str, Group],
    order: Callable[[Group], NDArray[np.int64]],
    traffic: Traffic,
    judge: Judge,
    impressions: int,
    swaps: float,
) -> Iterator[LoggedAnswer]:
    """The first `impressions` searches of the traffic, each answered with a page of its query's pool in `order`; in the
    share `swaps` of them a place of the page is swapped with one of the first SWAP_DEPTH. Queries without a pool give
    no answer, but count as impressions."""
    generator = np.random.default_rng((traffic.seed, 1))
    orders: dict[str, NDArray[np.int64]] = {}
    for index in range(impressions):
        query_id = traffic.search(index).query.query_id
        pool = pools.get(query_id)
        if pool is None or len(pool.ids) == 0:
            continue
        if query_id not in orders:
            orders[query_id] = order(pool)[:SWAP_DEPTH]
        places = orders[query_id].copy()
        if generator.random() < swaps and len(places) > 1:
            one, other = generator.integers(min(PAGE_SIZE, len(places))), generator.integers(len(places))
            places[[one, other]] = places[[other, one]]
        page = tuple(places[:PAGE_SIZE].tolist())
        yield LoggedAnswer(query_id, page, judge.clicks([pool.ids[place] for place in page], query_id, index))


def training_groups(
    answers: Iterable[LoggedAnswer], pools: Mapping[str, Group], curve: Callable[[int], float]
) -> list[Group]:
    """Training groups, built as from the answers of the event log; `curve`: position -> examination; a click is worth
    1."""
    grouped = AnswerGroups(curve)
    for answer in answers:
        pool = pools[answer.query_id]
        ids = [pool.ids[place] for place in answer.shown]
        found = grouped.add(answer.query_id, ids, pool.rows[list(answer.shown)])
        for place in answer.clicked:
            found.earn(ids[place], 1.0)
    return [to_group(found) for found in grouped.rewarded()]


def estimate_examination(answers: Iterable[LoggedAnswer], pools: Mapping[str, Group]) -> NDArray[np.float64]:
    """The examination curve of the first page, [places], by services.rewards.examination."""
    shown = ClickCounts(PAGE_SIZE)
    for answer in answers:
        pool = pools[answer.query_id]
        shown.add(answer.query_id, [pool.ids[place] for place in answer.shown], answer.clicked)
    return shown.curve()


def ids_by_score(pool: Group, scores: Sequence[float] | NDArray[np.floating]) -> list[str]:
    """Ids by descending score, ties by id."""
    return [pool.ids[place] for place in np.lexsort((np.array(pool.ids), -np.asarray(scores)))]
