"""Log records as bytes: what goes in comes out, and damage is noticed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.backends.base import Forget, Record, Tick
from services.backends.log_codec import FORMAT, decode, encode, forgotten
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
from tests.builders.records import make_impression, make_interaction

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.floats(allow_nan=False, allow_infinity=False)
small = st.integers(0, 1000)
maybe = st.none() | text
SURVEY = Survey("q1", 1000.0, {"lexical": (1, 2, 0), "memory": (0, 1, 2)}, {"title_trigrams": (0.9, 0.5, 0.0)}, (1, -1))


def tuples(values: st.SearchStrategy[Any], size: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=size).map(tuple)


def mappings(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Mapping[str, Any]]:
    return st.dictionaries(text, values, max_size=3)


modes = st.sampled_from(PolicyMode)
choices = mappings(st.builds(ArmChoice, small, number, tuples(st.tuples(small, number))))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | small | number | text,
    lambda inner: st.lists(inner, max_size=3) | mappings(inner),
    max_leaves=5,
)
impressions = st.builds(
    Impression,
    **dict.fromkeys(("query_id", "root_id", "text", "normalized", "memory_key", "signature", "ranker"), text),
    **dict.fromkeys(("user_id", "session_id", "client_id"), maybe),
    at=number,
    learn=st.booleans(),
    understanding=mappings(json_values),
    features=mappings(number),
    options=tuples(st.builds(ArmOption, text, tuples(small), mappings(number))),
    decision=st.builds(Decision, text, modes, maybe, st.integers(0, 2**64 - 1), choices, st.none() | choices),
    lists=mappings(tuples(st.tuples(text, number))),
    degraded=tuples(st.builds(Degraded, text, st.sampled_from(DegradedReason))),
    ranking=tuples(text),
    scores=tuples(number),
    offset=small,
    shown=tuples(text),
    total=small,
    rows=tuples(tuples(number)),
)
interactions = st.builds(
    Interaction,
    **dict.fromkeys(("event_id", "action_name"), text),
    **dict.fromkeys(("query_id", "object_id", "user_id", "client_id", "session_id"), maybe),
    at=number,
    timestamp=st.none() | number,
    status=st.sampled_from(EventStatus),
    position=st.none() | small,
    value=st.none() | number,
)
surveys = st.builds(
    Survey, text, number, mappings(tuples(small)), mappings(tuples(number)), tuples(st.integers(-1, 1000))
)
records = impressions | interactions | surveys | st.builds(Tick, number) | st.builds(Forget, text, number)


@given(records)
def test_every_record_comes_back_equal(record: Record) -> None:
    assert decode(encode(record)) == record


def test_words_of_an_enum_come_back_as_its_members_and_others_are_damage() -> None:
    event, answer = decode(encode(make_interaction(status="late"))), decode(encode(make_impression()))
    assert isinstance(event, Interaction)
    assert event.status is EventStatus.LATE
    assert isinstance(answer, Impression)
    assert answer.decision.mode is PolicyMode.LEARNED
    assert answer.degraded[0].reason is DegradedReason.TIMEOUT
    with pytest.raises(RecordDamaged):
        decode(encode(make_interaction(status="unheard")))


@pytest.mark.parametrize("record", [make_impression(), make_interaction(), Tick(1.0), Forget("ann", 2.0), SURVEY])
def test_every_cut_and_every_flipped_bit_is_noticed(record: Record) -> None:
    data = encode(record)
    for cut in range(len(data)):
        with pytest.raises(RecordDamaged):
            decode(data[:cut])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordDamaged):
            decode(bytes(damaged))
    with pytest.raises(RecordDamaged):
        decode(data + b" ")


@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(RecordDamaged):
        decode(data)


def test_another_format_is_refused_by_its_number() -> None:
    data = bytes([FORMAT + 1]) + encode(Tick(1.0))[1:]
    with pytest.raises(RecordDamaged, match=f"format {FORMAT + 1}"):
        decode(data)


def test_numbers_that_are_not_finite_come_back_as_nan() -> None:
    record = make_impression(rows=((math.nan, 1.0), (math.inf, 2.0)), features={"idf": math.nan})
    back = decode(encode(record))
    assert isinstance(back, Impression)
    assert [[math.isnan(x) for x in row] for row in back.rows] == [[True, False], [True, False]]
    assert math.isnan(back.features["idf"])
    survey = decode(encode(replace(SURVEY, facts={"title_trigrams": (math.nan, 1.0, -math.inf)})))
    assert isinstance(survey, Survey)
    assert [math.isnan(x) for x in survey.facts["title_trigrams"]] == [True, False, True]


def test_values_of_numpy_and_read_only_mappings_are_plain_afterwards() -> None:
    record = make_impression(scores=(np.float64(0.5), np.float32(0.25)), features=MappingProxyType({"idf": 0.5}))
    back = decode(encode(record))
    assert back == make_impression(scores=(0.5, 0.25), features={"idf": 0.5})


@pytest.mark.parametrize("value", [object(), {1: 2}, "\ud800", 2**70])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="Impression"):
        encode(make_impression(understanding={"x": value}))


def test_a_forgotten_record_keeps_what_learning_needs_and_one_principal() -> None:
    impression, interaction = forgotten(make_impression(), "p"), forgotten(make_interaction(), "p")
    assert isinstance(impression, Impression)
    assert isinstance(interaction, Interaction)
    texts: dict[str, Any] = dict.fromkeys(("text", "normalized", "memory_key", "signature"), "")
    ids: dict[str, Any] = {"user_id": None, "session_id": None, "client_id": "p"}
    assert impression == make_impression(**texts, **ids, understanding={})
    assert interaction == make_interaction(**ids)
    assert (impression.actor.principal, impression.actor.person) == ("c:p", None)
    assert forgotten(Tick(1.0), "p") == Tick(1.0)
    assert forgotten(SURVEY, "p") == SURVEY  # names neither person nor query
