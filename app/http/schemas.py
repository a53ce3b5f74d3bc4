"""The HTTP contract: request and response models. Requests are strict; unknown fields are rejected."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from services.text import normalize

MAX_DEPTH = 1000
MAX_QUERY_CHARS = 1000
MAX_ID_CHARS = 256
MAX_ECHOED_CHARS = 64
"""Characters of an unknown field name that an error message repeats."""


def _scalar(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Replaces the errors for each type of the union by one plain message."""
    try:
        return check(value)
    except ValidationError:
        message = "send a string of at most 64 characters, a finite number, true or false"
        raise PydanticCustomError("scalar", message) from None


def _short(text: str) -> str:
    """Also bounds the length of the normalised text: NFKC can turn one character into eighteen."""
    if len(normalize(text)) > MAX_QUERY_CHARS:
        message = f"send at most {MAX_QUERY_CHARS} characters, ligatures and the like written out"
        raise PydanticCustomError("string_too_long", message)
    return text


def _digits(value: Any) -> Any:
    if isinstance(value, str) and not (value.isascii() and value.removeprefix("-").isdigit()):
        raise PydanticCustomError("int_parsing", "send a whole number in digits")
    return value


def _truth(value: Any) -> Any:
    if isinstance(value, str) and value not in ("true", "false"):
        raise PydanticCustomError("bool_parsing", "send true or false")
    return value


Scalar = Annotated[
    Annotated[str, Field(max_length=64)] | bool | int | Annotated[float, Field(allow_inf_nan=False)],
    WrapValidator(_scalar),
]
Integer = Annotated[int, BeforeValidator(_digits)]
"""In a URL, where everything is text: no "1.0", " 1" or "1_0"."""
Boolean = Annotated[bool, BeforeValidator(_truth)]
Text = Annotated[str, Field(max_length=MAX_QUERY_CHARS), AfterValidator(_short)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]


class Strict(BaseModel):
    """A model that rejects unknown fields, other types, NaN and Infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Parameters(BaseModel):
    """Query parameters of a URL; unknown ones are rejected."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        for name in values:
            if name not in cls.model_fields:
                raise PydanticCustomError("extra_forbidden", "{message}", {"message": unknown(name, cls)})
        return values


def unknown(name: str, model: type[BaseModel]) -> str:
    """The message for a field that `model` does not have, with the nearest one that it has."""
    near = get_close_matches(name[:MAX_ECHOED_CHARS], model.model_fields, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(model.model_fields)}"
    return f"no field {name[:MAX_ECHOED_CHARS]!r}; {hint}"


class SearchRequest(Strict):
    """A search. An empty query browses: everything under the filters, popular first."""

    query: Text = Field("", description="the user's own words")
    filters: dict[str, Any] = Field(
        {},
        description="field -> value, list of values (any of them), or range {gte, gt, lte, lt}; fields joined by AND",
        examples=[{"genres": ["Animation"], "year": {"gte": 1990, "lt": 2020}}],
    )
    facets: list[Name] = Field([], max_length=20, description="fields whose values are counted over all that matches")
    sort: str = Field("relevance", max_length=MAX_ID_CHARS, description="relevance | field | -field")
    limit: int = Field(10, ge=1, le=100)
    offset: int = Field(0, ge=0, le=MAX_DEPTH - 1)
    user_id: Name | None = None
    session_id: Name | None = None
    client_id: Name | None = None
    context: dict[Annotated[str, Field(max_length=64)], Scalar] = Field(
        {}, max_length=16, description="what is known about the situation, such as {'device': 'tv'}"
    )
    timeout_ms: int = Field(300, ge=1, le=10_000, description="time for the whole answer; late arms are left out")
    explain: bool = Field(False, description="add to each hit what each feature contributed to its score")
    learn: bool = Field(True, description="false: answered normally, never learned from")
    query_id: str | None = Field(
        None, max_length=512, description="id of an earlier answer: another page of the same frozen list"
    )

    @model_validator(mode="after")
    def _depth(self) -> SearchRequest:
        if self.offset + self.limit > MAX_DEPTH:
            raise PydanticCustomError("too_deep", f"offset + limit must not exceed {MAX_DEPTH}")
        return self


class FoundBy(BaseModel):
    """Rank (from 1) and score of a hit in the list of one arm."""

    rank: int
    score: float


