"""Policies according to the settings."""

from __future__ import annotations

from app.settings import Settings
from services.policies.base import LearningPolicy, Policy
from services.policies.fixed import FixedPolicy, UniformPolicy
from services.policies.vw import VWPolicy


def fixed_policy(settings: Settings) -> FixedPolicy:
    """The static mix within the candidate budget."""
    return FixedPolicy(budget=settings.candidate_budget)


def load_policy(settings: Settings, model: bytes | None = None, version: str | None = None) -> VWPolicy:
    """The learning policy from a snapshot's bytes, or untrained. Raises ModelInvalid for bytes that are no model."""
    return VWPolicy(
        fixed_policy(settings),
        exploration=settings.exploration,
        budget=settings.candidate_budget,
        price=settings.candidate_price,
        model=model,
        version=version,
    )


def served_policy(settings: Settings, learned: LearningPolicy) -> Policy:
    """The policy that decides in learned mode: `learned`, unless LTRR_POLICY selects one that never learns."""
    if settings.policy == "fixed":
        return fixed_policy(settings)
    if settings.policy == "uniform":
        return UniformPolicy(budget=settings.candidate_budget)
    return learned
