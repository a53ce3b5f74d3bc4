"""Recent activity from the event log: the rolling figures that the learning console draws.

Nothing here is learned from or decided on. Reading is incremental (each view reads only what is new in the log), memory
is bounded, and a user who asked to be forgotten is forgotten here too.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.backends.base import EventLog, Forget, Record
from services.backends.log_reader import read_batches
from services.errors import RecordDamaged
from services.offpolicy import ope
from services.offpolicy.logged import moment
from services.offpolicy.support import MIN_ACTED, MIN_SAMPLE, acted_size, sample_size
from services.rewards.rewards import gain, reward
from services.rewards.windows import learnable
from services.types import ArmChoice, ArmOption, EventStatus, Impression, Interaction, PolicyMode

Floats = NDArray[np.float64]
Static = Callable[[Mapping[str, float], Sequence[ArmOption], int], Mapping[str, ArmChoice]]
"""The static policy's decision function: (features, options, seed) -> choice per arm."""

BACKLOG = 5_000
"""Records before the end of the log at which the first view begins; a view never reads more than these."""
DECISIONS = 2_000
"""Latest decisions that the figures are over."""
LATEST = 20
"""Decisions listed one by one."""
POINTS = 40
"""Points of a curve: decisions in a row are drawn together."""
STEP = 500


@dataclass(slots=True)
class RecentDecision:
    """One decision and the events on it so far."""

    query_id: str
    at: float
    text: str
    user_id: str | None
    policy: str
    mode: PolicyMode
    counts: Mapping[str, int]
    returned: Mapping[str, int]
    found: Mapping[str, tuple[str, ...]]
    """Item of the first page -> arms that had it within their count."""
    propensity: float
    """Joint probability of the counts drawn for all arms."""
    agrees: bool
    """The static policy would have chosen the very same counts."""
    moment: float
    """Expected squared weight of the static policy, given the context (services.offpolicy.ope.expected_size); infinite
    where its counts could not be drawn."""
    left: bool
    """Whether the policy's preferred counts, exploration aside, differ from those of the static policy."""
    total: int
    degraded: tuple[str, ...]
    events: list[Interaction] = field(default_factory=list)
    value: float = 0.0
    """Reward so far, before the price of the candidates."""

    @property
    def candidates(self) -> int:
        """Number of candidates requested from all arms."""
        return sum(self.counts.values())


