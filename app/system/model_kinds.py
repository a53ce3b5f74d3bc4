"""Every kind of model, one row each: how it is loaded, what replaces it where there is none, how it is activated in the
running service, and how `ltrr train` trains it.

A new kind is a row of MODEL_KINDS, and a field of ModelSlots if a new part of the service uses it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.settings import Settings
from app.system.policies import load_policy, served_policy
from app.system.reloading import Load
from services.catalogue.index_updaters import PredictionUpdater, VectorUpdater
from services.errors import ModelInvalid
from services.learning.snapshots import KIND as POLICY
from services.learning.snapshots import POLICY_FILE
from services.models.active import ActiveModels
from services.models.query_predictor.model import QueryPredictor
from services.models.store import ModelStore, StoredModel
from services.models.taste.model import TasteEncoder
from services.models.text_encoder.model import HashingEncoder, LsaEncoder, TextEncoder
from services.policies.base import LearningPolicy
from services.policies.modes import PolicySwitch
from services.rankers.base import Ranker
from services.rankers.onnx import FILE as RANKER_FILE
from services.rankers.onnx import OnnxRanker
from services.rankers.passthrough import PassthroughRanker

logger = logging.getLogger(__name__)

RANKER = "ranker"
TEXT = "text-encoder"
TASTE = "taste"
QUERY_PREDICTOR = "query-predictor"


@dataclass(frozen=True, slots=True)
class ModelSlots:
    """The parts of a running service that use models."""

    settings: Settings
    active: ActiveModels
    texts: VectorUpdater
    tastes: VectorUpdater
    predictions: PredictionUpdater
    switch: PolicySwitch


@dataclass(frozen=True, slots=True)
class ModelKind:
    """One kind of model: how it is loaded, activated and trained."""

    name: str
    """Name of the kind in the model store, in commands and in the API; never renamed."""
    load: Callable[[Settings, StoredModel], Any]
    """Loads the model of a stored version. Raises ModelInvalid or KeyError for files that are no such model."""
    stand_in: Callable[[Settings], Any]
    """The model that serves where there is no stored version; None when the part that uses it works without one."""
    activate: Callable[[ModelSlots, Any], Awaitable[None]]
    """Activates a model: searches use it once this has returned."""
    pinned: Callable[[Settings], Any] = lambda settings: None
    """The model named in the settings, which serves whatever is stored; None when they name none."""
    keep_active: bool = False
    """Whether the previous model stays active when a stored version cannot be used; otherwise the stand-in serves."""
    by_learner: bool = False
    """Whether the learner produces the model. A learner in this process activates its versions itself, and the version
    to continue from is changed through it."""
    trainer: str | None = None
    """`module:function` of its trainer (app/cli/trainers.py), imported when `ltrr train` needs it; None when that
    command does not train this kind."""


def _text_encoder_of_folder(settings: Settings) -> TextEncoder | None:
    """The encoder in the folder LTRR_ENCODER."""
    if settings.encoder is None:
        return None
    from services.models.text_encoder.onnx import OnnxEncoder  # needs the extra `encoder`

    return OnnxEncoder(settings.encoder)


async def _activate_ranker(slots: ModelSlots, ranker: Ranker) -> None:
    slots.active.ranker = ranker


async def _activate_policy(slots: ModelSlots, policy: LearningPolicy) -> None:
    slots.switch.learned = served_policy(slots.settings, policy)


MODEL_KINDS: tuple[ModelKind, ...] = (
    ModelKind(
        name=RANKER,
        load=lambda settings, stored: OnnxRanker(stored.files[RANKER_FILE], stored.meta, stored.version),
        stand_in=lambda settings: PassthroughRanker(),
        activate=_activate_ranker,
        keep_active=True,
        trainer="app.cli.trainers:train_ranker",
    ),
    ModelKind(
        name=TEXT,
        load=lambda settings, stored: LsaEncoder.from_files(stored.files),
        stand_in=lambda settings: HashingEncoder(),
        activate=lambda slots, encoder: slots.texts.adopt(encoder),
        pinned=_text_encoder_of_folder,
        trainer="app.cli.trainers:train_text_encoder",
    ),
    ModelKind(
        name=TASTE,
        load=lambda settings, stored: TasteEncoder.from_files(stored.files),
        stand_in=lambda settings: TasteEncoder.untrained(),
        activate=lambda slots, encoder: slots.tastes.adopt(encoder),
        trainer="app.cli.trainers:train_taste",
    ),
    ModelKind(
        name=QUERY_PREDICTOR,
        load=lambda settings, stored: QueryPredictor.from_files(stored.files),
        stand_in=lambda settings: QueryPredictor.untrained(),
        activate=lambda slots, predictor: slots.predictions.adopt(predictor),
        trainer="app.cli.trainers:train_query_predictor",
    ),
    ModelKind(
        name=POLICY,
        load=lambda settings, stored: load_policy(settings, stored.files[POLICY_FILE], stored.version),
        stand_in=load_policy,
        activate=_activate_policy,
        keep_active=True,
        by_learner=True,
    ),
)


def kind_named(name: str) -> ModelKind | None:
    """The row of that name; None for a kind that this release does not know."""
    return next((kind for kind in MODEL_KINDS if kind.name == name), None)


def by_learner(name: str) -> bool:
    """Whether models of the kind with that name are produced and activated by the learner."""
    kind = kind_named(name)
    return kind is not None and kind.by_learner


def trainable() -> list[str]:
    """Names of the kinds that `ltrr train` trains."""
    return [kind.name for kind in MODEL_KINDS if kind.trainer is not None]


def current_model(name: str, settings: Settings, store: ModelStore) -> Any:
    """The model of a kind that should serve, according to the settings and the store. Blocking.

    Raises ModelInvalid for a stored version that cannot be used, if the kind has no stand-in for that case.
    """
    kind = kind_named(name)
    if kind is None:
        raise ModelInvalid(f"{name} is no kind of model")
    model = kind.pinned(settings)
    if model is not None:
        return model
    stored = store.current(name)
    if stored is None:
        return kind.stand_in(settings)
    try:
        return _loaded(kind, settings, stored)
    except ModelInvalid as error:
        if kind.keep_active:
            raise
        logger.error("model_unusable kind=%s version=%s error=%s", name, stored.version, error)
        return kind.stand_in(settings)


def loads(slots: ModelSlots, store: ModelStore, kinds: Sequence[ModelKind]) -> dict[str, Load]:
    """For the Reloader: per kind, a function that loads and activates the current model."""

    async def load(kind: ModelKind) -> None:
        await kind.activate(slots, await asyncio.to_thread(current_model, kind.name, slots.settings, store))

    return {kind.name: partial(load, kind) for kind in kinds}


def _loaded(kind: ModelKind, settings: Settings, stored: StoredModel) -> Any:
    try:
        return kind.load(settings, stored)
    except KeyError as error:
        raise ModelInvalid(f"{kind.name} {stored.version}: {error} is missing") from error
