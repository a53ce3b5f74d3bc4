"""Guesses the role of each field of a catalogue from its name and values. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from services.schema.values import as_number, date_seconds, scalars
from services.types import Document, Field, Role, Scalar, Schema

MAX_FIELDS = 256
TITLE_WEIGHT = 3.0
SHORT_WEIGHT = 1.5
LONG_WEIGHT = 1.0

_TITLES = (
    *("title", "name", "headline", "label", "product_title", "product_name", "item_name", "track_name", "song"),
    *("primary_title", "original_title", "display_name", "full_name", "heading", "subject"),
)
_POPULARITIES = (
    *("popularity", "plays", "play_count", "playcount", "listeners", "streams", "views", "view_count", "sales"),
    *("sales_count", "units_sold", "sold", "downloads", "download_count", "orders", "purchases", "followers"),
    *("popularity_score", "clicks", "hits", "likes", "favorites", "traffic"),
)
_RATINGS = (
    *("rating", "average_rating", "avg_rating", "rating_average", "vote_average", "stars", "review_score"),
    *("rating_value", "mean_rating", "star_rating", "product_rating", "score"),
)
_VOTES = (
    *("votes", "vote_count", "num_votes", "ratings_count", "rating_count", "num_ratings", "review_count"),
    *("reviews_count", "num_reviews", "number_of_reviews", "reviews"),
)
_CREATED = (
    *("release_date", "released", "release_year", "publication_date", "published", "published_at", "publish_date"),
    *("date_published", "publication_year", "year", "created_at", "created", "date_added", "added_at", "date"),
    *("first_air_date", "listed_at", "timestamp"),
)
_KEYWORD_NAMES = """
actor actors album albums artist artists asin author authors availability band bands brand brands cast casts categories
category channel character characters city class collection color colors colour colours composer composers condition
countries country creator creators crew department director directors ean editor editors format franchise gender genre
genres gtin host hosts instrument instruments isbn keyword keywords kind label labels language languages league location
maker manufacturer material materials model mood moods mpn network occasion pattern performer performers platform
producer producers publisher publishers region room season section seller series shop singer singers size sku status
studio studios style styles subject subjects tag tags team theme themes topic topics type upc vendor writer writers
"""
_STORED_NAMES = """
artwork avatar checksum cover embedding embeddings guid hash href icon id ids image images img link links path photo
photos picture pictures poster thumbnail thumbnails uri url urls uuid vector vectors
"""
_KEYWORD_WORDS = frozenset(_KEYWORD_NAMES.split())
_STORED_WORDS = frozenset(_STORED_NAMES.split())
_URL = re.compile(r"(https?:)?//\S+$|data:\S+$|\S+\.(jpe?g|png|gif|webp|svg|mp[34])$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEPARATORS = re.compile(r"[^a-z0-9]+")

_SAMPLE_DOCUMENTS = 2_000
"""Number of documents that a guess is based on; more hardly ever change it."""
_LONG_TEXT_WORDS = 8.0
_LONG_TEXT_CHARS = 60.0
_MIN_VALUES_FOR_REPETITION = 20
"""Minimum number of values from which repetition is evidence for a keyword."""
_MAJORITY = 0.9
_MIN_EPOCH_SECONDS = 1e8
"""Numbers from here on (1973) are points in time, not years."""
_MAX_LIST_NUMBERS = 16
"""Longer lists of numbers are vectors, not values."""


@dataclass(slots=True)
class _FieldSample:
    """The values of one field in the sampled documents."""

    documents: int = 0
    lists: int = 0
    longest: int = 0
    nested: bool = False
    values: list[Scalar] = field(default_factory=list)


def infer(documents: Iterable[Document]) -> Schema:
    """A schema for documents of any kind, from the first 2,000 of them. Fields that never hold a value are left out:
    they join by `extend` when one does."""
    seen = dict(islice(_observe(documents, frozenset()).items(), MAX_FIELDS))
    return _special(Schema(fields=tuple(Field(name, *_role(name, s)) for name, s in seen.items())), seen)


def extend(schema: Schema, documents: Iterable[Document]) -> Schema:
    """An inferred schema with the new fields of `documents`; the same object when there are none, and always when the
    schema was given. Roles once assigned stay. Beyond MAX_FIELDS, new fields get no role: where every item brings names
    of its own, they are really values."""
    if not schema.inferred or len(schema.fields) >= MAX_FIELDS:
        return schema
    seen = _observe(documents, frozenset(f.name for f in schema.fields))
    if not seen:
        return schema
    room = MAX_FIELDS - len(schema.fields)
    seen = dict(islice(seen.items(), room))
    # A STORED field changes no index; it may still get another role once its values show one.
    added = tuple(f for name, s in seen.items() if (f := Field(name, *_role(name, s))).role is not Role.STORED)
    if not added:
        return schema
    return _special(replace(schema, fields=schema.fields + added), seen)


def words_of(name: str) -> tuple[str, ...]:
    """Lower-case words of a field name: "productName", "product-name" -> product, name."""
    return tuple(word for word in _SEPARATORS.split(_CAMEL.sub("_", name).lower()) if word)


def _observe(documents: Iterable[Document], known: frozenset[str]) -> dict[str, _FieldSample]:
    seen: dict[str, _FieldSample] = {}
    for number, document in enumerate(documents):
        if number >= _SAMPLE_DOCUMENTS:
            break
        for name, value in document.items():
            if name in known or not _holds(value):
                continue
            entry = seen.setdefault(name, _FieldSample())
            entry.documents += 1
            entry.nested = entry.nested or _nested(value)
            if isinstance(value, (list, tuple)):
                entry.lists += 1
                entry.longest = max(entry.longest, len(value))
            entry.values.extend(scalars(value))
    return seen


def _holds(value: Any) -> bool:
    return _nested(value) or next(scalars(value), None) is not None


def _nested(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(entry, (Mapping, list, tuple)) for entry in value)
    return isinstance(value, Mapping)


def _role(name: str, seen: _FieldSample) -> tuple[Role, float]:
    words = words_of(name)
    if name == "id" or seen.nested or (words and words[-1] in _STORED_WORDS):
        return Role.STORED, 1.0
    kinds = Counter(bool if isinstance(v, bool) else str if isinstance(v, str) else float for v in seen.values)
    kind, times = kinds.most_common(1)[0] if kinds else (float, 0)
    # A few values of another kind are errors in their items, which are then rejected with the field's name.
    if times >= _MAJORITY * len(seen.values):
        if kind is float:
            return _numeric_role(words, seen), 1.0
        if kind is str:
            return _string_role(words, seen)
    return Role.KEYWORD, LONG_WEIGHT


def _numeric_role(words: tuple[str, ...], seen: _FieldSample) -> Role:
    numbers = [number for v in seen.values if (number := as_number(v)) is not None]
    if seen.longest > _MAX_LIST_NUMBERS:
        return Role.STORED
    if "_".join(words) in _CREATED and numbers and min(numbers) >= _MIN_EPOCH_SECONDS:
        return Role.DATE
    return Role.NUMBER


def _string_role(words: tuple[str, ...], seen: _FieldSample) -> tuple[Role, float]:
    texts = [v for v in seen.values if isinstance(v, str)]
    count = len(texts)
    if sum(bool(_URL.match(text)) for text in texts) >= _MAJORITY * count:
        return Role.STORED, 1.0
    if sum(date_seconds(text) is not None for text in texts) >= _MAJORITY * count:
        return Role.DATE, 1.0
    mean_words = sum(len(text.split()) for text in texts) / count
    long = mean_words >= _LONG_TEXT_WORDS or sum(map(len, texts)) / count > _LONG_TEXT_CHARS
    if long:
        return Role.TEXT, LONG_WEIGHT
    named = bool(words) and (words[-1] in _KEYWORD_WORDS or words[0] in _KEYWORD_WORDS)
    repeats = count >= _MIN_VALUES_FOR_REPETITION and len(set(texts)) <= 0.5 * count
    if named or repeats or seen.lists > 0.5 * seen.documents:
        return Role.KEYWORD, SHORT_WEIGHT
    return Role.TEXT, SHORT_WEIGHT


def _special(schema: Schema, seen: dict[str, _FieldSample]) -> Schema:
    """Name the title, popularity, rating, votes and created fields, where `schema` has none yet and `seen` has one."""
    fields = {f.name: f for f in schema.fields}

    def pick(names: tuple[str, ...], *roles: Role) -> str | None:
        by_words = {"_".join(words_of(name)): name for name in reversed(seen) if fields[name].role in roles}
        return next((by_words[name] for name in names if name in by_words), None)

    title = schema.title or _pick_title(seen, fields)
    if title is not None and schema.title is None:
        fields[title] = Field(title, Role.TEXT, TITLE_WEIGHT)
    votes = schema.votes or pick(_VOTES, Role.NUMBER)
    rating = schema.rating or pick(_RATINGS, Role.NUMBER)
    popularity = schema.popularity or pick(_POPULARITIES, Role.NUMBER)
    if popularity is None and schema.popularity is None:
        popularity = votes
    if popularity is not None and schema.popularity is None:
        fields[popularity] = Field(popularity, Role.POPULARITY)
    return replace(
        schema,
        fields=tuple(fields.values()),
        title=title,
        popularity=popularity,
        rating=rating,
        votes=votes,
        created=schema.created or pick(_CREATED, Role.DATE, Role.NUMBER),
    )


def _pick_title(seen: dict[str, _FieldSample], fields: Mapping[str, Field]) -> str | None:
    """The field with the best-known title name; else the fullest short text whose name ends like one."""
    candidates = [
        n for n in seen if fields[n].role in (Role.TEXT, Role.KEYWORD) and not seen[n].lists and _all_strings(seen[n])
    ]
    by_words = {"_".join(words_of(name)): name for name in reversed(candidates)}
    for known in _TITLES:
        if known in by_words:
            return by_words[known]
    ending = [n for n in candidates if words_of(n)[-1:] in (("title",), ("name",)) and fields[n].role is Role.TEXT]
    return max(ending, key=lambda name: seen[name].documents, default=None)


def _all_strings(seen: _FieldSample) -> bool:
    return all(isinstance(value, str) for value in seen.values)
