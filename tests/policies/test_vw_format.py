"""User text never becomes format: whatever features are called, an example keeps its shape."""

from __future__ import annotations

import math
import re

import pytest
import vowpal_wabbit_next as vw
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policies.vw_format import MAX_FEATURES, context_line, escaped

repeatable = settings(max_examples=200, deadline=None, derandomize=True, database=None)
hostile = st.one_of(
    st.text(alphabet=st.characters(), max_size=20),
    st.text(alphabet="|: \t\n\r#'`shared%ca0159.-=\x00\x0b\u2028\ud800", max_size=20),
)


@pytest.fixture(scope="module")
def parser() -> vw.TextFormatParser:
    return vw.TextFormatParser(vw.Workspace(["--oaa", "2", "--hash", "all", "--noconstant", "--quiet"]))


def shape(example: vw.Example) -> dict[str, int]:
    """Namespace -> number of features."""
    return {chr(index): len(example[index].values) for index in example.feat_group_indices}


@repeatable
@given(names=st.sets(hostile, max_size=8), value=st.floats(1e-5, 1e6))
def test_no_feature_name_changes_the_shape_of_a_context(
    parser: vw.TextFormatParser, names: set[str], value: float
) -> None:
    line = context_line(dict.fromkeys(names, value))
    assert "\n" not in line
    assert line.count("|") == 1
    assert shape(parser.parse_line(line)) == ({"s": len(names)} if names else {})


@repeatable
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_values_arrive_as_finite_numbers(parser: vw.TextFormatParser, value: float) -> None:
    line = context_line({"value": value})
    assert re.fullmatch(r"\|s( value:-?\d+\.\d{6})?", line)  # the library misreads some exponents
    example = parser.parse_line(line)
    arrived = [float(read) for read in example["s"].values] if "s" in example else [0.0]
    assert arrived == pytest.approx([min(max(value, -1000.0), 1000.0)], abs=1e-4, rel=1e-5)


@repeatable
@given(hostile, hostile)
def test_different_names_stay_different(one: str, other: str) -> None:
    assert escaped(one).isascii()
    assert (escaped(one) == escaped(other)) == (one == other)


def test_injection_by_newline_or_namespace_fails(parser: vw.TextFormatParser) -> None:
    """Effects of a line without escaping: an added action, an added namespace, a label."""
    for name in ("a\n|a evil", "a |a evil:9", "a:9 b", "shared |s", "0:-9:1 |a x"):
        assert shape(parser.parse_line(context_line({name: 1.0}))) == {"s": 1}


def test_order_does_not_matter() -> None:
    assert context_line({"b": 0.5, "a": 1.0}) == context_line({"a": 1.0, "b": 0.5})


def test_zeros_are_left_out() -> None:
    assert context_line({"a": 0.0, "b": -0.0, "c": 1e-9}) == context_line({})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        context_line({"a": value})


def test_too_many_features_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        context_line({f"f{i}": 1.0 for i in range(MAX_FEATURES + 1)})
