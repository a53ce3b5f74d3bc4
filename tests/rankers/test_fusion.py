from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import ArmFailed
from services.rankers.fusion import FUSION_WEIGHTS, LAST_ITEM_SCORE, adapt, clean, fuse, order, scale, slot_coverage
from services.types import Candidate, Found, Interpretation, Pooled, Slot, Understanding
from tests.ids import stable_repr


def listed(*pairs: tuple[str, float]) -> list[Candidate]:
    return [Candidate(object_id, score) for object_id, score in pairs]


scores = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e299, max_value=1e299)
arm_list = st.lists(st.tuples(st.sampled_from("abcdefgh"), scores), unique_by=lambda pair: pair[0], max_size=8)
arm_lists = st.dictionaries(st.sampled_from(list(FUSION_WEIGHTS)), arm_list.map(lambda pairs: listed(*pairs)))


class TestClean:
    def test_a_good_list_passes_as_it_is(self) -> None:
        candidates = listed(("b", 2.0), ("a", 2), ("c", -1.5))
        assert clean(candidates, 3) == candidates
        assert clean([], 0) == []

    @pytest.mark.parametrize(
        "garbage",
        [
            listed(("a", math.nan)),
            listed(("a", math.inf)),
            listed(("a", -math.inf)),
            listed(("a", 1.0), ("a", 0.5)),
            listed(("", 1.0)),
            listed(("a", 3.0), ("b", 2.0), ("c", 1.0)),
            [Candidate("a", "1")],  # type: ignore[arg-type]
            [Candidate("a", None)],  # type: ignore[arg-type]
            [Candidate("a", True)],
            [Candidate(7, 1.0)],  # type: ignore[arg-type]
            [Candidate("a", sys.float_info.max)],
            [("a", 1.0)],
            ["a"],
            None,
            {"a": 1.0},
            iter(listed(("a", 1.0))),
        ],
        ids=stable_repr,
    )
    def test_garbage_is_an_arm_that_failed(self, garbage: Any) -> None:
        with pytest.raises(ArmFailed) as failure:
            clean(garbage, 2)
        assert failure.value.reason == "garbage"


class TestScale:
    def test_from_the_best_down_to_the_last(self) -> None:
        assert scale("lexical", [8.0, 5.0, 4.0]) == pytest.approx(
            [1.0, LAST_ITEM_SCORE + (1 - LAST_ITEM_SCORE) / 4, LAST_ITEM_SCORE]
        )

    def test_one_item_and_equal_scores_are_all_best(self) -> None:
        assert scale("lexical", [3.0]) == [1.0]
        assert scale("lexical", [-2.0, -2.0]) == [1.0, 1.0]
        assert scale("lexical", []) == []

    def test_a_doubtful_arm_says_so_by_its_best_score(self) -> None:
        assert scale("structured", [0.5, 0.3, 0.1]) == pytest.approx(
            [0.5, 0.5 * (LAST_ITEM_SCORE + (1 - LAST_ITEM_SCORE) / 2), 0.5 * LAST_ITEM_SCORE]
        )
        assert scale("structured", [0.5]) == [0.5]
        assert scale("structured", [1.9, 0.9])[0] == 1.0
        assert scale("vector", [-0.1, -0.2]) == [0.0, 0.0]

    def test_probabilities_stay_what_they_are(self) -> None:
        assert scale("memory", [0.33, 0.32]) == [0.33, 0.32]
        assert scale("memory", [1.5, -1.0]) == [1.0, 0.0]

    @given(st.sampled_from(list(FUSION_WEIGHTS)), st.lists(scores, min_size=1))
    def test_always_within_bounds_and_in_the_order_of_the_scores(self, arm: str, values: list[float]) -> None:
        scaled = scale(arm, values)
        assert all(0.0 <= value <= 1.0 + 1e-12 for value in scaled)
        assert [value for _, value in sorted(zip(values, scaled, strict=True))] == sorted(scaled)


