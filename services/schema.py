"""What the fields of a catalogue are for, and what an item's fields say about it. Pure.

Roles are given in a TOML file or inferred from names and values; an inferred schema grows when items bring new fields.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.errors import InvalidRequest, SettingsInvalid
from services.types import Document, Field, Role, Schema

ID = "id"
SAMPLE = 2000
"""Items that inference looks at."""
LONG_TEXT = 60
"""Average characters from which a string is prose."""
NEUTRAL_PRIOR = 0.5
RATING_WEIGHT = 0.8
"""Share of the rating in quality where both rating and votes are known; the rest is how many voted."""

TITLES = ("title", "name", "product_name", "product_title", "headline", "label")
POPULARITIES = ("popularity", "plays", "play_count", "views", "view_count", "listeners", "sales", "downloads", "orders")
VOTES = (
    "votes",
    "vote_count",
    "ratings_count",
    "rating_count",
    "review_count",
    "num_ratings",
    "num_reviews",
    "reviews",
)
RATINGS = ("rating", "average_rating", "vote_average", "avg_rating", "stars", "score")
CREATED = ("release_date", "released", "published", "published_at", "created_at", "created", "date", "year")
OPAQUE = re.compile(r"(^|_)(url|uri|link|image|img|thumbnail|poster|path|href|hash|checksum|uuid|id|ids)$")
"""Names of fields that nobody searches by."""


def infer(documents: Iterable[Document]) -> Schema:
    """Roles and prior constants from the names and values of (the first SAMPLE of) the items."""
    sample = [document for document, _ in zip(documents, range(SAMPLE), strict=False)]
    values: dict[str, list[Any]] = {}
    for document in sample:
        for name, value in document.items():
            if name != ID and value is not None and value != [] and value != "":
                values.setdefault(name, []).append(value)
    roles = {name: _role(name, found, len(sample)) for name, found in values.items()}
    numbers = [name for name, role in roles.items() if role is Role.NUMBER]
    votes = _first(VOTES, numbers)
    popularity = _first(POPULARITIES, numbers) or votes
    if popularity is not None:
        roles[popularity] = Role.POPULARITY
    title = _title(roles, values)
    if title is not None:
        roles[title] = Role.TEXT
    fields = tuple(Field(name, role, _weight(name, role, title, values[name])) for name, role in roles.items())
    schema = Schema(
        fields=fields,
        title=title,
        popularity=popularity,
        rating=_first(RATINGS, numbers),
        votes=votes,
        created=_first(CREATED, [n for n, r in roles.items() if r in (Role.DATE, Role.NUMBER)]),
    )
    return measure(schema, sample)


def extend(schema: Schema, documents: Iterable[Document]) -> Schema:
    """`schema` with the fields that `documents` bring and it does not have; itself when there are none or it was given."""
    if not schema.inferred:
        return schema
    fresh = infer(documents)
    known = {field.name for field in schema.fields}
    added = tuple(field for field in fresh.fields if field.name not in known)
    if not added:
        return schema
    return replace(
        schema,
        fields=schema.fields + added,
        title=schema.title or fresh.title,
        popularity=schema.popularity or fresh.popularity,
        rating=schema.rating or fresh.rating,
        votes=schema.votes or fresh.votes,
        created=schema.created or fresh.created,
        stats={**fresh.stats, **schema.stats},
    )


def measure(schema: Schema, documents: Iterable[Document]) -> Schema:
    """`schema` with the constants of its priors measured on `documents`."""
    columns: dict[str, list[float]] = {
        name: [] for name in (schema.popularity, schema.rating, schema.votes, schema.created) if name is not None
    }
    for document in documents:
        for name, found in columns.items():
            found += _numbers(document.get(name))
    stats: dict[str, float] = {}
    if popular := columns.get(schema.popularity or ""):
        stats["popularity_scale"] = max(_quantile(popular, 0.99), 1.0)
    if votes := columns.get(schema.votes or ""):
        stats["votes_median"] = max(_quantile(votes, 0.5), 1.0)
        stats["votes_scale"] = max(_quantile(votes, 0.99), 1.0)
    if ratings := columns.get(schema.rating or ""):
        stats["rating_mean"] = sum(ratings) / len(ratings)
        stats["rating_max"] = max(max(ratings), 1.0)
    if created := columns.get(schema.created or ""):
        stats["created_min"], stats["created_max"] = _quantile(created, 0.01), _quantile(created, 0.99)
    return replace(schema, stats=stats)


# --- what an item's fields say --------------------------------------------------------------------------------------


def values(document: Document, field: str) -> list[Any]:
    """The field's values as a list: [] when absent, one for a scalar."""
    value = document.get(field)
    if value is None:
        return []
    return [v for v in value if v is not None] if isinstance(value, list | tuple) else [value]


