"""Dependencies of a service on its surroundings (clocks, wrappers, steps), which a simulation replaces."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.arms.base import Arm
from services.catalogue.index_sync import OnProgress, ignore_progress
from services.search.state import Matching
from services.search.steps import Steps


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Clocks, wrappers and steps that a service uses; the defaults are those of production."""

    clock: Callable[[], float] = time.time
    """Unix time in seconds, for all timestamps."""
    stopwatch: Callable[[], float] = time.monotonic
    """Monotonic seconds, for the circuit breakers of arms."""
    wrap_arm: Callable[[Arm], Arm] = lambda arm: arm
    """Returns the arm to use in place of a given one."""
    wrap_index: Callable[[Matching], Matching] = lambda index: index
    """Returns the index to use in place of the one that finds all matches."""
    steps: Steps = field(default_factory=Steps)
    on_progress: OnProgress = ignore_progress
    """Called while an index is rebuilt."""