class TestFuse:
    def test_convex_by_hand(self) -> None:
        lists = {"lexical": listed(("a", 10.0), ("b", 6.0), ("c", 2.0)), "vector": listed(("c", 0.9), ("d", 0.4))}
        pool = fuse(lists, {"lexical": 0.6, "vector": 0.4})
        assert [(p.object_id, round(p.score, 9)) for p in pool] == [("a", 0.6), ("c", 0.48), ("b", 0.36), ("d", 0.072)]
        assert pool[1].arms == {"lexical": Found(3, 2.0), "vector": Found(1, 0.9)}

    def test_the_scale_of_an_arm_does_not_matter(self) -> None:
        small = {"lexical": listed(("a", 0.2), ("b", 0.1)), "vector": listed(("b", 0.9), ("c", 0.3))}
        large = small | {"lexical": listed(("a", 2e6), ("b", 1e6))}
        weights = {"lexical": 0.3, "vector": 0.7}
        assert [(p.object_id, p.score) for p in fuse(small, weights)] == [
            (p.object_id, p.score) for p in fuse(large, weights)
        ]

    def test_an_arm_without_weight_still_gives_its_items(self) -> None:
        pool = fuse({"lexical": listed(("a", 1.0)), "unheard_of": listed(("b", 9.0))}, {"lexical": 1.0})
        assert [(p.object_id, p.score) for p in pool] == [("a", 1.0), ("b", 0.0)]

    def test_an_absent_arm_changes_no_score_of_the_others(self) -> None:
        weights = {"lexical": 0.6, "vector": 0.4}
        lexical = listed(("a", 3.0), ("b", 1.0))
        assert fuse({"lexical": lexical}, weights) == fuse({"lexical": lexical, "vector": []}, weights)

    def test_nothing_gives_nothing(self) -> None:
        assert fuse({}, FUSION_WEIGHTS) == []

    @given(arm_lists)
    def test_the_union_is_complete_without_repeats_and_remembers_where_each_item_stood(
        self, lists: dict[str, list[Candidate]]
    ) -> None:
        pool = fuse(lists, FUSION_WEIGHTS)
        ids = [pooled.object_id for pooled in pool]
        assert sorted(ids) == sorted({c.object_id for found in lists.values() for c in found})
        assert order(pool) == list(range(len(pool)))
        provenance = {(p.object_id, arm, f.rank, f.score) for p in pool for arm, f in p.arms.items()}
        assert provenance == {
            (c.object_id, arm, rank, c.score) for arm, found in lists.items() for rank, c in enumerate(found, 1)
        }

    @given(arm_lists)
    def test_the_order_of_the_arms_does_not_matter(self, lists: dict[str, list[Candidate]]) -> None:
        turned = dict(reversed(lists.items()))
        scores_of = {p.object_id: p.score for p in fuse(turned, FUSION_WEIGHTS)}
        assert scores_of == pytest.approx({p.object_id: p.score for p in fuse(lists, FUSION_WEIGHTS)})


class TestOrder:
    def test_ties_go_by_id(self) -> None:
        pool = [Pooled("b", {}, 1.0), Pooled("c", {}, 2.0), Pooled("a", {}, 1.0), Pooled("10", {}, 1.0)]
        assert [pool[i].object_id for i in order(pool)] == ["c", "10", "a", "b"]
        assert order([]) == []


def understood(*readings: tuple[float, tuple[tuple[str, str], ...], tuple[str, ...]]) -> Understanding:
    interpretations = tuple(
        Interpretation(likelihood, tuple(Slot(field, value, 0, 1, 0.9) for field, value in slots), rest)
        for likelihood, slots, rest in readings
    )
    return Understanding("", (), (), None, "en", interpretations)


def test_slots_explain_a_query_as_far_as_they_cover_it() -> None:
    whole = understood((0.9, (("genres", "Horror"), ("year", "80s")), ()), (0.1, (), ("horror", "80s")))
    assert slot_coverage(whole, "title") == (0.9, 0.9)
    part = understood((0.6, (("actors", "Jude Law"),), ("enemy", "gates")))
    assert slot_coverage(part, "title") == (pytest.approx(0.2), 0.0)
    assert slot_coverage(understood((1.0, (), ("word",))), "title") == (0.0, 0.0)


def test_a_title_in_the_query_does_not_explain_it() -> None:
    assert slot_coverage(understood((0.9, (("title", "Alien"),), ())), "title") == (0.0, 0.0)


def test_structure_and_taste_decide_what_slots_explain_and_words_the_rest() -> None:
    weights = {"lexical": 0.4, "structured": 0.4, "vector": 0.2, "personal": 0.1, "memory": 0.5}
    plain, whole = adapt(weights, 0.0, 0.0), adapt(weights, 1.0, 1.0)
    assert plain["structured"] < plain["lexical"]
    assert whole["structured"] > whole["lexical"]
    assert whole["structured"] == weights["structured"]
    assert plain["personal"] == weights["personal"] < whole["personal"]
    assert plain["memory"] == weights["memory"] > whole["memory"] > 0.0
    assert adapt({"explore": 0.5}, 1.0, 1.0) == {"explore": 0.5}
