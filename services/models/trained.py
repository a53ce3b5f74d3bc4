"""What a training gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Trained:
    """`files` and `meta` are for the model store; `promote`: whether the gate lets the model go live, `reason`: why."""

    files: dict[str, bytes]
    meta: dict[str, Any]
    promote: bool
    reason: str
