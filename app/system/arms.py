"""Which retrieval arms there are."""

from __future__ import annotations

from dataclasses import dataclass

from app.settings import Settings
from app.system.indexes import Indexes
from app.system.surroundings import Surroundings
from services.arms.base import Arm
from services.arms.explore import ExploreArm
from services.arms.lexical import LexicalArm
from services.arms.memory import MemoryArm
from services.arms.personal import PersonalArm
from services.arms.structured import StructuredArm
from services.arms.vector import VectorArm
from services.models.taste.model import TasteEncoder
from services.models.text_encoder.model import TextEncoder
from services.search.arm_pool import ArmPool


@dataclass(frozen=True, slots=True)
class Arms:
    pool: ArmPool
    vector: VectorArm
    """Holds the active text encoder."""
    personal: PersonalArm
    """Holds the active taste encoder."""


def assemble_arms(
    settings: Settings, indexes: Indexes, text_encoder: TextEncoder, taste: TasteEncoder, around: Surroundings
) -> Arms:
    """The arms over `indexes`, in the order of decisions."""
    vector = VectorArm(indexes.texts, text_encoder)
    personal = PersonalArm(indexes.tastes, taste, look=settings.action_weights["click"])
    # What is cheap and specific comes first, so that the budget reaches it; lexical last, because it can always serve
    # and so fills up to the floor.
    arms: tuple[Arm, ...] = (
        MemoryArm(),
        StructuredArm(indexes.lexical),
        personal,
        vector,
        ExploreArm(indexes.lexical),
        LexicalArm(indexes.lexical),
    )
    return Arms(ArmPool([around.wrap_arm(arm) for arm in arms], around.stopwatch), vector, personal)
