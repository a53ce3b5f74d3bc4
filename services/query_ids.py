"""Signed, dated, unguessable query ids: a valid one was issued by this service, at a known time.

`kid.` + base64url (RFC 4648) of: issue time (6 bytes, milliseconds since the epoch) + 16 random bytes + the first 20
bytes of HMAC-SHA256 (RFC 2104; truncated to no less than half the output, as its section 5 recommends). 42 bytes fill
base64 exactly, so every id has only one spelling.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from services.errors import SettingsInvalid

Verdict = Literal["valid", "expired", "forged"]

MIN_SECRET_CHARS = 16
MAX_CLOCK_SKEW_SECONDS = 60.0
"""How far the clock of the gateway that issued an id may be ahead of ours."""

_DOMAIN_SEPARATOR = b"ltrr query id\0"
"""Bound into the signature, so that a key shared with another use cannot be made to sign a query id."""
_DATE_BYTES, _RANDOM_BYTES, _SIGNATURE_BYTES = 6, 16, 20
_KID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,32}")
_ID_PATTERN = re.compile(r"([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{56})")


class Signer:
    """The first of `keys` (kid, secret) signs, all verify: a key is rotated by putting a new one in front and dropping
    the old one once `ttl` seconds, the life of an id, have passed."""

    def __init__(self, keys: Sequence[tuple[str, bytes]], ttl: float) -> None:
        if not keys:
            raise SettingsInvalid("signing_keys: at least one key is needed, as kid:secret")
        self._kid = keys[0][0]
        self._keys = dict(keys)
        self._ttl = ttl

    def issue(self, at: float) -> str:
        """A new id dated `at` (server time, seconds since the epoch), safe in URLs as it is."""
        payload = int(at * 1000).to_bytes(_DATE_BYTES, "big") + secrets.token_bytes(_RANDOM_BYTES)
        signed = payload + _signature(self._kid, self._keys[self._kid], payload)
        return f"{self._kid}.{base64.urlsafe_b64encode(signed).decode('ascii')}"

    def verify(self, query_id: str, at: float) -> Verdict:
        """`forged`: not signed by any of the keys, or dated over 60 s after `at`; `expired`: older than the ttl."""
        match = _ID_PATTERN.fullmatch(query_id)
        secret = self._keys.get(match[1]) if match else None
        if match is None or secret is None:
            return "forged"
        signed = base64.urlsafe_b64decode(match[2])
        payload, signature = signed[:-_SIGNATURE_BYTES], signed[-_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, _signature(match[1], secret, payload)):
            return "forged"
        age = at - int.from_bytes(payload[:_DATE_BYTES], "big") / 1000
        if age < -MAX_CLOCK_SKEW_SECONDS:
            return "forged"
        return "expired" if age > self._ttl else "valid"


def parse_keys(text: str) -> list[tuple[str, bytes]]:
    """Keys of `kid:secret,…`, in order. Raises SettingsInvalid, which never repeats a secret."""
    keys: dict[str, bytes] = {}
    for number, part in enumerate(text.split(","), 1):
        kid, colon, secret = part.strip().partition(":")
        if not colon:
            raise SettingsInvalid(f"signing_keys: entry {number} is not kid:secret")
        if not _KID_PATTERN.fullmatch(kid):
            raise SettingsInvalid(
                f"signing_keys: the kid of entry {number} must be 1 to 32 letters, digits, '-' or '_'"
            )
        if kid in keys:
            raise SettingsInvalid(f"signing_keys: kid {kid} is given twice")
        if len(secret) < MIN_SECRET_CHARS:
            raise SettingsInvalid(f"signing_keys: the secret of {kid} has fewer than {MIN_SECRET_CHARS} characters")
        keys[kid] = secret.encode("utf-8", "surrogateescape")
    return list(keys.items())


def load_or_create_keys(path: Path) -> list[tuple[str, bytes]]:
    """The keys stored at `path` in the form of `parse_keys`; one random key is created when there is no such file.

    Only its owner can read the file. Of several processes that create it at once, one wins and all load the same.
    Raises SettingsInvalid when the file cannot be read, written or understood.
    """
    try:
        if not path.exists():
            _create(path, f"k1:{secrets.token_urlsafe(32)}\n")
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return parse_keys(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"signing_keys: {path}: {error}") from error
    except SettingsInvalid as error:
        raise SettingsInvalid(f"{error} (in {path})") from error


def _create(path: Path, text: str) -> None:
    """Put `text` at `path` unless another process was first: never a half-written file, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _signature(kid: str, secret: bytes, payload: bytes) -> bytes:
    message = _DOMAIN_SEPARATOR + kid.encode("ascii") + b"." + payload
    return hmac.digest(secret, message, hashlib.sha256)[:_SIGNATURE_BYTES]
