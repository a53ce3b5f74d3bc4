"""Requests to an OpenSearch server: one connection pool, strict JSON, and errors of this service."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from opensearchpy import AsyncOpenSearch
from opensearchpy.exceptions import ConnectionError as EngineAway
from opensearchpy.exceptions import ConnectionTimeout, NotFoundError, SerializationError, TransportError
from opensearchpy.serializer import JSONSerializer

from services.backends.opensearch.reading import Garbage
from services.errors import SettingsInvalid, StorageFailed
from services.tracing import outgoing_headers

Body = Mapping[str, Any] | bytes

UNAVAILABLE_STATUSES = (502, 503, 504)

# The client logs addresses with their queries, and bodies; failures are counted and logged here.
logging.getLogger("opensearch").setLevel(logging.CRITICAL)


class EngineTrouble(Exception):
    """Connection refused or lost, gateway error, or shards that do not answer."""


class IndexMissing(StorageFailed):
    """The request names an index or alias that does not exist."""

    def __init__(self) -> None:
        super().__init__("OpenSearch has no such index")


class OpenSearchClient:
    """`url` may carry a user and password; `ca` is a file of certificates to trust, and raises SettingsInvalid when it
    is none. Opens nothing by itself. At most `connections` requests at once; further ones wait their turn."""

    def __init__(self, url: str, ca: Path | None, connections: int) -> None:
        parts = urlsplit(url)
        login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        secure = parts.scheme == "https"
        try:
            trusted = ssl.create_default_context(cafile=ca) if secure else None
        except OSError as error:
            raise SettingsInvalid(f"{ca}: not a file of certificates ({type(error).__name__})") from error
        self._client = AsyncOpenSearch(
            hosts=[{"host": parts.hostname, "port": parts.port or (443 if secure else 9200), "url_prefix": parts.path}],
            use_ssl=secure,
            ssl_context=trusted,
            http_auth=login,
            serializer=_Json(),
            maxsize=connections,
            # Remote retries; the client would retry at once, and writes too.
            max_retries=0,
            retry_on_timeout=False,
        )

    async def call(
        self,
        method: str,
        path: str,
        seconds: float,
        body: Body | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Any:
        """One request, sent once; the JSON object of the answer. Raises TimeoutError, EngineTrouble, IndexMissing,
        Garbage, and StorageFailed when rejected, never the client's own errors: they quote the request."""
        try:
            answer = await self._client.transport.perform_request(
                method, path, params=dict(options or {}), body=body, timeout=seconds, headers=outgoing_headers()
            )
        except ConnectionTimeout:
            raise TimeoutError from None
        except EngineAway as error:
            raise EngineTrouble(type(error.info).__name__) from None
        except NotFoundError:
            raise IndexMissing from None
        except TransportError as error:
            status = error.status_code
        except SerializationError:
            raise Garbage("JSON") from None
        else:
            if not isinstance(answer, dict):
                raise Garbage("a JSON object")
            return answer
        if status in UNAVAILABLE_STATUSES:
            raise EngineTrouble(f"status {status}")
        raise StorageFailed(f"OpenSearch refused with status {status}")

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


class _Json(JSONSerializer):
    """Strict, and an order of magnitude faster than the client's own."""

    def loads(self, s: str) -> Any:
        """Parse; raises SerializationError for what is not JSON."""
        try:
            return orjson.loads(s)
        except ValueError:
            raise SerializationError("not JSON") from None

    def dumps(self, data: Any) -> Any:
        """Bytes of JSON; bytes stay as they are."""
        return data if isinstance(data, bytes) else orjson.dumps(data)
