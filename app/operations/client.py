"""HTTP client of the service that owns a data folder, for commands that run while it serves."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

import orjson

from app.settings import Settings
from services.errors import LtrrError

TIMEOUT_SECONDS = 120.0


class ServiceRefused(LtrrError):
    """The running service responded with an error, or not at all."""


class Client:
    """Sends JSON over HTTP to a service on this machine."""

    def __init__(self, url: str, admin_key: str | None) -> None:
        self._url = url
        # No proxy: the service is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._headers = {"Authorization": f"Bearer {admin_key}"} if admin_key else {}

    @classmethod
    def of(cls, settings: Settings, url: str) -> Client:
        """A client with the admin key from the settings, which is also the service's."""
        return cls(url, settings.admin_key.get_secret_value() if settings.admin_key else None)

    def send(self, method: str, path: str, body: bytes) -> Any:
        """The decoded response. Raises ServiceRefused with the error detail of the service."""
        request = urllib.request.Request(  # noqa: S310 - the address comes from the lock file of the data folder
            self._url + path, body, self._headers | {"Content-Type": "application/json"}, method=method
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ServiceRefused(f"{self._url}{path}: {error.code} {_detail(error)}") from error
        except (OSError, HTTPException) as error:  # unreachable, disconnected, or too slow
            raise ServiceRefused(f"{self._url}{path}: {getattr(error, 'reason', error)}") from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(orjson.loads(error.read())["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return error.reason
