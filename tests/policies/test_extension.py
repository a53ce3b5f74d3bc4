"""Policy models carried over to more arms: what is known of each plan, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from services.errors import ModelInvalid
from services.policies.base import KNOWN_ARMS, PLAN_ARMS, KnownArms
from services.policies.extension import FIRST_ARMS, arm_names, carry_over, learned_arms
from services.policies.kinds import KINDS, REPLAYS, Kinds
from services.policies.plans import STATIC, Plans
from services.policies.relevance import INPUTS, PRECISION_OF_PRODUCTS, input_names
from services.policies.vw_format import context_line

FEWER = KnownArms(tuple(arm for arm in PLAN_ARMS if arm != "vector"), ())
"""Arms of a model from before the vector arm and the explore arm were added."""
MIX = {"memory": 10, "structured": 25, "personal": 10, "vector": 0, "lexical": 50}


def plans_of(arms: KnownArms, **changes: int) -> Plans:
    return Plans(arms.planned, [(MIX | changes)[arm] for arm in arms.planned])


def model(centres: int = 3, requests: int = 4) -> dict[str, np.ndarray]:
    """A model of FEWER arms in which all numbers differ."""
    plans, inputs = plans_of(FEWER), len(input_names(FEWER))
    rng = np.random.default_rng(0)
    return {
        "plans": plans.counts,
        "centres": rng.random((centres, len(plans))).astype(np.float32),
        "worths": rng.random((requests, len(plans))).astype(np.float16),
        "mean": rng.random(inputs),
        "covariance": rng.random((inputs, inputs)),
        **arm_names(FEWER),
    }


def place(plans: Plans, **counts: int) -> int:
    found: int = plans.counts[:STATIC].tolist().index([counts.get(arm, 0) for arm in plans.arms])
    return found


def test_plans_without_the_new_arm_keep_their_worth_and_others_have_that_of_what_is_left_of_them() -> None:
    was, old, new = model(), plans_of(FEWER), plans_of(KNOWN_ARMS)
    now = carry_over(was, old, new)
    assert (now["plans"] == new.counts).all()
    for counts in ({"lexical": 25}, {"memory": 5, "lexical": 100}, {"structured": 10, "personal": 50}):
        assert (now["centres"][:, place(new, **counts)] == was["centres"][:, place(old, **counts)]).all()
        assert (now["worths"][:, place(new, **counts)] == was["worths"][:, place(old, **counts)]).all()
    with_it = place(new, vector=10, lexical=25)
    assert (now["centres"][:, with_it] == was["centres"][:, place(old, lexical=25)]).all()
    assert (now["centres"][:, place(new, vector=10)] == 0.0).all()
    assert (now["centres"][:, STATIC] == was["centres"][:, STATIC]).all()
    assert (now["centres"].dtype, now["worths"].dtype) == (np.float32, np.float16)


def test_the_sample_says_nothing_of_plans_that_ask_the_new_arm() -> None:
    new = plans_of(KNOWN_ARMS)
    now = carry_over(model(), plans_of(FEWER), new)
    asks_it = new.counts[:, new.arms.index("vector")] > 0
    assert np.isnan(now["worths"][:, asks_it]).all()
    assert not np.isnan(now["worths"][:, ~asks_it]).any()
    assert not np.isnan(now["centres"]).any()


def test_a_static_mix_that_asks_the_new_arm_begins_at_what_it_was_worth_before() -> None:
    now = carry_over(was := model(), plans_of(FEWER), plans_of(KNOWN_ARMS, vector=25))
    assert (now["centres"][:, STATIC] == was["centres"][:, STATIC]).all()
    assert np.isnan(now["worths"][:, STATIC]).all()


def test_kinds_that_are_yet_to_be_found_are_looked_for_in_numbers() -> None:
    """Without kinds there is nothing to leave alone, and none are found among unknown worths."""
    now = carry_over(model(centres=0), plans_of(FEWER), plans_of(KNOWN_ARMS))
    assert now["centres"].shape == (0, len(plans_of(KNOWN_ARMS)))
    assert not np.isnan(now["worths"]).any()


def test_inputs_that_were_not_there_are_as_before_any_evidence() -> None:
    now = carry_over(was := model(), plans_of(FEWER), plans_of(KNOWN_ARMS))
    names, fewer = input_names(KNOWN_ARMS), input_names(FEWER)
    assert len(names) == len(set(names)) == INPUTS == len(fewer) + 6
    places = [names.index(name) for name in fewer]
    added = [place for place, name in enumerate(names) if name not in fewer]
    assert (now["mean"][places] == was["mean"]).all()
    assert (now["covariance"][np.ix_(places, places)] == was["covariance"]).all()
    assert (now["mean"][added] == 0.0).all()
    assert (now["covariance"][np.ix_(added, added)] == np.eye(len(added)) / PRECISION_OF_PRODUCTS).all()
    assert (now["covariance"][np.ix_(added, places)] == 0.0).all()


def test_learning_from_the_sample_leaves_unknown_worths_alone() -> None:
    """Two plans; of the requests in the sample the second one's worth is unknown. They are all of the first kind."""
    arrays = Kinds(2).arrays()
    centres = np.full((KINDS, 2), 9.0, dtype=np.float32)
    centres[0] = 0.5, 0.0
    lines = [context_line({"tokens_1": 1.0})] * 100
    worths = np.array([[0.5, np.nan]] * len(lines), dtype=np.float16)
    text = np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)
    kinds = Kinds.of(dict(arrays) | {"centres": centres, "lines": text, "worths": worths}, 2)
    kinds.learn({"tokens_1": 1.0}, np.array([0.5, 0.4]))
    assert kinds.centres is not None
    assert kinds.centres[0] == pytest.approx([0.5, 0.4], abs=1e-3)
    assert (kinds.centres[1:] == 9.0).all()
    assert kinds.arrays()["members"][0] == 1 + REPLAYS


def test_models_say_their_arms_unless_they_are_the_first_ones() -> None:
    assert arm_names(FIRST_ARMS) == {}
    assert learned_arms({}) == FIRST_ARMS
    assert learned_arms(arm_names(FEWER)) == FEWER


def test_nothing_is_changed_where_no_arm_was_added() -> None:
    plans = plans_of(KNOWN_ARMS)
    arrays = {"plans": plans.counts, "mean": np.zeros(INPUTS), **arm_names(KNOWN_ARMS)}
    assert carry_over(arrays, plans, plans) is arrays


@pytest.mark.parametrize(
    "arms",
    [
        KnownArms((*PLAN_ARMS, "another"), ()),
        KnownArms(PLAN_ARMS, ("another",)),
        KnownArms((*PLAN_ARMS, "explore"), ()),  # it is not planned any more
    ],
)
def test_models_of_arms_that_are_gone_are_refused(arms: KnownArms) -> None:
    with pytest.raises(ModelInvalid, match="other arms"):
        learned_arms(arm_names(arms))


def test_models_of_other_plans_are_refused() -> None:
    with pytest.raises(ModelInvalid, match="other plans"):
        carry_over(model(), plans_of(FEWER, lexical=25), plans_of(KNOWN_ARMS))
