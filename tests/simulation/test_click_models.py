from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidRequest
from services.simulation.click_models import (
    Cascade,
    ClickModel,
    DynamicBayesian,
    PositionBased,
    click_model,
    per_grade,
)
from tests.ids import stable_repr

MODELS: tuple[ClickModel, ...] = (
    PositionBased(),
    PositionBased(noise=0.02, attractiveness=(0.5, 0.8, 1.0), eta=2.0),
    PositionBased(eta=0.0, curve=lambda position: 1.0 / position),
    Cascade(),
    Cascade(noise=0.3, attractiveness=(0.4,)),
    DynamicBayesian(),
    DynamicBayesian(noise=0.2, attractiveness=(0.7, 0.95), satisfaction=(0.2, 0.6), gamma=0.6),
)
SLATES = ([0, 1, 0, 2, 0, 0, 1, 0, 0, 0], [2, 2, 2], [0.5, 0, 1.5, 3, -1], [0])
GRADES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0]), max_size=12)


@pytest.fixture(params=MODELS, ids=stable_repr)
def model(request: pytest.FixtureRequest) -> ClickModel:
    chosen: ClickModel = request.param
    return chosen


class TestEveryModel:
    @pytest.mark.parametrize("grades", SLATES, ids=str)
    def test_clicks_come_as_often_as_stated(self, model: ClickModel, grades: Sequence[float]) -> None:
        """Monte Carlo: every place within 4.5 standard errors (about one failure in 10,000 seeds over all cases)."""
        runs = 20_000
        uniforms = np.random.default_rng(17).random((runs, len(grades))).tolist()
        counted = Counter(place for row in uniforms for place in model.clicks(grades, row))
        for place, probability in enumerate(model.click_probabilities(grades)):
            error = math.sqrt(probability * (1 - probability) / runs)
            assert abs(counted[place] / runs - probability) <= 4.5 * error + 1e-12, place

    @given(grades=GRADES, seed=st.integers(0, 2**32))
    def test_places_are_of_the_slate_and_probabilities_are_such(self, grades: list[float], seed: int) -> None:
        for model in MODELS:
            clicked = model.clicks(grades, np.random.default_rng(seed).random(len(grades)).tolist())
            assert list(clicked) == sorted(set(clicked))
            assert set(clicked) <= set(range(len(grades)))
            looked, expected = model.examination(grades), model.click_probabilities(grades)
            assert looked.shape == expected.shape == (len(grades),)
            assert looked.dtype == expected.dtype == np.float64
            assert ((expected >= 0) & (expected <= looked) & (looked <= 1)).all()
            assert (np.diff(looked) <= 0).all()

    @given(grades=GRADES.filter(bool), seed=st.integers(0, 2**32), better=st.floats(0, 3))
    def test_a_better_item_keeps_its_click(self, grades: list[float], seed: int, better: float) -> None:
        """With the same numbers, an item that answers better is clicked wherever it was: common random numbers."""
        uniforms = np.random.default_rng(seed).random(len(grades)).tolist()
        for model in MODELS:
            for place in model.clicks(grades, uniforms):
                raised = [*grades[:place], grades[place] + better, *grades[place + 1 :]]
                assert place in model.clicks(raised, uniforms)

    def test_what_stands_below_changes_nothing_above(self, model: ClickModel) -> None:
        uniforms = np.random.default_rng(3).random((500, 5)).tolist()
        for row in uniforms:
            one, other = model.clicks([0, 1, 0, 2, 2], row), model.clicks([0, 1, 0, 0, 0], [*row[:3], 0.5, 0.5])
            assert [place for place in one if place < 3] == [place for place in other if place < 3]

    @pytest.mark.parametrize("uniforms", [[], [0.0], [0.0, 0.0, 0.0]])
    def test_one_number_per_item(self, model: ClickModel, uniforms: list[float]) -> None:
        with pytest.raises(ValueError, match=f"2 grades but {len(uniforms)} uniforms"):
            model.clicks([2, 2], uniforms)

    def test_an_empty_slate(self, model: ClickModel) -> None:
        assert model.clicks([], []) == ()
        assert model.click_probabilities([]).shape == model.examination([]).shape == (0,)


