"""A ranker: orders the union."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
"""float32 [n candidates, len(features.NAMES)]."""


class Ranker(Protocol):
    """Contract (tests/contracts/ranker.py): one finite score per row, larger is better, deterministic, row order does
    not matter; contributions add up to the score where the model allows it."""

    @property
    def name(self) -> str:
        """Kind of ranker."""
        ...

    @property
    def version(self) -> str:
        """Version of the model, as logged with every impression."""
        ...

    @property
    def depth(self) -> int | None:
        """Number of a pool's first items by fused score that it can order; None: all of them. See cascade.py."""
        ...

    def score(self, rows: Rows) -> NDArray[np.float32]:
        """Scores, float32 [n]."""
        ...

    def contributions(self, rows: Rows) -> list[Mapping[str, float]]:
        """Per row, feature name -> contribution to the score (sparse: zeros left out)."""
        ...
