"""Whether a log holds enough to estimate by, one rule for the gate and the console. Pure; numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.offpolicy import ope

Floats = NDArray[np.float64]

MIN_SAMPLE = 100.0
"""Effective sample size below which intervals fall short of their nominal coverage (evaluation/studies/ope_coverage.py:
92-97 % from 100 on, 81-91 % at 10-25)."""
MIN_ACTED = 20.0
"""Effective number of decisions with at least one event: without events only the price is left, and the policy that
requests the fewest candidates would look best."""


def sample_size(weights: Sequence[Floats], moments: Sequence[Floats], shares: Floats) -> float:
    """Effective sample size of the policy that the log supports least, in decisions.

    weights: per policy (n,), of `ope.product`; moments: per policy (n,), finite, of `ope.expected_size`; shares (n,).
    The smaller of the observed and the expected size: a log may happen to show more support than is to be expected.
    """
    if not len(shares):
        return 0.0
    return min(
        min(ope.expected_size(moment, shares) for moment in moments),
        min(ope.effective_size(shares * weight) for weight in weights),
    )


def acted_size(weights: Sequence[Floats], acted: NDArray[np.bool_], shares: Floats) -> float:
    """`ope.effective_size` over the decisions with at least one event, for the policy that has the fewest."""
    return min(ope.effective_size((shares * weight)[acted]) for weight in weights)
