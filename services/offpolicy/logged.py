"""The event log as data to judge policies by: what was decided, with which propensities, and what it earned.

The rules are the learner's: the same reward windows closed by the log's own times, the same rewards per arm and price,
the same cap on one principal's weight, and neither answers excluded from learning nor later pages as decisions of their
own. Decisions whose window is still open are not included yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.backends.base import EventLog, Record
from services.backends.log_reader import read_batches
from services.errors import RecordDamaged
from services.offpolicy.reward_model import Actions
from services.policies.base import Retracing
from services.rewards.quota import PrincipalQuota
from services.rewards.rewards import arm_rewards, principal_weight
from services.rewards.windows import Window, Windows
from services.types import ArmChoice, ArmOption, Deadline, Impression, PolicyMode

Floats = NDArray[np.float64]

LOOKUP_SECONDS = 5.0
MAX_FEATURES = 50
"""Maximum number of context features in a reward model: the ones most often present."""
SEED_MASK = 0x5EED
"""XORed into a decision's seed where a policy draws its own counts: with the logged seed it would draw as the log did,
and its predicted reward would depend on the logged action."""


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """One decision whose reward window has closed."""

    query_id: str
    at: float
    policy: str
    mode: PolicyMode
    seed: int
    features: Mapping[str, float]
    options: tuple[ArmOption, ...]
    choices: Mapping[str, ArmChoice]
    """Choice per arm as logged, in decision order."""
    rewards: Mapping[str, float]
    """Per arm, price included (services.rewards.rewards.arm_rewards); censored arms are absent."""
    acted: bool
    """Whether there was any event on the answer."""
    share: float
    """0..1, below 1 when one principal supplied more than its share."""

    @property
    def counts(self) -> dict[str, int]:
        """Per arm, the count that was drawn."""
        return {arm: choice.count for arm, choice in self.choices.items()}


@dataclass(frozen=True, slots=True)
class LoggedArrays:
    """n decisions as arrays, for services.offpolicy.ope."""

    decisions: tuple[LoggedDecision, ...]
    arms: tuple[str, ...]
    rewards: Floats
    """(n,): total reward of all arms. An arm that failed counts as the mean of what it earned at that count in
    other decisions: an outage says nothing about the arm, so no policy looks better for having been spared it."""
    shares: Floats
    """(n,)"""
    propensities: Floats
    """(n, arms): propensities of the counts drawn, > 0; 1 where an arm did not exist."""
    acted: NDArray[np.bool_]
    """(n,)"""

    def select(self, keep: NDArray[np.bool_]) -> LoggedArrays:
        """The decisions for which `keep` (n,) is true."""
        some = tuple(one for one, kept in zip(self.decisions, keep, strict=True) if kept)
        return LoggedArrays(
            some, self.arms, self.rewards[keep], self.shares[keep], self.propensities[keep], self.acted[keep]
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """Behaviour of another policy on the same n decisions."""

    propensities: Floats
    """(n, arms): propensities of the logged counts under this policy, each given the counts of the arms before it;
    0 where the policy never chooses that count."""
    moments: Floats
    """(n,): expected squared weight given the context, >= 1 (services.offpolicy.ope.expected_size); infinite where it
    might do what the log could not show."""
    drawn: tuple[Mapping[str, ArmChoice], ...]
    """The policy's own draw for each decision, independent of the logged one."""

    def select(self, keep: NDArray[np.bool_]) -> Proposal:
        """The proposal for the decisions for which `keep` (n,) is true."""
        some = tuple(one for one, kept in zip(self.drawn, keep, strict=True) if kept)
        return Proposal(self.propensities[keep], self.moments[keep], some)


# --- reading ------------------------------------------------------------------------------------------------------


async def read(
    log: EventLog,
    *,
    attribution: float,
    weights: Mapping[str, float],
    price: float,
    cap: int,
    after: int = 0,
    latest: int | None = None,
) -> list[LoggedDecision]:
    """The decisions logged after the offset `after`, in the order in which their windows closed; the newest `latest` of
    them where given. attribution in seconds; weights, price and cap as for services.learning.learner.Learner. Records
    that cannot be read are skipped. Raises StorageFailed, TimeoutError."""
    windows, quota = Windows(attribution), PrincipalQuota(0, {})
    found: deque[LoggedDecision] = deque(maxlen=latest)
    end, _ = await log.end()
    async for records in read_batches(log, after, end):
        for window in _closed(windows, records):
            impression = await _impression(log, window.query_id)
            if impression is not None:
                share = principal_weight(quota.count(impression), cap)
                found.append(_logged_decision(impression, window, share, weights, price))
    return list(found)


def _closed(windows: Windows, records: Iterable[tuple[int, Record]]) -> Iterator[Window]:
    for offset, record in records:
        yield from windows.take(offset, record)


async def _impression(log: EventLog, query_id: str) -> Impression | None:
    try:
        return await log.impression(query_id, Deadline.after(LOOKUP_SECONDS))
    except RecordDamaged:
        return None