class SearchHit(BaseModel):
    """One item of an answer."""

    object_id: str
    position: int
    score: float
    document: dict[str, Any]
    highlights: dict[str, str] = Field(description="HTML-escaped except for <mark>…</mark>")
    arms: dict[str, FoundBy] = Field(description="which arms found it, at what rank and score")
    tail: bool = Field(False, description="true beyond the ranked union: static order; absent otherwise")
    explanation: dict[str, float] | None = Field(None, description="only with explain: feature -> contribution")


class FacetValue(BaseModel):
    """A value of a facet and how many matching items have it."""

    value: str | float | int | bool
    count: int


class SlotView(BaseModel):
    """A piece of the query that names a value of the catalogue."""

    field: str
    value: str
    start: int = Field(description="first character in `normalized`")
    end: int
    confidence: float


class UnderstandingView(BaseModel):
    """The service's understanding of the query."""

    normalized: str
    corrected: str | None
    language: str
    slots: list[SlotView]


class ArmDecision(BaseModel):
    """Number of candidates requested from an arm, and the probability of that choice."""

    count: int
    propensity: float


class DecisionView(BaseModel):
    """The policy's decision."""

    policy: str
    mode: Literal["learned", "static", "shadow"]
    model_version: str | None
    arms: dict[str, ArmDecision]


class DegradedView(BaseModel):
    """A part that failed for this answer, and why."""

    arm: str
    reason: str


class SearchResponse(BaseModel):
    """One page of results."""

    query_id: str
    took_ms: float
    total: int = Field(description="all items that match lexically or structurally under the filters")
    hits: list[SearchHit]
    facets: dict[str, list[FacetValue]]
    understanding: UnderstandingView
    decision: DecisionView
    degraded: list[DegradedView]


class FeedbackEvent(BaseModel):
    """One user action on an answer. Only documented here; each event is validated separately, see `status`."""

    event_id: str = Field(max_length=128)
    query_id: str | None = Field(None, description="of the answer; without it the admin key and a user_id are needed")
    object_id: str | None = None
    action_name: Literal["click", "add_to_cart", "purchase", "play", "like", "dislike", "dwell", "abandon"]
    timestamp: str | None = Field(None, description="the client's clock, ISO 8601; kept for audit")
    position: int | None = None
    value: float | None = Field(None, description="seconds for dwell")
    user_id: str | None = None
    client_id: str | None = None
    session_id: str | None = None
    event_attributes: dict[str, Any] | None = None


class EventOutcome(BaseModel):
    """Outcome of one event."""

    event_id: str | None
    status: Literal["accepted", "duplicate", "late", "unknown_query", "not_shown", "invalid"]
    detail: str | None


class FeedbackResponse(BaseModel):
    """Outcome of each event, in the order sent."""

    accepted: int
    results: list[EventOutcome]


class Suggestion(BaseModel):
    """One completion."""

    text: str
    score: float


class AutocompleteResponse(BaseModel):
    """Completions, best first."""

    suggestions: list[Suggestion]


class ItemOutcome(BaseModel):
    """Outcome of one item."""

    id: str | None
    status: Literal["accepted", "invalid"]
    detail: str | None


class ItemsResponse(BaseModel):
    """Outcome of each item, in the order sent."""

    accepted: int
    results: list[ItemOutcome]


class ItemDeleted(BaseModel):
    """An item that was deleted."""

    id: str
    status: Literal["deleted"]


class UserForgotten(BaseModel):
    """A user who was forgotten."""

    user_id: str
    log_records: int = Field(description="records that held data of the person and no longer do")


class ModelInForce(BaseModel):
    """The model version that is active now."""

    kind: str
    version: str
    status: Literal["promoted"]


class Health(BaseModel):
    """Whether the process can answer, part by part."""

    status: Literal["ok", "unavailable", "draining"]
    checks: dict[str, str] = Field({}, description="part -> ok, or the kind of its failure")


class PolicyMode(Strict):
    """The mode that policies decide under."""

    mode: Literal["learned", "static", "shadow"]


class Traffic(Strict):
    """Whether simulated visitors should search and click."""

    running: bool


class Promotion(Strict):
    """Why a version is promoted."""

    reason: str = Field("promoted by hand", max_length=500)
    force: bool = Field(False, description="promote a version that did not pass its gate; recorded")


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str | None = None
    errors: list[dict[str, str]] | None = Field(None, description="which fields, and what to send instead")
