"""The errors of the product.

LtrrError
├── InvalidRequest          the caller's mistake: which field, and what to send instead        -> 422
│   └── UnknownField        a filter, facet or sort field that the catalogue does not have     -> 422
├── TooLarge                a body above the size limit; send it in parts                      -> 413
├── NotFound                no such item, answer or model                                      -> 404
├── Overloaded              more work than this process takes on; try again after a while      -> 503, Retry-After
├── StorageFailed           the durable store did not take a write; nothing was accepted       -> 503, Retry-After
│   └── Unavailable         an engine cannot be reached, or is not called because it kept failing; `reason` says which
├── RecordDamaged           a stored log record cannot be read; `offset` says which            -> skipped and counted
├── ArmFailed               one retriever failed; the answer goes on without it                -> `degraded`
├── ModelInvalid            a stored model is damaged, of another format, or fails its gate
└── SettingsInvalid         a setting that cannot work, with the name to fix                   -> start refused
"""

from __future__ import annotations

from services.types import DegradedReason


class LtrrError(Exception):
    """Base of all errors that this product raises on purpose."""


class InvalidRequest(LtrrError):
    """The caller's mistake; `detail` says what to send instead, `field` which one is wrong."""

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class UnknownField(InvalidRequest):
    """A filter, facet or sort field that the catalogue does not have."""


class TooLarge(LtrrError):
    """A request body above its size or count limit."""


class NotFound(LtrrError):
    """No such item, answer or model."""


class Overloaded(LtrrError):
    """More work than this process takes on; `retry_after` in seconds."""

    retry_after = 1


class StorageFailed(LtrrError):
    """The durable store did not take a write; `retry_after` in seconds."""

    retry_after = 1


class Unavailable(StorageFailed):
    """An engine cannot be reached, or is not called because it kept failing; `reason`: UNAVAILABLE or CIRCUIT_OPEN."""

    def __init__(self, engine: str, reason: DegradedReason = DegradedReason.UNAVAILABLE) -> None:
        super().__init__(f"{engine}: {reason.replace('_', ' ')}")
        self.reason = reason


class RecordDamaged(LtrrError):
    """A stored log record cannot be read; `offset` says which, where that is known."""

    offset: int | None = None


class ArmFailed(LtrrError):
    """One retriever failed; `reason` says how."""

    def __init__(self, reason: DegradedReason) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelInvalid(LtrrError):
    """A stored model is damaged, of another format, or fails its gate."""


class SettingsInvalid(LtrrError):
    """A setting that cannot work; the message names it."""
