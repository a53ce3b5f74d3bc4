"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model: `files` and `meta` for the model store, whether it passed its gate (`promote`), and why."""

    files: dict[str, bytes]
    meta: dict[str, Any]
    promote: bool
    reason: str
