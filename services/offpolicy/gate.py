"""The promotion gate: whether a policy may replace another, judged by what both would have earned on logged decisions.

V(candidate) - V(present) is estimated by SNIPS on the same decisions, so that noise common to both cancels, and its
95 % interval must not reach below -tolerance. The tolerance is the price of TOLERATED_CANDIDATES candidates, one
page: without any tolerance a candidate that is as good as the present policy would never be sure enough. IPS and DR are
reported beside it: where the three disagree, the log is too thin for all of them.

SNIPS decides because it has the least error and the shortest interval of those that hold for any logging policy
(evaluation/studies/ope_coverage.py), and does not change when all rewards are shifted, as a price shifts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from services.backends.base import EventLog
from services.errors import ModelInvalid
from services.learning.snapshots import KIND, POLICY_FILE
from services.models.store import ModelStore, StoredModel
from services.offpolicy import ope
from services.offpolicy.logged import (
    LoggedArrays,
    LoggedDecision,
    Proposal,
    arrays,
    context,
    encode_actions,
    propose,
    read,
)
from services.offpolicy.reward_model import crossfit
from services.offpolicy.support import MIN_ACTED, MIN_SAMPLE, acted_size, sample_size
from services.policies.base import Retracing

MAX_DECISIONS = 5_000
"""Number of newest decisions that are evaluated: older ones come from another catalogue and other users."""
MAX_RECORDS = 100_000
"""Number of newest log records that are read for them."""
TOLERATED_CANDIDATES = 10
"""Candidates whose price a candidate policy may be worse by: one page."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`promote`: whether it may go live; `reason`: why, in words, with the numbers."""

    promote: bool
    reason: str
    difference: ope.Estimate | None = None
    """V(candidate) - V(present); None where there is too little to say."""


def judge(decisions: list[LoggedDecision], candidate: Retracing, present: Retracing, price: float) -> Verdict:
    """Compare the policies on logged decisions (services.offpolicy.logged); `price` is the reward that one candidate
    must be worth.

    Decisions in which the log could not show what either policy might do (those of a policy that does not explore) are
    left out: they carry no information about it.
    """
    logged = arrays(decisions)
    ours, theirs = propose(candidate, logged), propose(present, logged)
    shown = np.isfinite(ours.moments) & np.isfinite(theirs.moments)
    logged, ours, theirs = logged.select(shown), ours.select(shown), theirs.select(shown)
    sample = f"{len(logged.decisions)} of {len(decisions)} decisions can be used"
    weights = [ope.product(logged.propensities, one.propensities) for one in (ours, theirs)]
    support = sample_size(weights, [one.moments for one in (ours, theirs)], logged.shares)
    if support < MIN_SAMPLE:
        return Verdict(
            False,
            f"too little to judge by: {sample}, an effective sample of {support:.0f} where {MIN_SAMPLE:.0f} are"
            " needed; let it serve in learned mode for longer or explore more, so that what the candidate would do is"
            " done more often",
        )
    acted = acted_size(weights, logged.acted, logged.shares)
    if acted < MIN_ACTED:
        return Verdict(
            False,
            f"too few actions to judge by: {sample}, an effective {acted:.0f} of them with feedback where"
            f" {MIN_ACTED:.0f} are needed; wait for more feedback",
        )
    difference = ope.snips(logged.rewards, weights[0], logged.shares).minus(
        ope.snips(logged.rewards, weights[1], logged.shares)
    )
    estimate = difference.interval()
    tolerance = TOLERATED_CANDIDATES * price
    promote = estimate.low >= -tolerance
    return Verdict(
        promote,
        f"reward per decision {'not worse than' if promote else 'may be worse than'} the present policy's: difference"
        f" {estimate} by SNIPS ({_other_estimates(logged, (ours, theirs), weights)}), tolerance {tolerance:.5f};"
        f" {sample}, effective sample {support:.0f}",
        estimate,
    )


def _other_estimates(logged: LoggedArrays, proposals: tuple[Proposal, Proposal], weights: list[ope.Floats]) -> str:
    """The same difference by the other estimators, as text."""
    rewards, shares = logged.rewards, logged.shares
    actions, taken, proposed = encode_actions(logged, proposals)
    known, predictions = crossfit(context(logged), actions, taken, proposed, rewards, shares)
    plain = [ope.ips(rewards, weight, shares) for weight in weights]
    robust = [ope.doubly_robust(rewards, w, known, q, shares) for w, q in zip(weights, predictions, strict=True)]
    return f"IPS {plain[0].minus(plain[1]).interval()}, DR {robust[0].minus(robust[1]).interval()}"


class PolicyGate:
    """The gate over a log and the snapshots in a store.

    load makes a policy of a snapshot's bytes and version; attribution, weights, price and cap are the learner's
    (services.learning.learner.Learner).
    """

    def __init__(
        self,
        log: EventLog,
        store: ModelStore,
        load: Callable[[bytes, str], Retracing],
        *,
        attribution: float,
        weights: Mapping[str, float],
        price: float,
        cap: int,
    ) -> None:
        self._log = log
        self._store = store
        self._load = load
        self._attribution = attribution
        self._weights = dict(weights)
        self._price = price
        self._cap = cap

    async def judge(self, version: str) -> Verdict:
        """Judge a snapshot against the active one. Raises NotFound, ModelInvalid, StorageFailed."""
        candidate = await asyncio.to_thread(self._store.load, KIND, version)
        present = await asyncio.to_thread(self._store.current, KIND)
        if present is None:
            return Verdict(True, "there is no active policy that it could be worse than")
        if candidate.files.get(POLICY_FILE) == present.files.get(POLICY_FILE):
            return Verdict(True, "it is the very model that is active")
        end, _ = await self._log.end()
        decisions = await read(
            self._log,
            attribution=self._attribution,
            weights=self._weights,
            price=self._price,
            cap=self._cap,
            after=max(0, end - MAX_RECORDS),
            latest=MAX_DECISIONS,
        )
        return await asyncio.to_thread(self._judged, decisions, candidate, present)

    def _judged(self, decisions: list[LoggedDecision], candidate: StoredModel, present: StoredModel) -> Verdict:
        return judge(decisions, self._policy(candidate), self._policy(present), self._price)

    def _policy(self, stored: StoredModel) -> Retracing:
        if POLICY_FILE not in stored.files:
            raise ModelInvalid(f"{stored.kind} {stored.version}: not a snapshot of a policy")
        return self._load(stored.files[POLICY_FILE], stored.version)
