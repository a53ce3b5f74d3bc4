"""Which text encoder is in force, and putting another one in its place."""

from __future__ import annotations

import logging
from pathlib import Path

from services.errors import ModelInvalid
from services.models.store import ModelStore
from services.models.text_encoder.model import HashingEncoder, LsaEncoder, TextEncoder

logger = logging.getLogger(__name__)

KIND = "text-encoder"


def current_encoder(folder: Path | None, store: ModelStore) -> TextEncoder:
    """The one in `folder` (LTRR_ENCODER); else the one trained on this catalogue; else one that needs no training."""
    if folder is not None:
        # Imported only when asked for: it needs the extra `encoder`.
        from services.models.text_encoder.onnx import OnnxEncoder

        return OnnxEncoder(folder)
    stored = store.current(KIND)
    if stored is not None:
        try:
            return LsaEncoder.from_files(stored.files)
        except ModelInvalid as error:
            logger.error("encoder_unusable version=%s error=%s", stored.version, error)
    return HashingEncoder()