def date_seconds(value: Any) -> float | None:
    """An ISO 8601 date or time (UTC unless it says otherwise) or a number of seconds, as seconds since the epoch."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def prior(schema: Schema, document: Document) -> float:
    """How popular the item is, in [0, 1]: log(1 + x) / log(1 + its 99th percentile), popularity and votes averaged where
    both are known; NEUTRAL_PRIOR for every item of a catalogue that has neither."""
    shares = [
        min(1.0, math.log1p(max(found[0], 0.0)) / math.log1p(schema.stats[scale])) if found else 0.0
        for name, scale in ((schema.popularity, "popularity_scale"), (schema.votes, "votes_scale"))
        if name is not None and scale in schema.stats
        for found in [_numbers(document.get(name))]
    ]
    return sum(shares) / len(shares) if shares else NEUTRAL_PRIOR


def quality(schema: Schema, document: Document) -> float:
    """How well liked the item is, in [0, 1]: the Bayesian average (v * r + m * mean) / (v + m) of its rating, m being the
    median number of votes; the prior where the catalogue has no ratings."""
    if schema.rating is None or "rating_max" not in schema.stats:
        return prior(schema, document)
    rating = _numbers(document.get(schema.rating))
    votes = _numbers(document.get(schema.votes)) if schema.votes else [1.0]
    weight, mean = schema.stats.get("votes_median", 1.0), schema.stats["rating_mean"]
    count = max(votes[0], 0.0) if rating and votes else 0.0
    average = (count * (rating[0] if rating else mean) + weight * mean) / (count + weight)
    return min(1.0, max(0.0, average / schema.stats["rating_max"]))


def newness(schema: Schema, document: Document) -> float:
    """How new the item is, in [0, 1] between the oldest and the newest per cent of the catalogue; 0 when unknown."""
    low, high = schema.stats.get("created_min", 0.0), schema.stats.get("created_max", 0.0)
    created = _numbers(document.get(schema.created)) if schema.created else []
    return min(1.0, max(0.0, (created[0] - low) / (high - low))) if created and high > low else 0.0


# --- validation -----------------------------------------------------------------------------------------------------

ID_LENGTH = 128
STRING_LENGTH = 100_000
DEPTH = 8


def check(schema: Schema, document: Any) -> dict[str, Any]:
    """The item, fit to be stored; an integer id becomes text. Raises InvalidRequest naming the field and the mend."""
    if not isinstance(document, dict):
        raise InvalidRequest("an item is a JSON object with an id")
    identity = document.get(ID)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not 1 <= len(identity) <= ID_LENGTH or not identity.isprintable():
        raise InvalidRequest(f"id: a text of 1 to {ID_LENGTH} printable characters is needed", ID)
    for name, value in document.items():
        _check_value(name, value, 0)
    for field in schema.of(Role.NUMBER, Role.POPULARITY, Role.DATE):
        if any(_number(value) is None for value in values(document, field.name)):
            wanted = "a date (ISO 8601)" if field.role is Role.DATE else "a number"
            raise InvalidRequest(f"{field.name}: {wanted} is needed, as in the rest of the catalogue", field.name)
    return {**document, ID: identity}


def _check_value(name: str, value: Any, depth: int) -> None:
    if depth > DEPTH:
        raise InvalidRequest(f"{name}: nested deeper than {DEPTH} levels", name)
    if isinstance(value, str) and len(value) > STRING_LENGTH:
        raise InvalidRequest(f"{name}: longer than {STRING_LENGTH} characters", name)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{name}: not a finite number", name)
    if isinstance(value, dict):
        for inner in value.values():
            _check_value(name, inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_value(name, inner, depth + 1)


# --- forms ----------------------------------------------------------------------------------------------------------


def to_json(schema: Schema) -> dict[str, Any]:
    return {
        "fields": [{"name": f.name, "role": str(f.role), "weight": f.weight} for f in schema.fields],
        "title": schema.title,
        "popularity": schema.popularity,
        "rating": schema.rating,
        "votes": schema.votes,
        "created": schema.created,
        "synonyms": {phrase: list(meant) for phrase, meant in schema.synonyms.items()},
        "inferred": schema.inferred,
        "stats": dict(schema.stats),
    }


def from_json(form: Mapping[str, Any]) -> Schema:
    return Schema(
        fields=tuple(Field(f["name"], Role(f["role"]), f["weight"]) for f in form["fields"]),
        title=form["title"],
        popularity=form["popularity"],
        rating=form["rating"],
        votes=form["votes"],
        created=form["created"],
        synonyms={phrase: tuple(meant) for phrase, meant in form["synonyms"].items()},
        inferred=form["inferred"],
        stats=form["stats"],
    )


def load_schema(path: Path) -> Schema:
    """A schema from TOML: a table `fields` of name = role, or name = {role, weight}; title, rating, votes, created; and a
    table `synonyms` of phrase = [values]. Raises SettingsInvalid naming what is wrong."""
    try:
        form = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsInvalid(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid(f"{path}: {error}") from error
    unknown = set(form) - {"fields", "title", "rating", "votes", "created", "synonyms"}
    if unknown:
        raise SettingsInvalid(f"{path}: unknown key {min(unknown)}")
    fields = tuple(_field(path, name, given) for name, given in form.get("fields", {}).items())
    named = {field.name: field.role for field in fields}
    for key in ("title", "rating", "votes", "created"):
        if form.get(key) is not None and form[key] not in named:
            raise SettingsInvalid(f"{path}: {key} names {form[key]!r}, which is not among the fields")
    texts = [field.name for field in fields if field.role is Role.TEXT]
    return Schema(
        fields=fields,
        title=form.get("title") or _first(TITLES, texts) or (texts[0] if texts else None),
        popularity=next((name for name, role in named.items() if role is Role.POPULARITY), None),
        rating=form.get("rating"),
        votes=form.get("votes"),
        created=form.get("created"),
        synonyms={phrase: tuple(meant) for phrase, meant in form.get("synonyms", {}).items()},
        inferred=False,
    )


def describe(schema: Schema) -> str:
    """The schema as a table for people, a line a field."""
    special = {
        schema.title: "title",
        schema.rating: "rating",
        schema.votes: "votes",
        schema.created: "says how new",
    }
    return "\n".join(
        f"  {field.name:24} {field.role:11}"
        + (f" weight {field.weight:g}" if field.role in (Role.TEXT, Role.KEYWORD) else "")
        + (f"  ({special[field.name]})" if field.name in special else "")
        for field in schema.fields
    )


def _field(path: Path, name: str, given: Any) -> Field:
    form = given if isinstance(given, dict) else {"role": given}
    try:
        return Field(name, Role(form["role"]), float(form.get("weight", 1.0)))
    except (KeyError, ValueError, TypeError) as error:
        roles = ", ".join(Role)
        raise SettingsInvalid(f"{path}: field {name}: role must be one of {roles}") from error


# --- inference ------------------------------------------------------------------------------------------------------


def _role(name: str, found: Sequence[Any], items: int) -> Role:
    flat = [value for entry in found for value in (entry if isinstance(entry, list) else [entry])]
    if not flat or any(isinstance(value, dict | list) for value in flat) or OPAQUE.search(name.lower()):
        return Role.STORED
    if all(isinstance(value, bool) for value in flat):
        return Role.KEYWORD
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in flat):
        return Role.NUMBER
    texts = [value for value in flat if isinstance(value, str)]
    if len(texts) < len(flat):
        return Role.STORED
    if all(len(text) >= 8 and date_seconds(text) is not None for text in texts):
        return Role.DATE
    if any(text.startswith(("http://", "https://")) for text in texts[:20]):
        return Role.STORED
    if any(isinstance(entry, list) for entry in found):
        return Role.KEYWORD
    average = sum(map(len, texts)) / len(texts)
    distinct = len(set(texts)) / len(texts)
    if average >= LONG_TEXT or name.lower() in TITLES:
        return Role.TEXT
    # A value that comes again is something to choose by; in a handful of items nothing has come again yet.
    return Role.KEYWORD if distinct < 0.9 or items < 20 or average < 30 else Role.TEXT


def _title(roles: Mapping[str, Role], found: Mapping[str, Sequence[Any]]) -> str | None:
    named = _first(TITLES, [n for n, r in roles.items() if r in (Role.TEXT, Role.KEYWORD)])
    if named is not None:
        return named
    texts = [n for n, r in roles.items() if r is Role.TEXT]
    return min(texts, key=lambda n: sum(map(len, found[n])) / len(found[n]), default=None)


def _weight(name: str, role: Role, title: str | None, found: Sequence[Any]) -> float:
    if name == title:
        return 3.0
    if role is Role.TEXT:
        return 1.5 if sum(len(str(value)) for value in found) / len(found) < LONG_TEXT else 1.0
    return 1.0


def _first(wanted: Sequence[str], names: Iterable[str]) -> str | None:
    lowered = {name.lower(): name for name in names}
    return next((lowered[name] for name in wanted if name in lowered), None)


def _number(value: Any) -> float | None:
    """A number as such, a date as seconds; None for anything else."""
    return date_seconds(value)


def _numbers(value: Any) -> list[float]:
    entries = value if isinstance(value, list) else [value]
    return [number for number in map(_number, entries) if number is not None]


def _quantile(found: Sequence[float], share: float) -> float:
    return sorted(found)[min(len(found) - 1, int(share * len(found)))]
