"""Simulated users: where somebody clicks on a slate, given how well each item answers the query. Pure.

Grades stand in the order of the slate: 0 is not relevant, larger is better. Every model turns a grade into
attractiveness, the chance that an item is clicked once it is looked at, and takes one random number per item, so that
the same item at the same place of the same search can be given the same draw under two policies.

Sources: position-based and cascade model, Craswell et al., "An experimental comparison of click position-bias models",
WSDM 2008; dynamic Bayesian network, Chapelle and Zhang, "A dynamic Bayesian network click model for web search
ranking", WWW 2009; clicks on irrelevant items as noise of 0.1, Joachims et al., "Unbiased learning-to-rank with biased
feedback", WSDM 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from services.errors import InvalidRequest
from services.rewards.rewards import examination as logarithmic

NOISE = 0.1
"""Attractiveness of an irrelevant item (Joachims et al. 2017)."""
ATTRACTIVENESS = (0.6, 0.9)
"""Of grades 1 and 2."""
SATISFACTION = (0.5, 0.9)
"""Chance that a clicked item of grade 1 and 2 ends the search; an irrelevant one never does."""


class ClickModel(Protocol):
    """What every model offers. All sequences are of the slate's length and in its order."""

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        """Places clicked, from 0, ascending; `uniforms`: one number of [0, 1) per item.

        Raises ValueError when the two differ in length.
        """
        ...

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """Exact probability that each place is looked at."""
        ...

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """Exact probability that each place is clicked: what `clicks` comes to on average over uniforms."""
        ...


def per_grade(grade: float, values: Sequence[float]) -> float:
    """The value of a grade: `values` are those of grades 0, 1, 2 …; linear between whole grades, and beyond the ends as
    at the ends."""
    if grade <= 0.0:
        return values[0]
    if grade >= len(values) - 1:
        return values[-1]
    low = int(grade)
    return values[low] + (grade - low) * (values[low + 1] - values[low])


@dataclass(frozen=True)
class _ByGrade:
    """`noise`: attractiveness of grade 0 (and below); `attractiveness`: of grades 1, 2, …; all within 0..1."""

    noise: float = NOISE
    attractiveness: tuple[float, ...] = ATTRACTIVENESS
    _attractive: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _probabilities("noise", (self.noise,))
        _probabilities("attractiveness", self.attractiveness)
        object.__setattr__(self, "_attractive", (self.noise, *self.attractiveness))

    def attraction(self, grades: Sequence[float]) -> list[float]:
        """Chance of a click on each item once it is looked at."""
        return [per_grade(grade, self._attractive) for grade in grades]


@dataclass(frozen=True)
class PositionBased(_ByGrade):
    """P(click at k) = curve(k)^eta × attractiveness(grade), places independent of one another (Craswell et al. 2008).

    curve: position from 1 -> probability of being looked at, 0..1; eta: severity of the bias, 0 (none) upwards, as in
    Joachims et al. 2017. The default curve is the one that rewards are discounted by: 1 / log2(1 + position).
    """

    eta: float = 1.0
    curve: Callable[[int], float] = logarithmic
    _looked_at: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eta >= 0.0:
            raise InvalidRequest(f"eta {self.eta} is not a number from 0")
        object.__setattr__(self, "_looked_at", [])
        self._extend(10)

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        _one_each(grades, uniforms)
        self._extend(len(grades))
        chances = zip(self.attraction(grades), self._looked_at, uniforms, strict=False)
        return tuple(place for place, (attractive, seen, draw) in enumerate(chances) if draw < seen * attractive)

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        self._extend(len(grades))
        return np.array(self._looked_at[: len(grades)], dtype=np.float64)

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        return self.examination(grades) * np.array(self.attraction(grades), dtype=np.float64)

    def _extend(self, size: int) -> None:
        """See to it that the curve of the first `size` places is known."""
        while len(self._looked_at) < size:
            value = self.curve(len(self._looked_at) + 1)
            _probabilities("curve", (value,))
            self._looked_at.append(value**self.eta)


