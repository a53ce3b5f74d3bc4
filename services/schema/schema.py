"""The catalogue's schema: loaded from schema.toml, written as JSON, printed as a table; and validation of items.

This module also exports inference (services/schema/inference.py), values (services/schema/values.py) and priors
(services/schema/priors.py)."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson

from services.errors import InvalidRequest, SettingsInvalid
from services.schema.inference import extend, infer
from services.schema.priors import measure, newness, prior, quality
from services.schema.values import NUMERIC_ROLES, as_number, as_text, date_seconds, first_number, values
from services.types import Field, Role, Schema

__all__ = [
    "as_number",
    "as_text",
    "check",
    "date_seconds",
    "describe",
    "extend",
    "first_number",
    "from_json",
    "infer",
    "load_schema",
    "measure",
    "newness",
    "prior",
    "quality",
    "to_json",
    "values",
]

MAX_ID_CHARS = 128
MAX_STRING_CHARS = 100_000
MAX_DOCUMENT_BYTES = 256 * 1024
MAX_DEPTH = 8
MAX_FIELDS = 256
_SPECIAL_FIELDS: dict[str, tuple[Role, ...]] = {
    "title": (Role.TEXT, Role.KEYWORD),
    "popularity": (Role.POPULARITY, Role.NUMBER),
    "rating": (Role.NUMBER,),
    "votes": (Role.NUMBER, Role.POPULARITY),
    "created": (Role.DATE, Role.NUMBER),
}


def check(schema: Schema, document: object) -> dict[str, Any]:
    """`document` as an item of the catalogue: a JSON object with an id of 1 to 128 characters (a whole number is taken
    as its digits), at most 256 kB, 256 fields, 8 levels deep, strings up to 100,000 characters, finite numbers, and
    values that fit the roles of their fields. Raises InvalidRequest, naming the field."""
    if not isinstance(document, Mapping):
        raise InvalidRequest("an item is a JSON object")
    if "id" not in document:
        raise InvalidRequest("an item needs an id", "id")
    if len(document) > MAX_FIELDS:
        raise InvalidRequest(f"an item has at most {MAX_FIELDS} fields")
    checked = {**document, "id": _id(document["id"])}
    for name, value in checked.items():
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ID_CHARS or not name.isprintable():
            raise InvalidRequest(f"a field name is 1 to {MAX_ID_CHARS} printable characters")
        _check_bounds(name, value, MAX_DEPTH)
    try:
        size = len(orjson.dumps(checked))
    except TypeError as error:  # a lone surrogate, a class that JSON does not have
        raise InvalidRequest(f"the item is not JSON: {error}") from error
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidRequest(f"the item is {size} bytes; at most {MAX_DOCUMENT_BYTES} are kept")
    for field in schema.fields:
        if field.name in checked and field.name != "id":
            _check_role(field, checked[field.name])
    return checked


def _id(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        value = str(value)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS or not value.isprintable():
        raise InvalidRequest(f"an id is a string of 1 to {MAX_ID_CHARS} printable characters, or a whole number", "id")
    return value


def _check_bounds(name: str, value: Any, depth: int) -> None:
    if isinstance(value, str):
        if len(value) > MAX_STRING_CHARS:
            raise InvalidRequest(
                f"{name}: a string of {len(value)} characters; at most {MAX_STRING_CHARS} are kept", name
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"{name}: NaN and Infinity are not numbers", name)
    elif isinstance(value, int):
        if abs(value) >= 2**63:
            raise InvalidRequest(f"{name}: a whole number of more than 64 bits", name)
    elif isinstance(value, (Mapping, list, tuple)):
        if depth == 0:
            raise InvalidRequest(f"{name}: nested deeper than {MAX_DEPTH} levels", name)
        for entry in value.values() if isinstance(value, Mapping) else value:
            _check_bounds(name, entry, depth - 1)


def _check_role(field: Field, value: Any) -> None:
    if field.role is Role.STORED:
        return
    for entry in value if isinstance(value, (list, tuple)) else (value,):
        if entry is None:
            continue
        if field.role in NUMERIC_ROLES:
            fits, wanted = as_number(entry) is not None, "a number"
        elif field.role is Role.DATE:
            fits, wanted = date_seconds(entry) is not None, "a date such as 2010-06-18, or epoch seconds,"
        else:
            fits, wanted = isinstance(entry, (str, bool, int, float)), "a string or a list of strings"
        if not fits:
            raise InvalidRequest(f"{field.name}: {wanted} is wanted (role {field.role})", field.name)


def load_schema(path: Path) -> Schema:
    """Load the schema from a schema.toml:

        title = "title"            # also popularity, rating, votes, created: each names a field below
        [fields]
        title = { role = "text", weight = 3 }
        genres = "keyword"         # text, keyword, number, date, popularity, stored
        [synonyms]
        scary = ["Horror", "Thriller"]

    Raises SettingsInvalid, whose message says what is wrong and what to write instead.
    """
    try:
        written = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsInvalid(f"{path}: {error}") from error
    unknown = set(written) - {"fields", "synonyms", *_SPECIAL_FIELDS}
    if unknown:
        known = ", ".join(["fields", "synonyms", *_SPECIAL_FIELDS])
        raise SettingsInvalid(f"{path}: unknown {', '.join(sorted(unknown))}; known are {known}")
    fields = _table(path, written, "fields")
    if not fields:
        raise SettingsInvalid(f'{path}: the table [fields] is missing; write for example: title = "text"')
    given = {name: _given_field(path, name, entry) for name, entry in fields.items() if name != "id"}
    special = _given_special(path, written, given)
    synonyms = {}
    for phrase, meant in _table(path, written, "synonyms").items():
        entries = [meant] if isinstance(meant, str) else meant
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise SettingsInvalid(f'{path}: synonyms.{phrase} is a list of strings, for example ["Horror"]')
        synonyms[phrase] = tuple(entries)
    return replace(Schema(tuple(given.values()), synonyms=synonyms, inferred=False), **special)


def _table(path: Path, written: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = written.get(name, {})
    if not isinstance(table, dict):
        raise SettingsInvalid(f"{path}: {name} is a table: write [{name}] on a line of its own")
    return table


def _given_field(path: Path, name: str, entry: object) -> Field:
    entry = {"role": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or "role" not in entry or set(entry) - {"role", "weight"}:
        raise SettingsInvalid(f'{path}: fields.{name} is a role, or {{ role = "text", weight = 3 }}')
    try:
        role = Role(entry["role"])
    except ValueError as error:
        roles = ", ".join(Role)
        raise SettingsInvalid(f"{path}: fields.{name}: no role {entry['role']!r}; roles are {roles}") from error
    weight = as_number(entry.get("weight", 1.0))
    if weight is None or not 0 <= weight <= 100:
        raise SettingsInvalid(f"{path}: fields.{name}: a weight is a number from 0 to 100")
    return Field(name, role, weight)


def _given_special(path: Path, written: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    special: dict[str, Any] = {}
    for key, roles in _SPECIAL_FIELDS.items():
        if key not in written:
            continue
        name = written[key]
        if not isinstance(name, str) or name not in fields:
            raise SettingsInvalid(f"{path}: {key} names no field of [fields]")
        if fields[name].role not in roles:
            raise SettingsInvalid(f"{path}: {key}: {name} must have the role {' or '.join(roles)}")
        special[key] = name
    if "popularity" not in special:
        popular = next((f.name for f in fields.values() if f.role is Role.POPULARITY), None)
        special |= {"popularity": popular} if popular else {}
    return special


def describe(schema: Schema) -> str:
    """The schema as a text table: one line per field, with what it is used for."""
    width = max((len(f.name) for f in schema.fields), default=5)
    lines = [f"{'field':{width}}  {'role':10}  weight  used as"]
    for f in schema.fields:
        weight = f"{f.weight:g}" if f.role in (Role.TEXT, Role.KEYWORD) else ""
        uses = ", ".join(key for key in _SPECIAL_FIELDS if getattr(schema, key) == f.name)
        lines.append(f"{f.name:{width}}  {f.role:10}  {weight:6}  {uses}".rstrip())
    return "\n".join(lines)


def to_json(schema: Schema) -> dict[str, Any]:
    """Plain JSON values; `from_json` gives the equal schema back."""
    return asdict(schema)


def from_json(written: Mapping[str, Any]) -> Schema:
    """The schema that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    return Schema(
        **{
            **written,
            "fields": tuple(Field(f["name"], Role(f["role"]), f["weight"]) for f in written["fields"]),
            "synonyms": {phrase: tuple(meant) for phrase, meant in written["synonyms"].items()},
        }
    )
