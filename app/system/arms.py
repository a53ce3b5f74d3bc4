"""The retrieval arms over the open indexes."""

from __future__ import annotations

from dataclasses import dataclass

from app.settings import Settings
from app.system.indexes import Indexes
from app.system.surroundings import Surroundings
from services.arms.base import Arm
from services.arms.personal import PersonalArm
from services.arms.registry import ArmParts, build_arms
from services.arms.vector import VectorArm
from services.models.taste.model import TasteEncoder
from services.models.text_encoder.model import TextEncoder
from services.search.arm_pool import ArmPool


@dataclass(frozen=True, slots=True)
class Arms:
    """All arms, and the two whose encoder is replaced while the service runs."""

    pool: ArmPool
    vector: VectorArm
    """Holds the active text encoder."""
    personal: PersonalArm
    """Holds the active taste encoder."""


def assemble_arms(
    settings: Settings, indexes: Indexes, text_encoder: TextEncoder, taste: TasteEncoder, around: Surroundings
) -> Arms:
    """The arms of the registry over `indexes`, in the order of decisions."""
    parts = ArmParts(
        indexes.lexical, indexes.texts, indexes.tastes, text_encoder, taste, settings.action_weights["click"]
    )
    arms: tuple[Arm, ...] = build_arms(parts)
    vector = next(arm for arm in arms if isinstance(arm, VectorArm))
    personal = next(arm for arm in arms if isinstance(arm, PersonalArm))
    return Arms(ArmPool([around.wrap_arm(arm) for arm in arms], around.stopwatch), vector, personal)
