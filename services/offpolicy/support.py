"""Whether a log holds enough to estimate by, one rule for the gate and the console. Pure; numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.offpolicy import ope

Floats = NDArray[np.float64]

MIN_SAMPLE = 100.0
"""Effective sample size below which intervals do not cover what they promise (evaluation/studies/ope_coverage.py:
92-97 % from 100 on, 81-91 % at 10-25)."""
MIN_ACTED = 20.0
"""Effective number of decisions that somebody did anything about: without actions all that is left is the price, and
the policy that asks for least would be best."""


def sample_size(weights: Sequence[Floats], moments: Sequence[Floats], shares: Floats) -> float:
    """Effective sample size of the policy that the log supports least, in decisions.

    weights: per policy (n,), of `ope.product`; moments: per policy (n,), finite, of `ope.expected_size`; shares (n,).
    The smaller one of what came and of what is to be expected: a log may hold more support than is to be expected.
    """
    if not len(shares):
        return 0.0
    return min(
        min(ope.expected_size(moment, shares) for moment in moments),
        min(ope.effective_size(shares * weight) for weight in weights),
    )


def acted_size(weights: Sequence[Floats], acted: NDArray[np.bool_], shares: Floats) -> float:
    """As `ope.effective_size`, of the decisions that somebody did anything about; of the policy with fewest."""
    return min(ope.effective_size((shares * weight)[acted]) for weight in weights)
