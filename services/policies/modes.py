"""The active policy: the learned one, the static one, or the static one with the learned one in shadow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from services import metrics
from services.policies.base import Policy
from services.policies.sampling import uniform
from services.types import ArmChoice, ArmOption, Decision, PolicyMode

logger = logging.getLogger(__name__)

SURVEY = "survey"
"""Name of the random stream that decides whether an answer is surveyed."""


class PolicySwitch:
    """Makes decisions under a mode that can change at any moment, and never fails.

    `learned`: the learned policy decides. `static`: the fixed one does. `shadow`: the fixed one does, and the learned
    one's choice is logged beside it. Whenever the learned policy fails, the fixed one takes over for that decision; the
    mode stays. A new model is swapped in by assigning `learned`; a decision in progress keeps the policy it began with.
    """

    def __init__(self, learned: Policy, fixed: Policy, mode: str = PolicyMode.LEARNED, surveyed: float = 1.0) -> None:
        """`surveyed`: largest share of the answers to survey, 0..1."""
        self.learned = learned
        self._fixed = fixed
        self._surveyed = surveyed
        self.mode = mode

    @property
    def mode(self) -> PolicyMode:
        """The current mode."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        """Raises ValueError for anything but learned, static and shadow."""
        if mode not in tuple(PolicyMode):
            raise ValueError(f"mode must be one of {', '.join(PolicyMode)}, not {mode!r}")
        self._mode = PolicyMode(mode)
        for known in PolicyMode:
            metrics.POLICY_MODE.labels(known).set(known is self._mode)

    def should_survey(self, seed: int) -> bool:
        """Whether the answer to the decision with this seed is to be surveyed: with the learned policy's survey share
        as probability, capped at `surveyed`, in any mode, because the policy learns from static traffic too. Never
        raises: a policy that fails gets no surveys."""
        learned = self.learned
        try:
            share = learned.survey_share
        except Exception as error:
            logger.warning("policy_failed policy=%s error=%s", learned.name, type(error).__name__)
            return False
        return uniform(seed, SURVEY) < min(share, self._surveyed)

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> Decision:
        """`model_version` is that of the learned policy wherever its choices are in the decision (shadow included)."""
        mode, learned = self._mode, self.learned
        choices, version = None, None
        if mode is not PolicyMode.STATIC:
            choices, version = self._attempt(learned, features, options, seed)
        if mode is PolicyMode.LEARNED and choices is not None:
            return Decision(learned.name, mode, version, seed, choices)
        fixed = self._fixed.decide(features, options, seed)
        return Decision(self._fixed.name, mode, version, seed, fixed, shadow=choices)

    @staticmethod
    def _attempt(
        learned: Policy, features: Mapping[str, float], options: Sequence[ArmOption], seed: int
    ) -> tuple[dict[str, ArmChoice] | None, str | None]:
        try:
            return learned.decide(features, options, seed), learned.version
        except Exception as error:  # whatever a model does, the search goes on
            metrics.POLICY_FALLBACKS.inc()
            logger.warning("policy_failed policy=%s error=%s", learned.name, type(error).__name__)
            return None, None
