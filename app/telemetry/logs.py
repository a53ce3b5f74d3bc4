"""Log lines: one event, one line, as text or JSON, with the request it belongs to.

No value can break a line or forge another one: control characters are escaped. Errors are logged by type and place,
never by message, which may quote what was sent. Other packages are logged from warnings up only, because some log what
they send.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from app.settings import Settings

OWN_PACKAGES = ("app", "services")
"""Packages whose lines follow `log_level`."""
COMMAND_LEVEL = "warning"
"""Level for commands, which print their results themselves."""

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

requests = logging.getLogger("app.http.requests")

_Error = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


@dataclass(slots=True)
class Request:
    """Fields that all log lines of one request share, and further fields of its own line."""

    request_id: str
    trace_id: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


REQUEST: ContextVar[Request | None] = ContextVar("request", default=None)


def note(**values: Any) -> None:
    """Add values to the line of the current request. `query` is left out unless queries may be logged."""
    current = REQUEST.get()
    if current is not None:
        current.notes.update(values)


def finish(method: str, route: str, status: int, took: float) -> None:
    """Log the one line of the current request; `took` in seconds."""
    current = REQUEST.get()
    if current is not None and requests.isEnabledFor(logging.INFO):
        fields = {"method": method, "route": route, "status": status, "took_ms": round(1000 * took, 2), **current.notes}
        requests.info("request", extra=fields)


@contextmanager
def logging_to(stream: TextIO | None = None) -> Iterator[None]:
    """Log to `stream` (standard error) for as long as the context lasts, as commands do until `configure` is called:
    as text, from warnings up."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, OWN_PACKAGES)]
    before, handlers, raising = [logger.level for logger in loggers], root.handlers[:], logging.raiseExceptions
    _install("text", COMMAND_LEVEL, stream)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        logging.captureWarnings(False)
        logging.raiseExceptions = raising
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Log as the settings say, replacing the configuration before."""
    _install(settings.log_format, settings.log_level, stream)


def _install(form: str, level: str, stream: TextIO | None) -> None:
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    handler.addFilter(_prepare)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, LEVELS[level]))
    for name in OWN_PACKAGES:
        logging.getLogger(name).setLevel(LEVELS[level])
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # else a line that cannot be written would be printed with its arguments


def _prepare(record: logging.LogRecord) -> bool:
    """Add the ids of the request, and leave out asyncio's representations of tasks and callbacks: they may quote what
    was sent."""
    current = REQUEST.get()
    if current is not None:
        record.request_id = current.request_id
        if current.trace_id:
            record.trace_id = current.trace_id
    if record.name == "asyncio":
        record.msg, record.args = _REPRESENTATIONS.sub("", record.getMessage(), 1), ()
    return True


def _origin(error: _Error) -> str:
    """Type and place of an error, the deepest call last."""
    kind, _, at = error
    frames = (f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(at))
    return " ".join((kind.__name__ if kind is not None else "", *frames))


class Json(JsonFormatter):
    """One JSON object per line."""

    def __init__(self) -> None:
        super().__init__(
            ("asctime", "levelname", "name", "message"),
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "error"},
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Time in UTC, ISO 8601 with milliseconds."""
        return _time(record)

    def formatException(self, error: _Error) -> str:
        """Type and place of the error, without its message."""
        return _origin(error)


class Text(logging.Formatter):
    """`time LEVEL logger message name=value …`, with control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without a line end."""
        line = f"{_time(record)} {record.levelname} {record.name} {record.getMessage()}"
        for name, value in record.__dict__.items():
            if name not in _STANDARD:
                line += f" {name}={_quoted(value)}"
        if record.exc_info:
            line += f" error={_origin(record.exc_info)}"
        return _CONTROL.sub(_escaped, line)


_REPRESENTATIONS = re.compile(r"(?s)[^A-Za-z ].*")
_PLAIN = re.compile(r"[^\s\"'=]+")
_STANDARD = frozenset(RESERVED_ATTRS)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that terminals or line readers act on: control characters, line ends, changes of direction."""


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")


def _quoted(value: object) -> str:
    """Plain words as they are, anything else in quotes."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