class Activity:
    """Rolling figures of one log. `static` is the policy that the kill switch switches to; `weights` are per
    action; `price` is the reward that one candidate must be worth."""

    def __init__(self, log: EventLog, static: Static, weights: Mapping[str, float], price: float) -> None:
        self._log = log
        self._static = static
        self._weights = dict(weights)
        self._price = price
        self._lock = asyncio.Lock()
        self._offset = 0
        self._decided: OrderedDict[str, RecentDecision] = OrderedDict()
        self._pages: OrderedDict[str, str] = OrderedDict()
        """query_id of a later page -> that of its first."""
        self._actions: Counter[str] = Counter()
        self._view: dict[str, Any] | None = None

    async def view(self) -> dict[str, Any]:
        """The figures as JSON; brings them up to date first. Raises StorageFailed."""
        async with self._lock:
            if await self._read() or self._view is None:
                self._view = self._summary()
            return self._view

    # --- reading ---

    async def _read(self) -> bool:
        """Process new records; returns whether there were any."""
        end, _ = await self._log.end()
        before = self._offset
        self._offset = max(self._offset, end - BACKLOG)

        async def damaged(offset: int, error: RecordDamaged) -> None:
            self._offset = offset

        async for records in read_batches(self._log, self._offset, end, STEP, damaged):
            for offset, record in records:
                self._take(record)
                self._offset = offset
            await asyncio.sleep(0)  # searches share this thread
        return self._offset != before

    def _take(self, record: Record) -> None:
        match record:
            case Impression() if record.root_id != record.query_id:
                self._pages[record.query_id] = record.root_id
                if len(self._pages) > DECISIONS:
                    self._pages.popitem(last=False)
            case Impression() if learnable(record):
                self._decided[record.query_id] = recent_decision(record, self._static)
                if len(self._decided) > DECISIONS:
                    self._decided.popitem(last=False)
            case Interaction() if record.status == EventStatus.ACCEPTED:
                self._actions[record.action_name] += 1
                self._acted(record)
            case Forget():
                for one in self._decided.values():
                    if one.user_id == record.user_id:
                        one.text, one.user_id = "", None

    def _acted(self, event: Interaction) -> None:
        query_id = event.query_id or ""
        one = self._decided.get(self._pages.get(query_id, query_id))
        if one is not None:
            one.events.append(event)
            one.value = reward(one.events, self._weights)

    # --- figures ---

    def _summary(self) -> dict[str, Any]:
        window = list(self._decided.values())
        arms = list(dict.fromkeys(arm for one in reversed(window) for arm in one.counts))
        return {
            "offset": self._offset,
            "decisions": len(window),
            "since": window[0].at if window else None,
            "arms": arms,
            "latest": [_row(one) for one in islice(reversed(window), LATEST)],
            "curve": [self._point(group, arms) for group in groups(window, POINTS)],
            "counts": {arm: _distribution(one.counts.get(arm, 0) for one in window) for arm in arms},
            "credit": credit(window, self._weights),
            "actions": dict(self._actions.most_common()),
            "comparison": self._comparison(window),
        }

    def _point(self, group: Sequence[RecentDecision], arms: Sequence[str]) -> dict[str, Any]:
        """Means over some decisions in a row."""
        n = len(group)
        return {
            "at": group[-1].at,
            "n": n,
            "arms": {arm: round(sum(one.counts.get(arm, 0) for one in group) / n, 3) for arm in arms},
            "candidates": round(sum(one.candidates for one in group) / n, 3),
            "reward": round(sum(one.value for one in group) / n, 5),
            "clicked": round(sum(bool(one.events) for one in group) / n, 5),
            "left": round(sum(one.left for one in group) / n, 5),
            "credit": credit(group, self._weights),
        }

    def _comparison(self, window: Sequence[RecentDecision]) -> dict[str, Any]:
        """Learned against static counts, on the decisions that the learned policy took: reward minus the price of the
        candidates. Decisions in which the static counts could not be drawn say nothing about them and are left out, as
        in the gate. `curve` is the estimated regret so far (static minus learned, summed over decisions)."""
        learned = [one for one in window if one.mode is PolicyMode.LEARNED and one.policy != "fixed"]
        usable = [one for one in learned if math.isfinite(one.moment)]
        rewards = np.array([one.value - self._price * one.candidates for one in usable], dtype=np.float64)
        weights = np.array([1.0 / one.propensity if one.agrees else 0.0 for one in usable], dtype=np.float64)
        moments = np.array([one.moment for one in usable], dtype=np.float64)
        acted = np.array([bool(one.events) for one in usable], dtype=np.bool_)
        total = compare(rewards, weights, moments, acted)
        curve, seen = [], 0
        for group in groups(usable, POINTS):
            seen += len(group)
            part = compare(rewards[:seen], weights[:seen], moments[:seen], acted[:seen])
            if part["regret"] is not None:
                curve.append({"at": group[-1].at, "n": seen, **part["regret"]})
        return {**total, "learned_decisions": len(learned), "curve": curve}


# --- pure helpers ---------------------------------------------------------------------------------------------------


