"""Whether a process is about to leave: the server sets it, readiness reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Draining:
    """Whether this process is about to leave, for whoever has to say so."""

    active: bool = False
