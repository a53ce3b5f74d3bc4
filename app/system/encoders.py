"""Which encoders of items are in force: of their text, and of who liked them."""

from __future__ import annotations

import logging
from pathlib import Path

from services.errors import ModelInvalid
from services.models.store import ModelStore
from services.models.taste.model import TasteEncoder
from services.models.text_encoder.model import HashingEncoder, LsaEncoder, TextEncoder

logger = logging.getLogger(__name__)

TEXT = "text-encoder"
TASTE = "taste"


def current_text_encoder(folder: Path | None, store: ModelStore) -> TextEncoder:
    """The one in `folder` (LTRR_ENCODER); else the one trained on this catalogue; else one that needs no training."""
    if folder is not None:
        # Imported only when asked for: it needs the extra `encoder`.
        from services.models.text_encoder.onnx import OnnxEncoder

        return OnnxEncoder(folder)
    stored = store.current(TEXT)
    if stored is not None:
        try:
            return LsaEncoder.from_files(stored.files)
        except ModelInvalid as error:
            logger.error("encoder_unusable version=%s error=%s", stored.version, error)
    return HashingEncoder()


def current_taste(store: ModelStore) -> TasteEncoder:
    """The one trained on people's histories, or one that knows nothing but how good items are."""
    stored = store.current(TASTE)
    if stored is not None:
        try:
            return TasteEncoder.from_files(stored.files)
        except ModelInvalid as error:
            logger.error("taste_unusable version=%s error=%s", stored.version, error)
    return TasteEncoder.untrained()