def recent_decision(impression: Impression, static: Static) -> RecentDecision:
    """The fields of an impression that the figures need."""
    choices = impression.decision.arms
    counts = {arm: choice.count for arm, choice in choices.items()}
    held = {arm: {object_id for object_id, _ in found[: counts.get(arm, 0)]} for arm, found in impression.lists.items()}
    fixed = static(impression.features, impression.options, impression.decision.seed)
    return RecentDecision(
        query_id=impression.query_id,
        at=impression.at,
        text=impression.text,
        user_id=impression.user_id,
        policy=impression.decision.policy,
        mode=impression.decision.mode,
        counts=counts,
        returned={arm: len(found) for arm, found in impression.lists.items()},
        found={shown: tuple(arm for arm in held if shown in held[arm]) for shown in impression.shown},
        propensity=math.prod(choice.propensity for choice in choices.values()),
        agrees=all(arm in fixed and fixed[arm].count == count for arm, count in counts.items()),
        moment=moment(choices, {arm: choice for arm, choice in fixed.items() if arm in choices}),
        left=any(arm not in fixed or fixed[arm].count != _favourite(choice) for arm, choice in choices.items()),
        total=impression.total,
        degraded=tuple(degraded.arm for degraded in impression.degraded),
    )


def _favourite(choice: ArmChoice) -> int:
    """The arm's most likely count; the chosen one in a tie."""
    count, likeliest = max(choice.distribution, key=lambda entry: entry[1], default=(choice.count, 0.0))
    return count if likeliest > choice.propensity else choice.count


def groups(window: Sequence[RecentDecision], points: int) -> Iterator[Sequence[RecentDecision]]:
    """`window` split into at most `points` runs of nearly equal length."""
    runs = min(points, len(window))
    bounds = [place * len(window) // runs for place in range(runs + 1)] if runs else [0]
    return (window[start:end] for start, end in pairwise(bounds))


def credit(window: Sequence[RecentDecision], weights: Mapping[str, float]) -> dict[str, float]:
    """Per arm, its share of the gain from users' events: each event's gain is divided equally among the arms that had
    found the item on the first page."""
    earned: dict[str, float] = defaultdict(float)
    for one in window:
        for event in one.events:
            arms = one.found.get(event.object_id or "", ())
            for arm in arms:
                earned[arm] += gain(event, weights) / len(arms)
    return {arm: round(value, 4) for arm, value in earned.items()}


def compare(rewards: Floats, weights: Floats, moments: Floats, acted: NDArray[np.bool_]) -> dict[str, Any]:
    """The mean reward of the policy that took n decisions (`learned`) against what another one would have earned
    (`static`), and their difference summed over the decisions (`regret`), with 95 % intervals.

    rewards (n,) per decision; weights (n,) the other policy's probabilities over ours; moments (n,), finite, as in
    services.offpolicy.support; acted (n,) whether anybody did anything. Estimated as the gate does
    (services.offpolicy.gate), by SNIPS; all three are None where the gate would say that there is too little to judge
    by.
    """
    n = len(rewards)
    shares = np.ones(n)
    policies = [weights, np.ones(n)]
    sample = sample_size(policies, [moments, np.ones(n)], shares)
    feedback = acted_size(policies, acted, shares)
    learned = static = regret = None
    if sample >= MIN_SAMPLE and feedback >= MIN_ACTED:
        ours, other = ope.on_policy(rewards), ope.snips(rewards, weights)
        learned, static = _interval(ours.interval()), _interval(other.interval())
        regret = {name: n * value for name, value in _interval(other.minus(ours).interval()).items()}
    return {
        "n": n,
        "effective": round(sample, 2),
        "least": MIN_SAMPLE,
        "acted": round(feedback, 2),
        "least_acted": MIN_ACTED,
        "learned": learned,
        "static": static,
        "regret": regret,
    }


def _interval(estimate: ope.Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _distribution(counts: Iterator[int]) -> list[list[int]]:
    """[count, how often], ascending by count."""
    return [[count, times] for count, times in sorted(Counter(counts).items())]


def _row(one: RecentDecision) -> dict[str, Any]:
    return {
        "query_id": one.query_id,
        "at": one.at,
        "query": one.text,
        "policy": one.policy,
        "mode": one.mode,
        "counts": dict(one.counts),
        "returned": dict(one.returned),
        "propensity": one.propensity,
        "total": one.total,
        "reward": round(one.value, 4),
        "events": [event.action_name for event in one.events],
        "degraded": list(one.degraded),
    }
