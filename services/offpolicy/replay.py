"""Proof that the log reproduces decisions: draw every logged choice again, and compute its distribution again.

Off-policy estimates rest on the logged propensities. They are worth something only when the logged distribution is what
the count was really drawn from, and when the model of that version really gives that distribution for those features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.backends.base import EventLog
from services.backends.log_reader import read_batches
from services.errors import RecordDamaged
from services.policies.base import Policy
from services.policies.sampling import draw
from services.types import ArmChoice, Impression

TOLERANCE = 1e-6

LearnedPolicies = Callable[[str], Policy | None]
"""Model version -> the policy with that model, exploration and limits; None when its snapshot is gone."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One arm of one decision that the log does not reproduce."""

    offset: int
    query_id: str
    arm: str
    check: str
    """drawn: the seed gives another count, or the propensity is not that of the count in the distribution.
    computed: the policy gives another distribution."""
    detail: str


@dataclass(slots=True)
class Report:
    """Result of a replay: numbers of decisions that the log reproduced."""

    checked: int = 0
    """Decisions checked (first pages; a listing takes no decision)."""
    drawn: int = 0
    """Checked decisions whose counts (served and shadow) all came out the same when drawn again."""
    recomputed: int = 0
    """Decisions whose distributions could be computed again because the policy's snapshot is at hand."""
    computed: int = 0
    """Recomputed decisions whose distributions all came out equal."""
    damaged: int = 0
    """Log records that could not be read."""
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        """Whether everything came out as logged."""
        return not self.mismatches


async def replay(
    log: EventLog, static: Policy | None = None, learned: LearnedPolicies | None = None, after: int = 0
) -> Report:
    """Check every decision logged after the offset `after`.

    `static` is the policy whose name static and shadow decisions carry; leave it out when its counts have changed.
    Without `static` and `learned` only the draws are checked.
    """
    report = Report()
    end, _ = await log.end()

    async def damaged(offset: int, error: RecordDamaged) -> None:
        report.damaged += 1

    async for records in read_batches(log, after, end, on_damage=damaged):
        for offset, record in records:
            if isinstance(record, Impression) and record.options and record.query_id == record.root_id:
                _check(report, offset, record, static, learned)
    return report


def _check(
    report: Report, offset: int, impression: Impression, static: Policy | None, learned: LearnedPolicies | None
) -> None:
    decision = impression.decision
    report.checked += 1
    wrong: list[tuple[str, str, str]] = []
    for choices in (decision.arms, decision.shadow or {}):
        wrong += [(arm, "drawn", detail) for arm, detail in _draw_differences(decision.seed, choices)]
    report.drawn += not wrong

    expected: list[tuple[Mapping[str, ArmChoice], Policy]] = []
    model = learned(decision.model_version) if learned and decision.model_version is not None else None
    if static is not None and decision.policy == static.name:
        expected.append((decision.arms, static))
    elif model is not None and decision.policy == model.name:
        expected.append((decision.arms, model))
    if decision.shadow is not None and model is not None:
        expected.append((decision.shadow, model))
    different = [
        (arm, "computed", detail)
        for choices, policy in expected
        for arm, detail in _distribution_differences(
            choices, policy.decide(impression.features, impression.options, decision.seed)
        )
    ]
    report.recomputed += bool(expected)
    report.computed += bool(expected) and not different
    report.mismatches += [Mismatch(offset, impression.query_id, *found) for found in wrong + different]


def _draw_differences(seed: int, choices: Mapping[str, ArmChoice]) -> list[tuple[str, str]]:
    """(arm, what is wrong) for every choice that is not the seed's draw from its own distribution."""
    wrong = []
    for arm, choice in choices.items():
        probabilities = dict(choice.distribution)
        if any(probability > 0.0 for probability in probabilities.values()):
            drawn = draw(seed, arm, choice.distribution)
            if drawn != choice.count:
                wrong.append((arm, f"logged {choice.count}, drawn {drawn}"))
        else:
            wrong.append((arm, "the distribution is empty"))
        if probabilities.get(choice.count) != choice.propensity:
            wrong.append((arm, f"propensity {choice.propensity}, distribution {probabilities.get(choice.count)}"))
    return wrong


def _distribution_differences(
    logged: Mapping[str, ArmChoice], computed: Mapping[str, ArmChoice]
) -> list[tuple[str, str]]:
    wrong = [(arm, "not in both") for arm in sorted(logged.keys() ^ computed.keys())]
    for arm in logged.keys() & computed.keys():
        was, now = dict(logged[arm].distribution), dict(computed[arm].distribution)
        if was.keys() != now.keys() or any(not abs(was[c] - now[c]) <= TOLERANCE for c in was):
            wrong.append((arm, f"logged {was}, computed {now}"))
    return wrong
