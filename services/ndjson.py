"""NDJSON and JSON arrays as numbered lines, read as they arrive; a bad line does not affect the others."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from services.errors import InvalidRequest, TooLarge

MAX_LINE_BYTES = 1_000_000
MAX_ARRAY_BYTES = 64_000_000
_WHITE_SPACE = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One JSON value or the problem with it, and its line number from 1 (blank lines count)."""

    number: int
    value: Any = None
    problem: str | None = None


def parse(number: int, text: bytes, max_bytes: int = MAX_LINE_BYTES) -> Line:
    """The JSON value of one line, or its problem; NaN, Infinity and invalid UTF-8 are not JSON."""
    if len(text) > max_bytes:
        return _too_long(number, max_bytes)
    try:
        return Line(number, orjson.loads(text))
    except orjson.JSONDecodeError as error:
        return Line(number, problem=f"not JSON: {error}")


def read(texts: Iterable[bytes], max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """The lines of a file; blank ones are skipped."""
    for number, text in enumerate(texts, 1):
        stripped = (text.removeprefix(_BYTE_ORDER_MARK) if number == 1 else text).strip(_WHITE_SPACE)
        if stripped:
            yield parse(number, stripped, max_bytes)


async def stream(
    chunks: AsyncIterable[bytes], max_bytes: int = MAX_LINE_BYTES, max_array_bytes: int = MAX_ARRAY_BYTES
) -> AsyncIterator[Line]:
    """The lines of a body: NDJSON, or one JSON array whose entries are numbered as lines. NDJSON is never in memory as
    a whole, and a line that is too long is not kept; an array is in memory, up to `max_array_bytes`.

    Raises TooLarge when an array is too long, InvalidRequest when it is not JSON.
    """
    source = aiter(chunks)
    beginning = await _beginning(source, max_array_bytes)
    number = 0
    if beginning.lstrip(_WHITE_SPACE).startswith(b"["):
        for entry in _array(await _read_all(beginning, source, max_array_bytes)):
            number += 1
            yield Line(number, entry)
        return
    buffer = b""
    skipping = False
    async for chunk in _chain(beginning, source):
        *whole, buffer = (buffer + chunk).split(b"\n")
        for text in whole:
            number += 1
            if skipping or len(text) > max_bytes:
                skipping = False
                yield _too_long(number, max_bytes)
            elif stripped := text.strip(_WHITE_SPACE):
                yield parse(number, stripped, max_bytes)
        if len(buffer) > max_bytes:
            skipping, buffer = True, b""
    if skipping:
        yield _too_long(number + 1, max_bytes)
    elif stripped := buffer.strip(_WHITE_SPACE):
        yield parse(number + 1, stripped, max_bytes)


async def _beginning(source: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """Enough of the body to tell an array from lines, without its byte order mark."""
    buffer = b""
    async for chunk in source:
        buffer += chunk
        if len(buffer) >= len(_BYTE_ORDER_MARK) and buffer.removeprefix(_BYTE_ORDER_MARK).strip(_WHITE_SPACE):
            break
        if len(buffer) > max_bytes:
            raise TooLarge("the body begins with too much white space")
    return buffer.removeprefix(_BYTE_ORDER_MARK)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _read_all(first: bytes, rest: AsyncIterator[bytes], max_bytes: int) -> bytes:
    parts, size = [first], len(first)
    async for chunk in rest:
        parts.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise TooLarge(f"an array of more than {max_bytes} bytes; send one item a line (NDJSON) instead")
    return b"".join(parts)


def _array(body: bytes) -> list[Any]:
    try:
        entries = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the array is not JSON: {error}") from error
    return entries if isinstance(entries, list) else [entries]


def _too_long(number: int, max_bytes: int) -> Line:
    return Line(number, problem=f"longer than {max_bytes} bytes")
