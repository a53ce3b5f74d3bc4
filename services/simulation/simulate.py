"""A simulation: people search, see what the service shows them, click, and the service learns from it.

The service is the real one behind a small port (Service); users and their clicks are simulated. Whoever decides what
users want is the judge (services/simulation/judge.py): nothing else here sees a grade.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.simulation.judge import Judge
from services.simulation.users import Search

LEARN_EVERY = 20
"""Searches between two looks of the learner at the log: what was clicked is remembered then."""
PUBLISH_EVERY = 100
"""Searches between two policies, about half an hour of the virtual clock: a live service learns at once and publishes
every few seconds, so that a simulation is slower to learn than life."""
PAGE = 10
"""Hits a page."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What one search showed, and what it took."""

    query_id: str
    slate: tuple[str, ...]
    counts: Mapping[str, int]
    """Per arm, the candidates asked for."""
    degraded: bool
    surveyed: int = 0
    """Candidates asked for by its survey, after it had left; 0 where that cannot be seen."""


class Searches(Protocol):
    def since(self, index: int = 0) -> Iterator[Search]:
        """Searches from number `index` on, without end."""
        ...


class Service(Protocol):
    """What is simulated against: the service in this process, or over HTTP."""

    async def search(self, search: Search) -> Shown: ...

    async def act(self, events: list[dict[str, Any]]) -> None:
        """Feedback events as POST /v1/feedback takes them; each must be accepted."""
        ...

    async def learn(self, publish: bool = True) -> None:
        """Let the learner take in what there is, and, if `publish`, the service decide by what it learned."""
        ...


@dataclass(slots=True)
class Course:
    """What happened, an entry an impression."""

    reward: list[float] = field(default_factory=list)
    """Expected reward of the slate: by grades and click model, without the luck of clicks."""
    best: list[float] = field(default_factory=list)
    """That of the best slate there is: regret is best - reward."""
    ndcg: list[float] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    """Asked for, over all arms."""
    surveyed: list[int] = field(default_factory=list)
    """The same by surveys."""
    clicks: list[int] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
    counts: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Arm -> count -> how often: a policy that always does the same has learned nothing."""
    degraded: int = 0

    def __len__(self) -> int:
        return len(self.reward)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "reward": np.array(self.reward),
            "best": np.array(self.best),
            "ndcg": np.array(self.ndcg),
            "candidates": np.array(self.candidates, dtype=np.int32),
            "surveyed": np.array(self.surveyed, dtype=np.int32),
            "clicks": np.array(self.clicks, dtype=np.int16),
            "slices": np.array(self.slices),
        }

    def spread(self) -> dict[str, dict[str, float]]:
        """Arm -> count -> share of the impressions."""
        return {
            arm: {str(count): n / max(1, len(self)) for count, n in sorted(counts.items())}
            for arm, counts in sorted(self.counts.items())
        }


async def simulate(
    service: Service,
    traffic: Searches,
    judge: Judge,
    impressions: int,
    *,
    before: Callable[[Search], Awaitable[None]] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Course:
    """`impressions` searches of `traffic`, from its first on. `before` is awaited with each search before it is asked
    (to set the clock, to bring new items in)."""
    course = Course()
    for search in traffic.since():
        if len(course) == impressions:
            break
        if before is not None:
            await before(search)
        shown = await service.search(search)
        query_id, index = search.query.query_id, search.index
        clicked = judge.clicks(shown.slate, query_id, index)
        if clicked:
            await service.act([_click(shown, place, search) for place in clicked])
        course.reward.append(judge.expected_reward(shown.slate, query_id, index))
        course.best.append(judge.best_reward(query_id, index, PAGE))
        course.ndcg.append(judge.measures(shown.slate, query_id, index, ("ndcg@10",))["ndcg@10"])
        course.candidates.append(sum(shown.counts.values()))
        course.surveyed.append(shown.surveyed)
        course.clicks.append(len(clicked))
        course.slices.append(search.query.slice)
        course.degraded += shown.degraded
        for arm, count in shown.counts.items():
            course.counts[arm][count] += 1
        done = len(course)
        if done % LEARN_EVERY == 0:
            await service.learn(publish=done % PUBLISH_EVERY == 0)
        progress(done)
    return course


def _click(shown: Shown, place: int, search: Search) -> dict[str, Any]:
    return {
        "event_id": f"{search.index}-{place}",
        "query_id": shown.query_id,
        "object_id": shown.slate[place],
        "action_name": "click",
        "position": place + 1,
    }
