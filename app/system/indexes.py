"""The indexes of the catalogue: in folders of this process, or in OpenSearch and Qdrant. The clients of these are
imported only where the settings name them."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.settings import Settings
from services.backends.base import LexicalIndex, VectorIndex
from services.backends.files import replace_text
from services.backends.qdrant.edge import QdrantEdgeIndex
from services.backends.tantivy.index import TantivyIndex
from services.errors import SettingsInvalid
from services.types import Schema

if TYPE_CHECKING:
    from services.backends.opensearch.index import OpenSearchIndex
    from services.backends.qdrant.server import QdrantServer

FOLDER_NAME = "folder_id"


@dataclass(frozen=True, slots=True)
class Indexes:
    """Open indexes, and the servers behind them."""

    lexical: LexicalIndex
    texts: VectorIndex
    tastes: VectorIndex
    opensearch: OpenSearchIndex | None
    """`lexical`, when it is in OpenSearch."""
    qdrant: QdrantServer | None
    """The server of `texts` and `tastes`, when they are in Qdrant."""
    suffix: str
    """Distinguishes the progress of this folder's indexes from that of other folders that use the same Redis; "" where
    there is nothing to distinguish."""


async def open_indexes(
    settings: Settings, schema: Schema, text_encoder: Any, taste: Any, stack: AsyncExitStack
) -> Indexes:
    """Open the indexes; they are closed with `stack`. An unreachable engine is not an error here: its arms fail until
    it is back."""
    folder = settings.data_dir
    opensearch: OpenSearchIndex | None = None
    qdrant: QdrantServer | None = None
    if settings.opensearch_url is None:
        lexical: LexicalIndex = TantivyIndex.open(folder / "lexical", schema)
    else:
        lexical = opensearch = open_opensearch(settings, schema)
    stack.push_async_callback(lexical.close)
    if settings.qdrant_url is None:
        texts: VectorIndex = QdrantEdgeIndex.open(folder / "vectors", schema, text_encoder.size)
        tastes: VectorIndex = QdrantEdgeIndex.open(folder / "taste", schema, taste.size)
    else:
        from services.backends.qdrant.index import QdrantIndex

        qdrant = open_qdrant(settings)
        stack.push_async_callback(qdrant.close)
        rest = (settings.qdrant_quantization,)
        texts = QdrantIndex(qdrant, settings.namespace, "text", schema, text_encoder.size, text_encoder.version, *rest)
        tastes = QdrantIndex(qdrant, settings.namespace, "taste", schema, taste.size, taste.version, *rest)
    stack.push_async_callback(texts.close)
    stack.push_async_callback(tastes.close)
    undivided = settings.redis_url is None or (settings.opensearch_url is not None and settings.qdrant_url is not None)
    return Indexes(lexical, texts, tastes, opensearch, qdrant, "" if undivided else f"@{_folder_id(folder)}")


def open_qdrant(settings: Settings) -> QdrantServer:
    """A client, not yet connected. Raises SettingsInvalid when no server is set."""
    from services.backends.qdrant.server import QdrantServer

    if settings.qdrant_url is None:
        raise SettingsInvalid("LTRR_QDRANT_URL is not set")
    key = settings.qdrant_api_key
    return QdrantServer(settings.qdrant_url.get_secret_value(), key.get_secret_value() if key else None)


def open_opensearch(settings: Settings, schema: Schema) -> OpenSearchIndex:
    """A client, not yet connected. Raises SettingsInvalid when no server is set."""
    from services.backends.opensearch.index import OpenSearchIndex

    if settings.opensearch_url is None:
        raise SettingsInvalid("LTRR_OPENSEARCH_URL is not set")
    return OpenSearchIndex(
        settings.opensearch_url.get_secret_value(), settings.namespace, schema, ca=settings.opensearch_ca
    )


def _folder_id(folder: Path) -> str:
    """A random name of the data folder, drawn once and kept in it."""
    path = folder / FOLDER_NAME
    if not path.exists():
        replace_text(path, secrets.token_hex(4))
    return path.read_text("utf-8").strip()
