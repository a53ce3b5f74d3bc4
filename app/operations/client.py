"""Talking to the service that owns a data folder, for commands that run beside it."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

import orjson

from app.settings import Settings
from services.errors import LtrrError

TIMEOUT = 120.0


class ServiceRefused(LtrrError):
    """The running service answered with a problem, or not at all."""


class Client:
    """JSON over HTTP to a service on this machine."""

    def __init__(self, url: str, admin_key: str | None) -> None:
        self._url = url
        # The service is on this machine: a proxy that is set for the network has no business in between.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._headers = {"Authorization": f"Bearer {admin_key}"} if admin_key else {}

    @classmethod
    def of(cls, settings: Settings, url: str) -> Client:
        """With the admin key that this process was given, which is the service's own."""
        return cls(url, settings.admin_key.get_secret_value() if settings.admin_key else None)

    def send(self, method: str, path: str, body: bytes) -> Any:
        """The decoded answer. Raises ServiceRefused with what the service said."""
        request = urllib.request.Request(  # noqa: S310 - the address is the owner's own, read from our lock file
            self._url + path, body, self._headers | {"Content-Type": "application/json"}, method=method
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ServiceRefused(f"{self._url}{path}: {error.code} {_detail(error)}") from error
        except (OSError, HTTPException) as error:  # not there, gone half-way, or too slow
            raise ServiceRefused(f"{self._url}{path}: {getattr(error, 'reason', error)}") from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(orjson.loads(error.read())["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return error.reason