class TestPositionBased:
    def test_by_hand(self) -> None:
        model = PositionBased(noise=0.1, attractiveness=(0.5, 1.0), eta=2.0)
        looked = [1.0, 1 / math.log2(3) ** 2, 0.25]
        assert model.examination([0, 1, 2]) == pytest.approx(looked)
        assert model.click_probabilities([0, 1, 2]) == pytest.approx([0.1, 0.5 * looked[1], 0.25])

    def test_a_number_below_the_chance_is_a_click(self) -> None:
        model = PositionBased(noise=0.25, attractiveness=(0.5,), curve=lambda position: 1.0 if position == 1 else 0.5)
        assert model.clicks([1, 1, 0], [0.5, 0.25, 0.125]) == ()
        assert model.clicks([1, 1, 0], [0.499, 0.249, 0.124]) == (0, 1, 2)

    def test_long_slates(self) -> None:
        model = PositionBased()
        assert model.examination([0] * 100)[99] == pytest.approx(1 / math.log2(101))
        assert model.clicks([2] * 100, [0.0] * 100) == tuple(range(100))
        assert len(model.examination([0, 0])) == 2


class TestCascade:
    def test_by_hand(self) -> None:
        model = Cascade(noise=0.1, attractiveness=(0.5, 0.8))
        assert model.click_probabilities([0, 1, 2]) == pytest.approx([0.1, 0.9 * 0.5, 0.9 * 0.5 * 0.8])

    def test_one_click_and_stop(self) -> None:
        model = Cascade(noise=0.1, attractiveness=(0.5,))
        assert model.clicks([0, 1, 1], [0.1, 0.49, 0.0]) == (1,)
        assert model.clicks([0, 1, 1], [0.1, 0.5, 0.5]) == ()


def patterns(model: DynamicBayesian, grades: Sequence[float]) -> dict[tuple[int, ...], float]:
    """Probability of every set of clicks, from the definition: attracted, satisfied and persevering are independent."""
    attraction = [per_grade(grade, (model.noise, *model.attractiveness)) for grade in grades]
    satisfaction = [per_grade(grade, (0.0, *model.satisfaction)) for grade in grades]
    found: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for outcome in product((True, False), repeat=3 * len(grades)):
        probability, clicked, looking = 1.0, [], True
        for place in range(len(grades)):
            attracted, satisfied, perseveres = outcome[3 * place : 3 * place + 3]
            probability *= attraction[place] if attracted else 1 - attraction[place]
            probability *= satisfaction[place] if satisfied else 1 - satisfaction[place]
            probability *= model.gamma if perseveres else 1 - model.gamma
            if looking and attracted:
                clicked.append(place)
            looking = looking and perseveres and not (attracted and satisfied)
        found[tuple(clicked)] += probability
    return dict(found)


