"""Log records as bytes and back, the same for every event log.

Layout: format (1 byte), kind (1 byte), CRC-32 of kind and body (4 bytes, big-endian), body (JSON). The format number
comes first so that a later layout can be recognised; the checksum catches damage that would still be readable JSON.
Bodies are not deflated: an impression would shrink to 45 % (most of it is digits of scores), but its append, for which
every search waits, would take 60 % longer.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from services.backends.base import Forget, Record, Tick
from services.errors import RecordDamaged
from services.types import (
    ArmChoice,
    ArmOption,
    Decision,
    Degraded,
    DegradedReason,
    EventStatus,
    Impression,
    Interaction,
    PolicyMode,
    Survey,
)

FORMAT = 1
IMPRESSION, INTERACTION, TICK, FORGET, SURVEY = 1, 2, 3, 4, 5

_HEADER = struct.Struct(">BBI")
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def kind_of(record: Record) -> int:
    """IMPRESSION, INTERACTION, TICK, FORGET or SURVEY."""
    match record:
        case Impression():
            return IMPRESSION
        case Interaction():
            return INTERACTION
        case Tick():
            return TICK
        case Forget():
            return FORGET
        case Survey():
            return SURVEY


def encode(record: Record) -> bytes:
    """`record` as bytes. A number that is not finite comes back as NaN (JSON has none), tuples inside `understanding`
    come back as lists; everything else comes back equal. Raises ValueError for what JSON cannot hold."""
    try:
        body = orjson.dumps(record, default=_plain, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        raise ValueError(f"a {type(record).__name__} that cannot be written as JSON: {error}") from error
    kind = kind_of(record)
    return _HEADER.pack(FORMAT, kind, zlib.crc32(body, kind)) + body


def decode(data: bytes) -> Record:
    """The record encoded as `data`. Raises RecordDamaged."""
    if len(data) < _HEADER.size:
        raise RecordDamaged(f"a log record of {len(data)} bytes is cut short")
    format_, kind, checksum = _HEADER.unpack_from(data)
    if format_ != FORMAT:
        raise RecordDamaged(f"a log record of format {format_}; this version reads format {FORMAT}")
    body = data[_HEADER.size :]
    if zlib.crc32(body, kind) != checksum or kind not in _READERS:
        raise RecordDamaged("a log record that does not match its checksum")
    try:
        return _READERS[kind](orjson.loads(body))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordDamaged(f"a log record that cannot be read: {error!r}") from error


def forgotten(record: Record, pseudonym: str) -> Record:
    """`record` without the user: ids, query text and everything derived from the text are removed; decisions, items and
    actions stay, so that learning can be repeated.

    `pseudonym` (random, one per request to forget) replaces the client: the influence of the user's records stays
    capped as one principal's, yet no history is built from them.
    """
    match record:
        case Impression():
            return replace(
                record,
                text="",
                normalized="",
                memory_key="",
                signature="",
                user_id=None,
                session_id=None,
                client_id=pseudonym,
                understanding={},
            )
        case Interaction():
            return replace(record, user_id=None, session_id=None, client_id=pseudonym)
        case _:
            return record


def _plain(value: Any) -> Any:
    """Convert mappings of classes that orjson does not support."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _float(value: float | None) -> float:
    return float("nan") if value is None else value


def _floats(values: list[float | None]) -> tuple[float, ...]:
    return tuple(map(_float, values))


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _float(value) for name, value in values.items()}


def _choices(arms: Mapping[str, Any]) -> dict[str, ArmChoice]:
    return {
        arm: ArmChoice(
            choice["count"],
            _float(choice["propensity"]),
            tuple((count, _float(probability)) for count, probability in choice["distribution"]),
        )
        for arm, choice in arms.items()
    }


def _impression(fields: dict[str, Any]) -> Impression:
    decision = fields["decision"]
    shadow = decision["shadow"]
    fields["decision"] = Decision(
        **decision
        | {
            "mode": PolicyMode(decision["mode"]),
            "arms": _choices(decision["arms"]),
            "shadow": None if shadow is None else _choices(shadow),
        }
    )
    fields["features"] = _numbers(fields["features"])
    fields["options"] = tuple(
        ArmOption(option["name"], tuple(option["counts"]), _numbers(option["features"])) for option in fields["options"]
    )
    fields["lists"] = {
        arm: tuple((object_id, _float(score)) for object_id, score in found) for arm, found in fields["lists"].items()
    }
    fields["degraded"] = tuple(
        Degraded(degraded["arm"], DegradedReason(degraded["reason"])) for degraded in fields["degraded"]
    )
    fields["ranking"] = tuple(fields["ranking"])
    fields["scores"] = _floats(fields["scores"])
    fields["shown"] = tuple(fields["shown"])
    fields["rows"] = tuple(_floats(row) for row in fields["rows"])
    return Impression(**fields)


def _interaction(fields: dict[str, Any]) -> Interaction:
    fields["status"] = EventStatus(fields["status"])
    return Interaction(**fields)


def _survey(fields: dict[str, Any]) -> Survey:
    fields["ranks"] = {arm: tuple(ranks) for arm, ranks in fields["ranks"].items()}
    fields["facts"] = {name: _floats(column) for name, column in fields["facts"].items()}
    fields["shown"] = tuple(fields["shown"])
    return Survey(**fields)


_READERS: dict[int, Callable[[dict[str, Any]], Record]] = {
    IMPRESSION: _impression,
    INTERACTION: _interaction,
    TICK: lambda fields: Tick(**fields),
    FORGET: lambda fields: Forget(**fields),
    SURVEY: _survey,
}
