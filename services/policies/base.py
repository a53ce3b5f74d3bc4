"""A policy: how many candidates to take from each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.types import ArmChoice, ArmOption, Decision


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one decision once its reward window closed."""

    features: Mapping[str, float]
    options: tuple[ArmOption, ...]
    counts: Mapping[str, int]
    rewards: Mapping[str, float]
    """Per arm that was asked or could have been; censored arms (failed, timed out) are absent."""
    weight: float = 1.0
    """Below 1 when one principal supplied more than its share."""


class Policy(Protocol):
    """Contract (tests/contracts/policy.py): distributions sum to 1 per arm, masked counts have probability 0, the
    chosen count is drawn by services.policies.sampling.draw(seed, arm, distribution), the counts together stay within
    the budget and at or above the floor; the same (features, options, seed) always gives the same decision."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str | None: ...

    def decide(
        self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int
    ) -> dict[str, ArmChoice]: ...


class Retracing(Policy, Protocol):
    """A policy that can be asked about a decision that another policy took."""

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        """Per arm, in order, what `decide` would log had it drawn these counts (services.policies.budget.retrace); the
        propensity is 0 where it never would. Nothing is drawn."""
        ...


class LearningPolicy(Retracing, Protocol):
    def learn(self, outcome: Outcome) -> None: ...

    def dump(self) -> bytes:
        """The whole model; loading it continues bit-identically."""
        ...


class Decider(Protocol):
    """What the search engine asks: the policy in force, under the mode in force."""

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> Decision: ...
