"""Whether this process is draining."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Draining:
    """Shared by the server, which sets it, and readiness, which reports it."""

    active: bool = False
