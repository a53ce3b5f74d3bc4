"""What a service takes from the world around it; a simulation brings its own."""

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
    """Unix seconds, of everything that is dated."""
    stopwatch: Callable[[], float] = time.monotonic
    """Seconds, for the circuit breakers of arms."""
    wrap_arm: Callable[[Arm], Arm] = lambda arm: arm
    """Gives what is asked in place of an arm."""
    wrap_index: Callable[[Matching], Matching] = lambda index: index
    """Gives what is asked in place of the index for everything that matches."""
    steps: Steps = field(default_factory=Steps)
    on_progress: OnProgress = ignore_progress
    """Called while an index is rebuilt."""
