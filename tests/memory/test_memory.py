"""The arithmetic of the memory: keys, neighbours, scores, and the arm that gives it out."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.arms.memory import MemoryArm
from services.memory.keys import MIN_SIMILARITY, memory_key, nearest, shared_variants, similarity, variants
from services.memory.scores import debiased, decay, expected, joined, merge, recollect, score, trust
from services.text import normalize
from services.types import (
    Candidate,
    Context,
    Deadline,
    Interpretation,
    Query,
    Remembered,
    Understanding,
)

KEYS = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=3), min_size=1, max_size=9, unique=True).map(
    lambda tokens: " ".join(sorted(tokens))
)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Toy Story", "toy  STORIES"),
        ("the toy story", "story of a toy"),
        ("Amélie", "amelie"),
        ("Schindler's List", "schindlers list"),
        ("star wars star", "wars star"),
    ],
)
def test_the_same_question_has_the_same_key(a: str, b: str) -> None:
    assert memory_key(a) == memory_key(b)


@pytest.mark.parametrize(("a", "b"), [("rocky 2", "rocky 3"), ("it", "who"), ("?", "!"), ("heat", "heart")])
def test_other_questions_have_other_keys(a: str, b: str) -> None:
    assert memory_key(a) != memory_key(b)


def test_only_an_empty_query_has_no_key() -> None:
    assert memory_key("") == memory_key(" \t\n") == ""
    for text in ("it", "the who", "??", "🍿", "a" * 5000, "x " * 5000):
        key = memory_key(text)
        assert key
        assert len(key) <= 660


@given(st.text(max_size=60))
def test_a_key_is_empty_exactly_when_the_query_is(text: str) -> None:
    assert (memory_key(text) == "") == (normalize(text) == "")
    assert memory_key(text) == memory_key(normalize(text))


@given(KEYS)
def test_variants_are_few_smaller_keys(key: str) -> None:
    tokens = set(key.split(" "))
    found = variants(key)
    assert len(set(found)) == len(found) <= 21
    for variant in found:
        assert variant == " ".join(sorted(variant.split(" ")))
        assert 1 <= len(tokens - set(variant.split(" "))) <= 2
        assert set(variant.split(" ")) < tokens
    assert set(shared_variants(key)) <= set(found)


@given(KEYS, KEYS)
def test_similarity_is_symmetric_and_bounded(a: str, b: str) -> None:
    assert similarity(a, b) == similarity(b, a)
    assert 0.0 <= similarity(a, b) <= 1.0
    assert (similarity(a, b) == 1.0) == (a == b)


@given(KEYS, st.integers(0, 8))
def test_a_query_meets_the_one_that_differs_by_a_word(key: str, place: int) -> None:
    """Whatever one word is left out, added or exchanged, look-ups of variants join the two if they are similar."""
    tokens = key.split(" ")
    place %= len(tokens)
    fewer = " ".join(t for i, t in enumerate(tokens) if i != place)
    exchanged = " ".join(sorted({t if i != place else "zzzz" for i, t in enumerate(tokens)}))
    if fewer:
        assert fewer in variants(key)
    if similarity(key, exchanged) >= MIN_SIMILARITY and len(tokens) > 1:
        assert set(variants(key)) & set(shared_variants(exchanged))


def test_numbers_tell_queries_apart() -> None:
    assert similarity(memory_key("rocky 2"), memory_key("rocky 3")) == 0.0
    assert similarity(memory_key("rocky balboa 2"), memory_key("rocky balboa")) > 0.5


def test_the_nearest_keys_come_after_the_key_itself() -> None:
    sharing = ["story toy woody", "andy story toy", "toy", "story toy", "buzz story toy woody"]
    assert nearest("story toy", sharing) == [
        "story toy",
        "andy story toy",
        "story toy woody",
        "buzz story toy woody",
        "story",
        "toy",
    ]
    assert nearest("story toy", sharing, 2) == ["story toy", "andy story toy", "story toy woody"]
    assert nearest("story toy", sharing, 0) == ["story toy"]
    assert nearest("rocky 2".replace("rocky 2", "2 rocky"), ["3 rocky"]) == ["2 rocky", "2", "rocky"]


def test_a_score_rises_with_clicks_falls_with_impressions_and_stays_below_one() -> None:
    assert score(0, 10) == 0.0
    assert score(-3, 10) == 0.0
    assert score(1, 10) < score(2, 10) < score(2, 5) < score(50, 5) < score(1e6, 0) < 1.0
    assert score(5, 5, prior=2) == 5 / 7
    assert score(1, 2, prior=2) == 0.25


def test_position_bias_is_undone_up_to_a_bound() -> None:
    assert debiased(1.0, 1.0) == 1.0
    assert debiased(1.0, 0.5) == 2.0
    assert debiased(3.0, 0.001) == debiased(3.0, 0.5) == pytest.approx(6.0)


def test_decay_halves() -> None:
    assert decay(0, 10) == decay(-5, 10) == 1.0
    assert decay(10, 10) == 0.5
    assert decay(30, 10) == 0.125


def test_merging_never_lowers_and_prefers_the_query_itself() -> None:
    own = Remembered("1", 0.4, 3.0, False, 1.0)
    near = [
        Remembered("1", 0.5, 9.0, True, 0.5),
        Remembered("2", 0.8, 1.0, False, 0.5),
        Remembered("3", 0, 0, False, 1),
    ]
    first, second = merge([*near, own], 10)
    assert first == Remembered("1", pytest.approx(1 - 0.6 * (1 - 0.5 / 8)), 3.0, False, 1.0)
    assert second == Remembered("2", pytest.approx(0.1), 1.0, False, 0.5)
    assert merge([own, *near], 10) == merge([*near, own], 10)
    assert merge([*near, own], 1) == [first]
    tied = [Remembered(i, 0.5, 1.0, False, 1.0) for i in "cab"]
    assert [e.object_id for e in merge(tied, 10)] == ["a", "b", "c"]


def test_another_spelling_adds_what_it_knows() -> None:
    own = [Remembered("1", 0.4, 3.0, False, 1.0), Remembered("2", 0.1, 0.0, True, 0.5)]
    other = [
        Remembered("1", 0.5, 9.0, False, 1.0),
        Remembered("2", 0.5, 2.0, False, 1.0),
        Remembered("3", 0.2, 1, False, 1),
    ]
    first, second, third = joined(own, other, 0.9, 10)
    assert first == Remembered("1", pytest.approx(1 - 0.6 * (1 - trust(0.9) * 0.5)), 3.0, False, 1.0)
    assert second == Remembered("2", pytest.approx(1 - 0.9 * (1 - trust(0.9) * 0.5)), 2.0, False, 0.9)
    assert third == Remembered("3", pytest.approx(trust(0.9) * 0.2), 1, False, 0.9)
    assert joined(own, [], 0.9, 10) == own
    assert joined(own, other, 0.9, 1) == [first]


def test_what_was_done_stands_in_the_place_of_what_was_predicted() -> None:
    actual = [("story toy", "1", 2.0), ("story toy", "2", 0.0)]
    predicted = [("story toy", name, 0.1) for name in "123"]
    first, second = recollect("story toy", {"story toy": 5.0}, actual, predicted, 10)
    assert first == Remembered("1", pytest.approx(0.2), 2.0, False, 1.0)
    assert second == Remembered("3", pytest.approx(0.05), 0.0, True, 1.0)


def test_several_predictions_for_an_item_count_once_and_none_against_what_was_done() -> None:
    predicted = [("story toy", "1", 0.1), ("andy story toy", "1", 0.1), ("story toy", "2", 0.1), ("story", "2", 0.1)]
    found = recollect("story toy", {"story toy": 5.0}, [("story toy", "2", -3.0)], predicted, 10)
    assert found == [Remembered("1", pytest.approx(0.05), 0.0, True, 1.0)]
    near = recollect("story toy", {}, [], predicted[1:2], 10)
    assert near == [Remembered("1", pytest.approx(0.1 * trust(2 / 3)), 0.0, True, pytest.approx(2 / 3))]


@given(st.floats(0.0, 1e4), st.floats(0.0, score(1.0, 0.0)))
def test_a_prediction_fades_as_its_query_is_asked_and_never_comes_before_a_click(
    shown: float, predicted: float
) -> None:
    """Holds for predictions of at most the score of one click on a query never searched before."""
    assert expected(predicted, 0.0) == pytest.approx(predicted)
    assert expected(predicted, shown) <= score(1.0, shown) * (1.0 + 1e-12)
    assert expected(predicted, shown + 1.0) <= expected(predicted, shown)


async def test_the_arm_gives_out_what_the_search_remembered() -> None:
    arm = MemoryArm()
    understanding = Understanding("x", ("x",), (), None, "und", (Interpretation(1.0, (), ()),))
    memory = tuple(Remembered(str(n), 1 / n, 1.0, False, 1.0) for n in range(1, 4))
    context = Context(Query("x"), understanding, 0.0, memory=memory)
    assert arm.name == "memory"
    assert arm.counts[0] == 0
    assert arm.available(context)
    assert not arm.available(Context(Query("x"), understanding, 0.0))
    found = await arm.retrieve(context, 2, Deadline.after(1.0))
    assert found == [Candidate("1", 1.0), Candidate("2", 0.5)]
    assert await arm.retrieve(context, 0, Deadline.after(1.0)) == []
