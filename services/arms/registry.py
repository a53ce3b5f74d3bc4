"""Constructs each arm from the parts that the service has opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from services.arm_profiles import ARM_PROFILES
from services.arms.base import Arm
from services.arms.explore import ExploreArm
from services.arms.lexical import LexicalArm
from services.arms.memory import MemoryArm
from services.arms.personal import PersonalArm
from services.arms.structured import StructuredArm
from services.arms.vector import VectorArm
from services.backends.base import LexicalIndex, VectorIndex
from services.models.taste.model import TasteEncoder
from services.models.text_encoder.model import TextEncoder


@dataclass(frozen=True, slots=True)
class ArmParts:
    """The parts that arms are constructed from."""

    lexical: LexicalIndex
    texts: VectorIndex
    """Vectors of `text_encoder`."""
    tastes: VectorIndex
    """Vectors of `taste_encoder`."""
    text_encoder: TextEncoder
    taste_encoder: TasteEncoder
    view_weight: float
    """The largest weight of an action that is a mere view of an item."""


CONSTRUCTORS: dict[str, Callable[[ArmParts], Arm]] = {
    MemoryArm.name: lambda parts: MemoryArm(),
    StructuredArm.name: lambda parts: StructuredArm(parts.lexical),
    PersonalArm.name: lambda parts: PersonalArm(parts.tastes, parts.taste_encoder, look=parts.view_weight),
    VectorArm.name: lambda parts: VectorArm(parts.texts, parts.text_encoder),
    ExploreArm.name: lambda parts: ExploreArm(parts.lexical),
    LexicalArm.name: lambda parts: LexicalArm(parts.lexical),
}
"""Name of the arm -> its constructor; an entry for every profile."""


def build_arms(parts: ArmParts) -> tuple[Arm, ...]:
    """Every arm, in the order of decisions."""
    return tuple(CONSTRUCTORS[profile.name](parts) for profile in ARM_PROFILES)
