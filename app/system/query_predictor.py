"""Which predictor of queries is in force."""

from __future__ import annotations

import logging

from services.errors import ModelInvalid
from services.models.query_predictor.model import QueryPredictor
from services.models.store import ModelStore

logger = logging.getLogger(__name__)

QUERY_PREDICTOR = "query-predictor"


def current_query_predictor(store: ModelStore) -> QueryPredictor:
    """The one trained on this catalogue and its clicks, or one that goes by titles."""
    stored = store.current(QUERY_PREDICTOR)
    if stored is not None:
        try:
            return QueryPredictor.from_files(stored.files)
        except ModelInvalid as error:
            logger.error("query_predictor_unusable version=%s error=%s", stored.version, error)
    return QueryPredictor.untrained()
