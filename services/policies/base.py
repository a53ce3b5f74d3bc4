"""A policy: how many candidates to take from each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.arm_profiles import ARM_PROFILES
from services.types import ArmChoice, ArmOption, Decision, Survey


@dataclass(frozen=True, slots=True)
class KnownArms:
    """Arms that a policy model has inputs and plans of."""

    planned: tuple[str, ...]
    """Arms that plans are made of, in the order of their columns."""
    others: tuple[str, ...]
    """Arms that are left to exploration."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order of the model's inputs."""
        return (*self.planned, *self.others)


KNOWN_ARMS = KnownArms(
    planned=tuple(profile.name for profile in ARM_PROFILES if profile.planned),
    others=tuple(profile.name for profile in ARM_PROFILES if not profile.planned),
)
"""The arms known to this release."""
PLAN_ARMS = KNOWN_ARMS.planned
FACTS = ("slots_expected", "slots_best", "slots_first", "title_trigrams", "title_query_share")
"""Item features recorded in surveys: columns of the ranker's table (services/rankers/features.py) that say how an item
relates to the query, whichever arm found it."""


def part(arm: str) -> str:
    """Name of the survey column (beside FACTS) with the arm's contribution to each item's fused score."""
    return f"{arm}_part"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one decision, known once its reward window has closed."""

    features: Mapping[str, float]
    survey: Survey | None = None
    """Full lists of all arms; None for an answer that was not surveyed."""
    examination: tuple[float, ...] = ()
    """Per shown item, the probability that it was examined."""
    clicked: tuple[float, ...] = ()
    """Per shown item, 1 after an action of positive weight, else 0."""
    weight: float = 1.0
    """Below 1 when one principal supplied more than its share."""


class Policy(Protocol):
    """Contract (tests/contracts/policy.py): distributions sum to 1 per arm, masked counts have probability 0, the
    chosen count is drawn by services.policies.sampling.draw(seed, arm, distribution), the counts together stay within
    the budget and at or above the floor; the same (features, options, seed) always gives the same decision."""

    @property
    def name(self) -> str:
        """Name of the policy in the log and in metric labels."""
        ...

    @property
    def version(self) -> str | None:
        """Version of the policy's model; None for a policy without one."""
        ...

    @property
    def survey_share(self) -> float:
        """Share of answers that the policy wants surveyed (services/search/survey.py) to learn from, 0..1."""
        ...

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        """One choice per option, in their order; `seed` determines the draws."""
        ...


class Retracing(Policy, Protocol):
    """A policy that can evaluate a decision of another policy."""

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        """Per arm, in order, what `decide` would log had it drawn these counts (services.policies.budget.retrace); the
        propensity is 0 where it never would. Nothing is drawn."""
        ...


class LearningPolicy(Retracing, Protocol):
    """A policy that learns from the outcomes of decisions, its own or another policy's."""

    def learn(self, outcome: Outcome) -> None:
        """Learn from one outcome. Raises ValueError, having learned nothing, for one that is not valid."""
        ...

    def dump(self) -> bytes:
        """The whole model; loading it continues bit-identically."""
        ...


class Decider(Protocol):
    """Makes the search engine's decisions: the active policy, under the current mode."""

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> Decision:
        """The decision for a request, with its propensities; `seed` determines the draws."""
        ...