class TestDynamicBayesian:
    MODEL = DynamicBayesian(noise=0.3, attractiveness=(0.6, 0.9), satisfaction=(0.5, 0.8), gamma=0.7)

    def test_probabilities_are_those_of_the_definition(self) -> None:
        grades = [1, 0, 2, 1]
        expected = np.zeros(4)
        for clicked, probability in patterns(self.MODEL, grades).items():
            expected[list(clicked)] += probability
        assert self.MODEL.click_probabilities(grades) == pytest.approx(expected, abs=1e-12)

    def test_every_set_of_clicks_comes_as_often_as_it_should(self) -> None:
        """Checks more than the margins: one number per place must draw the whole joint distribution."""
        grades, runs = [1, 0, 2], 60_000
        counted = Counter(
            self.MODEL.clicks(grades, row) for row in np.random.default_rng(23).random((runs, 3)).tolist()
        )
        expected = patterns(self.MODEL, grades)
        assert len(expected) == 8
        for clicked, probability in expected.items():
            error = math.sqrt(probability * (1 - probability) / runs)
            assert abs(counted[clicked] / runs - probability) <= 4.5 * error, clicked

    def test_the_last_place_looked_at(self) -> None:
        grades, runs = [1, 0, 2, 0], 40_000
        visits = [self.MODEL.visit(grades, row) for row in np.random.default_rng(29).random((runs, 4)).tolist()]
        for place, looked in enumerate(self.MODEL.examination(grades)):
            share = sum(visit.last_examined >= place for visit in visits) / runs
            assert abs(share - looked) <= 4.5 * math.sqrt(looked * (1 - looked) / runs) + 1e-12
        assert all(visit.clicks[-1] <= visit.last_examined for visit in visits if visit.clicks)

    def test_satisfaction_ends_the_search_at_a_click(self) -> None:
        model = DynamicBayesian(attractiveness=(0.8, 0.8), satisfaction=(0.5, 0.5), gamma=1.0)
        satisfied = model.visit([1, 2], [0.39, 0.0])
        assert (satisfied.clicks, satisfied.last_examined, satisfied.satisfied) == ((0,), 0, True)
        going_on = model.visit([1, 2], [0.41, 0.79])
        assert (going_on.clicks, going_on.last_examined, going_on.satisfied) == ((0, 1), 1, False)

    def test_nobody_is_satisfied_by_what_is_irrelevant(self) -> None:
        model = DynamicBayesian(noise=1.0, gamma=1.0)
        assert model.visit([0, 0, 0], [0.0, 0.0, 0.0]).clicks == (0, 1, 2)
        assert model.visit([], []).last_examined == -1

    def test_without_perseverance_the_first_place_is_all(self) -> None:
        model = DynamicBayesian(gamma=0.0)
        assert model.examination([0, 2, 2]) == pytest.approx([1, 0, 0])
        for row in np.random.default_rng(1).random((200, 3)).tolist():
            assert model.visit([1, 2, 2], row).last_examined == 0


class TestGrades:
    def test_between_and_beyond(self) -> None:
        values = (0.1, 0.5, 0.9)
        assert [per_grade(grade, values) for grade in (-1, 0, 0.5, 1, 1.25, 2, 7)] == pytest.approx(
            [0.1, 0.1, 0.3, 0.5, 0.6, 0.9, 0.9]
        )


class TestFactory:
    def test_names(self) -> None:
        assert click_model("position", eta=0.5) == PositionBased(eta=0.5)
        assert click_model("cascade") == Cascade()
        assert click_model("dbn", gamma=0.5, noise=0.0) == DynamicBayesian(gamma=0.5, noise=0.0)
        assert click_model("position", eta=0.5) != PositionBased()

    @pytest.mark.parametrize(
        ("name", "parameters", "said"),
        [
            ("ubm", {}, "no click model 'ubm'; the models are position, cascade, dbn"),
            ("cascade", {"gamma": 0.5}, "gamma"),
            ("position", {"noise": 1.5}, "noise 1.5 is not within"),
            ("position", {"eta": -1.0}, "eta -1.0"),
            ("position", {"eta": math.nan}, "eta nan"),
            ("position", {"curve": lambda position: 2.0}, "curve 2.0"),
            ("cascade", {"attractiveness": ()}, "attractiveness without a value"),
            ("cascade", {"attractiveness": (0.5, math.nan)}, "attractiveness 0.5, nan"),
            ("dbn", {"satisfaction": (-0.1,)}, "satisfaction -0.1"),
            ("dbn", {"gamma": 1.01}, "gamma 1.01"),
        ],
    )
    def test_what_cannot_be_is_refused(self, name: str, parameters: dict[str, object], said: str) -> None:
        with pytest.raises(InvalidRequest, match=said):
            click_model(name, **parameters)