def _logged_decision(
    impression: Impression, window: Window, share: float, weights: Mapping[str, float], price: float
) -> LoggedDecision:
    decision = impression.decision
    return LoggedDecision(
        query_id=impression.query_id,
        at=impression.at,
        policy=decision.policy,
        mode=decision.mode,
        seed=decision.seed,
        features=impression.features,
        options=impression.options,
        choices=decision.arms,
        rewards=arm_rewards(impression, window.interactions, weights, price),
        acted=bool(window.interactions),
        share=share,
    )


# --- arrays -------------------------------------------------------------------------------------------------------


def arrays(decisions: Sequence[LoggedDecision]) -> LoggedArrays:
    """The decisions as arrays; decisions with an invalid propensity are left out."""
    kept = tuple(one for one in decisions if all(0.0 < choice.propensity <= 1.0 for choice in one.choices.values()))
    arms = tuple(dict.fromkeys(arm for one in kept for arm in one.choices))
    return LoggedArrays(
        decisions=kept,
        arms=arms,
        rewards=_rewards(kept),
        shares=np.array([one.share for one in kept], dtype=np.float64),
        propensities=_propensities([one.choices for one in kept], arms),
        acted=np.array([one.acted for one in kept], dtype=np.bool_),
    )


def _rewards(decisions: Sequence[LoggedDecision]) -> Floats:
    sums: dict[tuple[str, int], list[float]] = {}
    for one in decisions:
        for arm, reward in one.rewards.items():
            sums.setdefault((arm, one.choices[arm].count), []).append(reward)
    means = {key: float(np.mean(values)) for key, values in sums.items()}
    return np.array(
        [
            sum(one.rewards.values())
            + sum(means.get((arm, choice.count), 0.0) for arm, choice in one.choices.items() if arm not in one.rewards)
            for one in decisions
        ],
        dtype=np.float64,
    )


def _propensities(choices: Sequence[Mapping[str, ArmChoice]], arms: Sequence[str]) -> Floats:
    table = np.array([[one[arm].propensity if arm in one else 1.0 for arm in arms] for one in choices])
    return table.reshape(len(choices), len(arms))


# --- another policy -----------------------------------------------------------------------------------------------


def propose(policy: Retracing, logged: LoggedArrays) -> Proposal:
    """Behaviour of `policy` on the logged decisions. Raises what its `decide` raises."""
    retraced = [policy.retrace(one.features, one.options, one.counts) for one in logged.decisions]
    return Proposal(
        propensities=_propensities(retraced, logged.arms),
        moments=np.array(
            [moment(one.choices, other) for one, other in zip(logged.decisions, retraced, strict=True)],
            dtype=np.float64,
        ),
        drawn=tuple(policy.decide(one.features, one.options, one.seed ^ SEED_MASK) for one in logged.decisions),
    )


def moment(logged: Mapping[str, ArmChoice], wanted: Mapping[str, ArmChoice]) -> float:
    """Expected squared weight of the policy that `wanted` one decision, given its context (`ope.expected_size`), >= 1;
    infinite where it might do what the log could not show.

    Product over arms of sum over counts of wanted^2 / logged, along the logged counts: exact where no count is masked
    because of earlier ones, else close."""
    moment = 1.0
    for arm, choice in wanted.items():
        chances = dict(logged[arm].distribution)
        for count, probability in choice.distribution:
            if probability > 0.0 and not chances.get(count, 0.0) > 0.0:
                return float("inf")
        moment *= sum(p * p / chances[count] for count, p in choice.distribution if p > 0.0)
    return max(moment, 1.0)


# --- for a reward model -------------------------------------------------------------------------------------------


def context(logged: LoggedArrays) -> Floats:
    """(n, at most MAX_FEATURES): the features that most of the decisions have, 0 where one is absent."""
    often: dict[str, int] = {}
    for one in logged.decisions:
        for name in one.features:
            often[name] = often.get(name, 0) + 1
    names = sorted(often, key=lambda name: (-often[name], name))[:MAX_FEATURES]
    table = np.array([[one.features.get(name, 0.0) for name in names] for one in logged.decisions], dtype=np.float64)
    return table.reshape(len(logged.decisions), len(names))


def encode_actions(logged: LoggedArrays, proposals: Sequence[Proposal]) -> tuple[Actions, Floats, list[Floats]]:
    """(the encoding of actions, the logged actions encoded, and for each proposal the distributions that its own
    actions were drawn from, encoded likewise)."""
    places = {arm: place for place, arm in enumerate(logged.arms)}
    columns = sorted(
        {
            (places[option.name], count)
            for one in logged.decisions
            for option in one.options
            if option.name in places
            for count in option.counts
        }
    )
    index = {column: i for i, column in enumerate(columns)}
    actions = Actions(tuple(arm for arm, _ in columns), tuple(count for _, count in columns))

    def table(rows: Sequence[Mapping[str, ArmChoice]], by: bool) -> Floats:
        written = np.zeros((len(rows), len(columns)))
        for row, choices in enumerate(rows):
            for arm, choice in choices.items():
                for count, probability in choice.distribution if by else ((choice.count, 1.0),):
                    written[row, index[places[arm], count]] += probability
        return written

    taken = table([one.choices for one in logged.decisions], False)
    return actions, taken, [table(proposal.drawn, True) for proposal in proposals]
