"""Access control. Search and feedback trust the caller as the shop's own backend; the rest needs the admin key.

Without an admin key the service listens on a loopback address only. A page of another site could still reach it
through the browser (cross-site requests, DNS rebinding), so Host and Origin are checked; forwarded headers are ignored.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from fastapi import Request

from app.http.errors import Refused

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")


def admin_only(key: str | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets a request through only with `Authorization: Bearer KEY` (always, when there is no key)."""

    async def check(request: Request) -> None:
        if not is_admin(request, key):
            raise Refused(401, "this needs the admin key: send Authorization: Bearer <LTRR_ADMIN_KEY>")

    return check


def is_admin(request: Request, key: str | None) -> bool:
    """Whether the request bears the admin key (always, when there is no key)."""
    if key is None:
        return True
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    # In constant time, so that timing does not show how much of a wrong key was right. Bytes: compare_digest refuses
    # non-ASCII text.
    same = hmac.compare_digest(sent.strip().encode("utf-8", "replace"), key.encode())
    return same and scheme.lower() == "bearer"


class OriginGuard:
    """The Host names that are answered and the Origins that may call, when there is no admin key."""

    def __init__(self, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.rstrip("/").lower() for origin in origins}

    def refusal(self, host: str, origin: str | None) -> Refused | None:
        """The error of a rejected request, or None."""
        name = _hostname(host)
        if name not in self._hosts:
            return Refused(421, "this service does not answer to that Host; see LTRR_ALLOWED_HOSTS")
        own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}
        if origin is None or origin.lower() in self._origins | own:
            return None
        return Refused(403, "requests from other origins are refused; see LTRR_CORS_ORIGINS")


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
