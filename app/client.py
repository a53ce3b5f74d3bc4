"""Talking to the service that owns a data folder, for commands that run beside it."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import orjson

from services.errors import LtrrError

TIMEOUT = 120.0


class ServiceRefused(LtrrError):
    """The running service answered with a problem."""


class Client:
    """JSON over HTTP to a service on this machine."""

    def __init__(self, url: str, admin_key: str | None) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {admin_key}"} if admin_key else {}

    def send(self, method: str, path: str, body: bytes, content_type: str = "application/json") -> Any:
        """The decoded answer. Raises ServiceRefused with what the service said."""
        request = urllib.request.Request(  # noqa: S310 - the address is the owner's own, read from our lock file
            self._url + path, body, self._headers | {"Content-Type": content_type}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
                return orjson.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ServiceRefused(f"{self._url}{path}: {error.code} {_detail(error)}") from error
        except urllib.error.URLError as error:
            raise ServiceRefused(f"{self._url}{path}: {error.reason}") from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(orjson.loads(error.read())["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return error.reason
