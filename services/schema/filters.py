"""Parsing of a request's filters, sorts and facets against the schema, and the definition of a filter.

`matches` is the definition; every engine returns exactly the items it accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from services.errors import InvalidRequest, UnknownField
from services.schema.values import NUMERIC_ROLES, as_number, as_text, date_seconds, values
from services.types import Condition, Document, Field, Filters, Role, Scalar, Schema, Sort

FILTERABLE = (Role.KEYWORD, Role.NUMBER, Role.DATE, Role.POPULARITY)
RELEVANCE = "relevance"
MAX_CONDITIONS = 20
MAX_VALUES = 100
MAX_FACETS = 20
MAX_VALUE_CHARS = 1000
"""Maximum length of a string in a filter."""
MAX_ECHOED_CHARS = 64
"""Characters of an unknown field name that an error message repeats."""

_BOUNDS = ("gte", "gt", "lte", "lt")


def parse(raw: Mapping[str, Any], schema: Schema) -> Filters:
    """Request JSON as conditions: a scalar (equal to it), a list (any of its values) or a range {gte, gt, lte, lt}.

    A KEYWORD is compared as written (numbers and booleans as JSON writes them), a NUMBER or POPULARITY with finite
    numbers, a DATE with ISO 8601 strings or epoch seconds. Raises UnknownField, InvalidRequest.
    """
    if not isinstance(raw, Mapping):
        raise InvalidRequest("filters is an object: field -> value, list of values, or range", "filters")
    if len(raw) > MAX_CONDITIONS:
        raise InvalidRequest(f"at most {MAX_CONDITIONS} filters", "filters")
    return tuple(_condition(_field(name, schema, "filters"), value) for name, value in raw.items())


def parse_sort(raw: str, schema: Schema) -> Sort | None:
    """`relevance` (None), `field` (ascending) or `-field`. Raises UnknownField."""
    if raw == RELEVANCE:
        return None
    descending = raw.startswith("-")
    return Sort(_field(raw.removeprefix("-"), schema, "sort").name, descending)


def check_facets(names: Sequence[str], schema: Schema) -> tuple[str, ...]:
    """The fields to count values of, each once, in the order requested. Raises UnknownField, InvalidRequest."""
    unique = tuple(dict.fromkeys(names))
    if len(unique) > MAX_FACETS:
        raise InvalidRequest(f"at most {MAX_FACETS} facets", "facets")
    return tuple(_field(name, schema, "facets").name for name in unique)


def matches(filters: Filters, document: Document, schema: Schema) -> bool:
    """Whether an item meets every condition. One with several values meets a condition when any of them does; one
    without a value meets none."""
    return all(_meets(condition, document, schema) for condition in filters)


def _meets(condition: Condition, document: Document, schema: Schema) -> bool:
    field = schema.get(condition.field)
    if field is None or field.role not in FILTERABLE:
        return False
    held = values(document, field)
    if condition.any_of is not None:
        return any(value in condition.any_of for value in held)
    return any(isinstance(value, float) and _within(condition, value) for value in held)


def _within(condition: Condition, value: float) -> bool:
    return (
        (condition.gte is None or value >= condition.gte)
        and (condition.gt is None or value > condition.gt)
        and (condition.lte is None or value <= condition.lte)
        and (condition.lt is None or value < condition.lt)
    )


def _field(name: str, schema: Schema, place: str) -> Field:
    field = schema.get(name)
    if field is not None and field.role in FILTERABLE:
        return field
    usable = sorted(f.name for f in schema.of(*FILTERABLE))
    shown = name[:MAX_ECHOED_CHARS]
    what = f"no field {shown!r}" if field is None else f"{shown!r} is a {field.role} field"
    near = get_close_matches(shown, usable, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"fields that can be used here: {', '.join(usable) or 'none'}"
    raise UnknownField(f"{place}: {what}; {hint}", place)


def _condition(field: Field, raw: Any) -> Condition:
    if isinstance(raw, Mapping):
        return _range(field, raw)
    if not isinstance(raw, (list, tuple)):
        return Condition(field.name, any_of=(_value(field, raw),))
    if not 0 < len(raw) <= MAX_VALUES:
        raise InvalidRequest(f"{field.name}: a list of 1 to {MAX_VALUES} values", "filters")
    return Condition(field.name, any_of=tuple(dict.fromkeys(_value(field, value) for value in raw)))


def _range(field: Field, raw: Mapping[str, Any]) -> Condition:
    if field.role is Role.KEYWORD:
        raise InvalidRequest(f"{field.name} is a keyword field: it has values, not ranges", "filters")
    unknown = [name for name in raw if name not in _BOUNDS]
    if unknown or not raw:
        raise InvalidRequest(f"{field.name}: a range has one or more of {', '.join(_BOUNDS)}", "filters")
    bounds = {name: _number(field, value) for name, value in raw.items()}
    return Condition(field.name, None, *(bounds.get(name) for name in _BOUNDS))


def _value(field: Field, raw: Any) -> Scalar:
    if field.role is not Role.KEYWORD:
        return _number(field, raw)
    if not isinstance(raw, (str, bool, int, float)):
        raise InvalidRequest(f"{field.name}: a string, number or boolean is wanted", "filters")
    if isinstance(raw, str) and len(raw) > MAX_VALUE_CHARS:
        raise InvalidRequest(f"{field.name}: a string of more than {MAX_VALUE_CHARS} characters", "filters")
    return as_text(raw)


def _number(field: Field, raw: Any) -> float:
    read: Callable[[Any], float | None] = as_number if field.role in NUMERIC_ROLES else date_seconds
    number = read(raw)
    if number is None:
        wanted = "a finite number" if field.role in NUMERIC_ROLES else "an ISO 8601 date such as '2010-06-18'"
        raise InvalidRequest(f"{field.name}: {wanted} is wanted", "filters")
    return number
