"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model. `files` and `meta` go into the model store; `promote`: whether it passed its gate; `reason`: why."""

    files: dict[str, bytes]
    meta: dict[str, Any]
    promote: bool
    reason: str
