"""NDJSON and JSON arrays as numbered lines, read as they come in: a bad line costs itself, not the rest."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from services.errors import InvalidRequest, TooLarge

LONGEST_LINE = 1_000_000
LONGEST_ARRAY = 64_000_000
_SPACE = b" \t\r\n"
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One JSON value and where it stood, counted from 1 (blank lines count); or what was wrong with it."""

    number: int
    value: Any = None
    problem: str | None = None


def parse(number: int, text: bytes, longest: int = LONGEST_LINE) -> Line:
    """NaN, Infinity and what is not UTF-8 are not JSON."""
    if len(text) > longest:
        return _too_long(number, longest)
    try:
        return Line(number, orjson.loads(text))
    except orjson.JSONDecodeError as error:
        return Line(number, problem=f"not JSON: {error}")


def read(texts: Iterable[bytes], longest: int = LONGEST_LINE) -> Iterator[Line]:
    """Lines of a file; blank ones are passed over."""
    for number, text in enumerate(texts, 1):
        stripped = (text.removeprefix(_MARK) if number == 1 else text).strip(_SPACE)
        if stripped:
            yield parse(number, stripped, longest)


async def stream(
    chunks: AsyncIterable[bytes], longest: int = LONGEST_LINE, longest_array: int = LONGEST_ARRAY
) -> AsyncIterator[Line]:
    """Lines of a body, NDJSON or one JSON array (its entries are numbered as lines). NDJSON is never in memory as a
    whole, and of a line that is too long nothing is kept; an array is, up to `longest_array` bytes.

    Raises TooLarge when an array is too long, InvalidRequest when it is not JSON.
    """
    source = aiter(chunks)
    beginning = await _beginning(source, longest_array)
    number = 0
    if beginning.lstrip(_SPACE).startswith(b"["):
        for entry in _array(await _whole(beginning, source, longest_array)):
            number += 1
            yield Line(number, entry)
        return
    buffer = b""
    skipping = False
    async for chunk in _together(beginning, source):
        *whole, buffer = (buffer + chunk).split(b"\n")
        for text in whole:
            number += 1
            if skipping or len(text) > longest:
                skipping = False
                yield _too_long(number, longest)
            elif stripped := text.strip(_SPACE):
                yield parse(number, stripped, longest)
        if len(buffer) > longest:
            skipping, buffer = True, b""
    if skipping:
        yield _too_long(number + 1, longest)
    elif stripped := buffer.strip(_SPACE):
        yield parse(number + 1, stripped, longest)


async def _beginning(source: AsyncIterator[bytes], longest: int) -> bytes:
    """Enough of the body to tell an array from lines, without its byte order mark."""
    buffer = b""
    async for chunk in source:
        buffer += chunk
        if len(buffer) >= len(_MARK) and buffer.removeprefix(_MARK).strip(_SPACE):
            break
        if len(buffer) > longest:
            raise TooLarge("the body begins with too much white space")
    return buffer.removeprefix(_MARK)


async def _together(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _whole(first: bytes, rest: AsyncIterator[bytes], longest: int) -> bytes:
    parts, size = [first], len(first)
    async for chunk in rest:
        parts.append(chunk)
        size += len(chunk)
        if size > longest:
            raise TooLarge(f"an array of more than {longest} bytes; send one item a line (NDJSON) instead")
    return b"".join(parts)


def _array(body: bytes) -> list[Any]:
    try:
        entries = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the array is not JSON: {error}") from error
    return entries if isinstance(entries, list) else [entries]


def _too_long(number: int, longest: int) -> Line:
    return Line(number, problem=f"longer than {longest} bytes")
