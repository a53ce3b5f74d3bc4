"""The simulation loop: simulated users search, see what the service returns, and click; the service learns from it.

The service is the real one behind a small port (Service); users and their clicks are simulated. Only the judge
(services/simulation/judge.py) knows which items are relevant: nothing else here sees a grade.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.simulation.judge import Judge
from services.simulation.traffic import Search

LEARN_INTERVAL = 20
"""Searches between two reads of the log by the learner, which update the click memory."""
PUBLISH_INTERVAL = 100
"""Searches between two published policies, about half an hour of the virtual clock. A live service publishes every few
seconds, so a simulation learns more slowly than production."""
PAGE_SIZE = 10
"""Hits per page."""


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """The slate of one search, and what it cost."""

    query_id: str
    slate: tuple[str, ...]
    counts: Mapping[str, int]
    """Arm -> candidates requested."""
    degraded: bool
    """Whether any arm or engine failed to answer in time."""
    surveyed: int = 0
    """Candidates requested by the survey after the response was sent; 0 where that cannot be observed."""


class SearchStream(Protocol):
    """An endless sequence of searches."""

    def since(self, index: int = 0) -> Iterator[Search]:
        """Searches from `index` on, without end."""
        ...


class Service(Protocol):
    """The service under simulation: in this process, or over HTTP."""

    async def search(self, search: Search) -> SearchOutcome:
        """Answer one simulated search."""
        ...

    async def send_feedback(self, events: list[dict[str, Any]]) -> None:
        """Send feedback events in the form of POST /v1/feedback. Raises StorageFailed unless all are accepted."""
        ...

    async def learn(self, publish: bool = True) -> None:
        """Let the learner process the log so far, and, if `publish`, put its policy into use."""
        ...


@dataclass(slots=True)
class RunMetrics:
    """Metrics of a run, one entry per impression."""

    reward: list[float] = field(default_factory=list)
    """Expected reward of the slate by grades and click model, free of the sampling noise of clicks."""
    best: list[float] = field(default_factory=list)
    """Expected reward of the best possible slate: regret is best - reward."""
    ndcg: list[float] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    """Candidates requested from all arms."""
    surveyed: list[int] = field(default_factory=list)
    """Candidates requested by surveys."""
    clicks: list[int] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
    counts: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Arm -> count -> number of impressions: a policy that always decides the same has learned nothing."""
    degraded: int = 0

    def __len__(self) -> int:
        return len(self.reward)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The series by name, each of length [impressions]."""
        return {
            "reward": np.array(self.reward),
            "best": np.array(self.best),
            "ndcg": np.array(self.ndcg),
            "candidates": np.array(self.candidates, dtype=np.int32),
            "surveyed": np.array(self.surveyed, dtype=np.int32),
            "clicks": np.array(self.clicks, dtype=np.int16),
            "slices": np.array(self.slices),
        }

    def count_shares(self) -> dict[str, dict[str, float]]:
        """Arm -> count (as text) -> share of the impressions."""
        return {
            arm: {str(count): n / max(1, len(self)) for count, n in sorted(counts.items())}
            for arm, counts in sorted(self.counts.items())
        }


async def simulate(
    service: Service,
    traffic: SearchStream,
    judge: Judge,
    impressions: int,
    *,
    before: Callable[[Search], Awaitable[None]] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> RunMetrics:
    """Run the first `impressions` searches of `traffic` and return their metrics. `before` is awaited with each search
    before it is sent (to set the clock, to add new items); `progress` gets the number of searches done."""
    metrics = RunMetrics()
    for search in traffic.since():
        if len(metrics) == impressions:
            break
        if before is not None:
            await before(search)
        outcome = await service.search(search)
        query_id, index = search.query.query_id, search.index
        clicked = judge.clicks(outcome.slate, query_id, index)
        if clicked:
            await service.send_feedback([_click(outcome, place, search) for place in clicked])
        metrics.reward.append(judge.expected_reward(outcome.slate, query_id, index))
        metrics.best.append(judge.best_reward(query_id, index, PAGE_SIZE))
        metrics.ndcg.append(judge.measures(outcome.slate, query_id, index, ("ndcg@10",))["ndcg@10"])
        metrics.candidates.append(sum(outcome.counts.values()))
        metrics.surveyed.append(outcome.surveyed)
        metrics.clicks.append(len(clicked))
        metrics.slices.append(search.query.slice)
        metrics.degraded += outcome.degraded
        for arm, count in outcome.counts.items():
            metrics.counts[arm][count] += 1
        done = len(metrics)
        if done % LEARN_INTERVAL == 0:
            await service.learn(publish=done % PUBLISH_INTERVAL == 0)
        progress(done)
    return metrics


def _click(outcome: SearchOutcome, place: int, search: Search) -> dict[str, Any]:
    return {
        "event_id": f"{search.index}-{place}",
        "query_id": outcome.query_id,
        "object_id": outcome.slate[place],
        "action_name": "click",
        "position": place + 1,
    }