@dataclass(frozen=True)
class Cascade(_ByGrade):
    """Top down, until the first click, which ends the search (Craswell et al. 2008):

    P(click at k) = attractiveness(k) × product over i < k of (1 - attractiveness(i)).
    """

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        _one_each(grades, uniforms)
        for place, attractive in enumerate(self.attraction(grades)):
            if uniforms[place] < attractive:
                return (place,)
        return ()

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        return _reached([1.0 - attractive for attractive in self.attraction(grades)])

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        return self.examination(grades) * np.array(self.attraction(grades), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Visit:
    """What one user did on one slate; places from 0."""

    clicks: tuple[int, ...]
    last_examined: int
    """The last place looked at; -1 on an empty slate."""
    satisfied: bool
    """Whether the last click was what ended the search."""


@dataclass(frozen=True)
class DynamicBayesian(_ByGrade):
    """Top down; a click satisfies with satisfaction(grade), and whoever is not satisfied looks at the next place with
    probability gamma (Chapelle and Zhang 2009, with attractiveness and satisfaction given by the grade):

    P(look at k) = product over i < k of gamma × (1 - attractiveness(i) × satisfaction(i)),
    P(click at k) = P(look at k) × attractiveness(k).

    satisfaction: of grades 1, 2, …, given a click; grade 0 never satisfies. gamma: perseverance. All within 0..1.
    """

    satisfaction: tuple[float, ...] = SATISFACTION
    gamma: float = 0.9
    _satisfying: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _probabilities("satisfaction", self.satisfaction)
        _probabilities("gamma", (self.gamma,))
        object.__setattr__(self, "_satisfying", (0.0, *self.satisfaction))

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        return self.visit(grades, uniforms).clicks

    def visit(self, grades: Sequence[float], uniforms: Sequence[float]) -> Visit:
        """Clicks, and how far the user got. One number decides all that happens at a place: below a × s a satisfied
        click, then below a an unsatisfied one, else none; within either of the last two, the first gamma of the stretch
        goes on. Raises ValueError as `clicks` does."""
        _one_each(grades, uniforms)
        clicked: list[int] = []
        place = -1
        for place, (grade, attractive) in enumerate(zip(grades, self.attraction(grades), strict=True)):
            uniform, satisfying = uniforms[place], attractive * per_grade(grade, self._satisfying)
            if uniform < satisfying:
                return Visit((*clicked, place), place, True)
            if uniform < attractive:
                clicked.append(place)
                goes_on = uniform < satisfying + self.gamma * (attractive - satisfying)
            else:
                goes_on = uniform < attractive + self.gamma * (1.0 - attractive)
            if not goes_on:
                break
        return Visit(tuple(clicked), place, False)

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        attraction = self.attraction(grades)
        return _reached(
            [
                self.gamma * (1.0 - attractive * per_grade(grade, self._satisfying))
                for grade, attractive in zip(grades, attraction, strict=True)
            ]
        )

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        return self.examination(grades) * np.array(self.attraction(grades), dtype=np.float64)


MODELS: Mapping[str, Callable[..., ClickModel]] = {
    "position": PositionBased,
    "cascade": Cascade,
    "dbn": DynamicBayesian,
}


def click_model(name: str, **parameters: Any) -> ClickModel:
    """The model called "position", "cascade" or "dbn" with its own parameters (those of its class).

    Raises InvalidRequest for another name, a parameter that the model does not have, or one out of its bounds.
    """
    if name not in MODELS:
        raise InvalidRequest(f"no click model {name!r}; there are {', '.join(MODELS)}")
    try:
        return MODELS[name](**parameters)
    except TypeError as error:
        raise InvalidRequest(f"click model {name}: {error}") from error


def _reached(goes_on: Sequence[float]) -> NDArray[np.float64]:
    """Probability that each place is reached, given those of going on after each."""
    reached = np.ones(len(goes_on), dtype=np.float64)
    np.cumprod(goes_on[:-1], out=reached[1:])
    return reached


def _one_each(grades: Sequence[float], uniforms: Sequence[float]) -> None:
    if len(grades) != len(uniforms):
        raise ValueError(f"{len(grades)} grades but {len(uniforms)} uniforms")


def _probabilities(name: str, values: Sequence[float]) -> None:
    if not values or not all(0.0 <= value <= 1.0 for value in values):
        raise InvalidRequest(f"{name} {', '.join(map(str, values)) or 'without a value'} is not within 0..1")
