"""Plans and what they find, beside the plainest way of counting it; and what clicks teach of relevance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.evaluation.measures import dcg
from services.policies.base import FACTS, PLAN_ARMS
from services.policies.features import features
from services.policies.kinds import FIRST_FIT, KINDS, SAMPLE_SIZE, Kinds
from services.policies.plans import IN_USE, PAGE, STATIC, Plans, library
from services.policies.relevance import (
    ASPECTS,
    ATTRACTIVENESS,
    DRIFT_EVERY,
    KEYS,
    NOISE,
    POOLED_FACTS,
    RelevanceModel,
    featurize,
)
from services.rankers.features import NAMES
from services.rankers.fusion import FUSION_WEIGHTS, fuse, scale
from services.types import (
    Alternative,
    ArmOption,
    Candidate,
    Context,
    Interpretation,
    Person,
    Query,
    Remembered,
    Survey,
    Understanding,
)

MIX = (10, 25, 10, 25, 50)
repeatable = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def lists(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """(ranks, wanted) of up to 40 items; every arm has a permutation of some of them."""
    items = draw(st.integers(0, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    ranks = np.zeros((items, len(PLAN_ARMS)), dtype=np.int32)
    for arm in range(len(PLAN_ARMS)):
        held = rng.permutation(items)[: rng.integers(0, items + 1)]
        ranks[held, arm] = np.arange(1, len(held) + 1)
    return ranks, rng.random(items) * rng.integers(0, 2)


@repeatable
@given(lists())
def test_what_a_plan_finds_is_what_its_lists_hold(some: tuple[np.ndarray, np.ndarray]) -> None:
    ranks, wanted = some
    plans = Plans(PLAN_ARMS, MIX)
    for plan, found in zip(plans.counts.tolist(), plans.found(ranks, wanted).tolist(), strict=True):
        held = [any(0 < r <= c for r, c in zip(row, plan, strict=True)) for row in ranks.tolist()]
        total = sum(p for p, has in zip(wanted.tolist(), held, strict=True) if has)
        assert found == pytest.approx(min(total, PAGE) / max(1.0, min(sum(wanted.tolist()), PAGE)))


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(lists(), st.integers(0, 2**32 - 1))
def test_pages_are_those_of_the_lists_fused_anew(some: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    """Beside what the product does with lists that end where the plan says."""
    ranks, wanted = some
    rng, items = np.random.default_rng(seed), len(ranks)
    lists = {
        arm: [
            Candidate(f"{i:02d}", float(score))
            for i, score in zip(
                np.argsort(np.where(column > 0, column, 999))[: (column > 0).sum()],
                np.sort(rng.random((column > 0).sum()))[::-1],
                strict=True,
            )
        ]
        for arm, column in zip(PLAN_ARMS, ranks.T, strict=True)
    }
    union = fuse(lists, FUSION_WEIGHTS)
    ids = [pooled.object_id for pooled in union] + sorted(
        {f"{i:02d}" for i in range(items)} - {p.object_id for p in union}
    )
    order = [int(object_id) for object_id in ids]
    parts = np.zeros((items, len(PLAN_ARMS)))
    for a, arm in enumerate(PLAN_ARMS):
        scaled = scale(arm, [candidate.score for candidate in lists[arm]])
        for candidate, value in zip(lists[arm], scaled, strict=True):
            parts[int(candidate.object_id), a] = FUSION_WEIGHTS[arm] * value
    plans = Plans(PLAN_ARMS, (10, 25, 0, 7, 120))  # a static mix may have any counts
    pages = plans.pages(ranks[order], wanted[order], parts[order])
    best = dcg(sorted(wanted.tolist(), reverse=True), PAGE)
    for place in [*rng.integers(0, len(plans) - 1, 25).tolist(), STATIC]:
        cut = {
            arm: lists[arm][:count] for arm, count in zip(PLAN_ARMS, plans.counts[place].tolist(), strict=True) if count
        }
        page = [wanted[int(pooled.object_id)] for pooled in fuse(cut, FUSION_WEIGHTS)]
        assert pages[place] == pytest.approx(dcg(page, PAGE) / best if best else 0.0, abs=1e-6)


def test_an_arm_that_knows_the_order_is_worth_its_place() -> None:
    """It has nothing of its own, but the one item that is wanted, first; the other arm has that among others."""
    ranks, parts = np.zeros((30, len(PLAN_ARMS)), dtype=np.int32), np.zeros((30, len(PLAN_ARMS)))
    lexical, memory = PLAN_ARMS.index("lexical"), PLAN_ARMS.index("memory")
    ranks[:, lexical] = [8, *range(1, 8), *range(9, 31)]
    parts[:, lexical] = 0.4 - 0.01 * ranks[:, lexical]
    ranks[0, memory], parts[0, memory] = 1, 0.5
    wanted = np.where(np.arange(30) == 0, 1.0, 0.0)
    plans = Plans(PLAN_ARMS, MIX)
    alone, both = (
        plans.counts.tolist().index([counts.get(arm, 0) for arm in PLAN_ARMS])
        for counts in ({"lexical": 25}, {"lexical": 25, "memory": 5})
    )
    found, pages = plans.found(ranks, wanted), plans.pages(ranks, wanted, parts)
    assert (found[alone], found[both]) == (1.0, 1.0)
    assert (pages[alone], pages[both]) == pytest.approx((1 / np.log2(9), 1.0))


def test_the_library_has_every_plan_of_one_or_two_arms_once() -> None:
    plans = library(len(PLAN_ARMS))
    assert len({tuple(plan) for plan in plans.tolist()}) == len(plans) == 5 * 5 + 10 * 25
    assert set((plans > 0).sum(axis=1).tolist()) == {1, IN_USE}
    assert tuple(Plans(PLAN_ARMS, MIX).counts[STATIC].tolist()) == MIX


# --- what is wanted ---------------------------------------------------------------------------------------------------


def survey(items: int = 60) -> Survey:
    return Survey("q", 0.0, {"lexical": tuple(range(1, items + 1))}, {}, tuple(range(10)))


LOOKED = 1.0 / np.log2(np.arange(2, 12))


def taught(chances: np.ndarray, answers: int, seen: dict[str, float], seed: int = 3) -> RelevanceModel:
    """Clicks on the first ten of a list in which the item at each rank is wanted with such a chance."""
    rng = np.random.default_rng(seed)
    model, request_features = RelevanceModel(), featurize(seen, survey())
    for _ in range(answers):
        clicks = rng.random(10) < LOOKED * (NOISE + (ATTRACTIVENESS - NOISE) * (rng.random(10) < chances[:10]))
        model.learn(request_features, range(10), LOOKED, clicks.astype(float))
    return model


def expected(model: RelevanceModel, seen: dict[str, float]) -> np.ndarray:
    """Before anything is clicked."""
    return model.wanted(featurize(seen, survey()), [], np.zeros(0), np.zeros(0))


def test_the_slope_of_a_page_says_what_lies_beyond() -> None:
    ranks = np.arange(1, 61)
    steep, flat = 0.9 * ranks**-1.5, 0.25 * ranks**-0.3
    found = {name: expected(taught(curve, 3000, {}), {}) for name, curve in (("steep", steep), ("flat", flat))}
    assert found["steep"][:10] == pytest.approx(steep[:10], abs=0.08)
    assert found["flat"][:10] == pytest.approx(flat[:10], abs=0.08)
    assert found["steep"][20:].sum() < 0.35 < found["flat"][20:].sum()


def test_kinds_of_requests_have_slopes_of_their_own() -> None:
    ranks = np.arange(1, 61)
    curves = {"title_alone": 0.9 * ranks**-1.5, "slots_none": 0.25 * ranks**-0.3}
    rng = np.random.default_rng(1)
    model = RelevanceModel()
    for turn in range(6000):
        name = ("title_alone", "slots_none")[turn % 2]
        clicks = rng.random(10) < LOOKED * (NOISE + (ATTRACTIVENESS - NOISE) * (rng.random(10) < curves[name][:10]))
        model.learn(featurize({name: 1.0}, survey()), range(10), LOOKED, clicks.astype(float))
    for name, curve in curves.items():
        assert expected(model, {name: 1.0})[:10] == pytest.approx(curve[:10], abs=0.1)


def test_a_click_speaks_for_its_item_and_a_look_without_one_against() -> None:
    model = taught(np.full(60, 0.3), 500, {})
    taken = np.zeros(10)
    taken[4] = 1.0
    request_features = featurize({}, survey())
    before, after = expected(model, {}), model.wanted(request_features, range(10), LOOKED, taken)
    assert after[4] > 2 * before[4]
    others = [place for place in range(10) if place != 4]
    assert (after[others] < before[others]).all()
    assert (after[10:] == before[10:]).all()


def test_old_answers_are_outweighed_by_new_ones() -> None:
    model = taught(np.full(60, 0.6), 6 * DRIFT_EVERY, {})
    sure = np.trace(model.covariance)
    rng = np.random.default_rng(2)
    request_features = featurize({}, survey())
    for _ in range(10 * DRIFT_EVERY):
        model.learn(request_features, range(10), LOOKED, (rng.random(10) < LOOKED * NOISE).astype(float))
    assert expected(model, {})[:10].mean() < 0.2
    assert np.trace(model.covariance) < 3 * sure
    assert np.allclose(model.covariance, model.covariance.T)
    assert (np.linalg.eigvalsh(model.covariance) > 0).all()


def test_every_aspect_is_a_feature_of_some_request() -> None:
    """Every feature that characterises a kind of request is an aspect."""
    words = ((Alternative("a", 1.0),),)
    understanding = Understanding("a 1", ("a", "1"), words, "b", "en", (Interpretation(0.5, (), ("a",)),), (0.5,), 0.5)
    person = Person("u:1", (("x", 1.0, 0.0),))
    memory = (Remembered("x", 0.5, 2.0, True, 0.7),)
    options = tuple(ArmOption(arm, (0, 5)) for arm in (*PLAN_ARMS, "explore"))
    for known in (memory, ()):
        context = Context(Query("a 1", user_id="1"), understanding, 0.0, person, known)
        for name in features(context, options):
            assert name in ASPECTS or name.startswith(("time_", "weekday_", "weekend", "holidays")), name
    assert len(set(ASPECTS)) == len(ASPECTS)
    assert set(KEYS) <= set(ASPECTS)
    assert set(POOLED_FACTS) <= set(FACTS) <= set(NAMES)


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_kinds_foretell_what_plans_are_worth() -> None:
    rng = np.random.default_rng(4)
    patterns = {"title_alone": np.array([0.9, 0.1, 0.5]), "slots_none": np.array([0.1, 0.8, 0.4])}
    kinds = Kinds(3)
    for turn in range(FIRST_FIT + 300):
        name = ("title_alone", "slots_none")[turn % 2]
        assert (kinds.worth({name: 1.0}) is None) == (turn < FIRST_FIT)
        kinds.learn({name: 1.0}, np.clip(patterns[name] + 0.05 * rng.standard_normal(3), 0.0, 1.0))
    for name, pattern in patterns.items():
        assert kinds.worth({name: 1.0}) == pytest.approx(pattern, abs=0.06)


def test_kinds_of_equal_requests_are_no_trouble() -> None:
    kinds = Kinds(3)
    for _ in range(FIRST_FIT + 5):
        kinds.learn({}, np.array([0.5, 0.5, 0.5]))
    assert kinds.worth({}) == pytest.approx([0.5, 0.5, 0.5], abs=0.01)


def test_the_sample_is_of_all_requests_so_far() -> None:
    kinds = Kinds(1)
    for turn in range(4 * SAMPLE_SIZE):
        kinds.learn({"tokens": turn / (4 * SAMPLE_SIZE) + 0.001}, np.array([0.5]))
    values = [float(line.split(":")[1]) for line in kinds.arrays()["lines"].tobytes().decode().split("\n")]
    assert len(values) == SAMPLE_SIZE
    assert np.histogram(values, bins=4, range=(0.0, 1.001))[0] == pytest.approx([SAMPLE_SIZE / 4] * 4, abs=60)
    assert len(kinds.arrays()["centres"]) == KINDS


def test_whoever_is_beyond_their_share_does_not_fill_the_sample() -> None:
    kinds = Kinds(1)
    for turn in range(400):
        kinds.learn({"tokens": 0.5 if turn % 2 else 0.1}, np.array([0.5]), weight=0.01 if turn % 2 else 1.0)
    lines = kinds.arrays()["lines"].tobytes().decode().split("\n")
    assert sum("0.500000" in line for line in lines) < 10
    assert sum("0.100000" in line for line in lines) == 200
