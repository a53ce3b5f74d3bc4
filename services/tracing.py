"""Spans of the work done for a request. No-ops, at next to no cost, until a tracer is installed (see
app/telemetry/tracing.py).

Attributes describe how the work was done and how long it took; they never hold the text of a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

Value = str | int | float | bool


class Span(Protocol):
    """A timed part of a trace."""

    def set(self, name: str, value: Value) -> None:
        """Add an attribute."""
        ...


class Tracer(Protocol):
    """Opens spans; app/telemetry/tracing.py implements it."""

    def span(self, name: str, attributes: Mapping[str, Value]) -> AbstractContextManager[Span]:
        """A context manager that measures what runs inside it, as a child of the current span."""
        ...

    def headers(self) -> dict[str, str]:
        """Headers that pass the current trace on to another service; empty outside a trace."""
        ...


class _Nothing:
    """The span of a process that is not traced."""

    def set(self, name: str, value: Value) -> None:
        pass

    def __enter__(self) -> Span:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass


NOTHING = _Nothing()
_tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Send spans to `tracer` from now on; None turns tracing off."""
    global _tracer
    _tracer = tracer


def span(name: str, **attributes: Value) -> AbstractContextManager[Span]:
    """A context manager for a child of the current span. With an attribute `engine` it is a client call to that engine.

    An error that leaves the context marks the span with its type; so does an `outcome` other than "ok"."""
    return NOTHING if _tracer is None else _tracer.span(name, attributes)


def outgoing_headers() -> dict[str, str]:
    """Headers to send to an engine so that its spans become children of the current one (W3C Trace Context)."""
    return {} if _tracer is None else _tracer.headers()
