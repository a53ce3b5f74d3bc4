"""Click models: which places of a slate a user clicks, given how relevant each item is. Pure.

Grades are in slate order: 0 is not relevant, larger is better. Every model maps a grade to attractiveness, the
probability of a click given examination, and takes one random number per item, so that the same item at the same place
of the same search can get the same draw under two policies.

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
from services.rewards.rewards import examination as log_discount

NOISE = 0.1
"""Attractiveness of an irrelevant item (Joachims et al. 2017)."""
ATTRACTIVENESS = (0.6, 0.9)
"""Attractiveness of grades 1 and 2."""
SATISFACTION = (0.5, 0.9)
"""Probability that a clicked item of grade 1 or 2 ends the search; an irrelevant one never does."""


class ClickModel(Protocol):
    """The interface of all models. All sequences have the slate's length and order."""

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        """Clicked places, from 0, ascending; `uniforms`: one number of [0, 1) per item.

        Raises ValueError when the two differ in length.
        """
        ...

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """Exact probability that each place is examined, [places]."""
        ...

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """Exact probability that each place is clicked, [places]: the expectation of `clicks` over uniforms."""
        ...


def per_grade(grade: float, values: Sequence[float]) -> float:
    """The value of a grade, from `values` of grades 0, 1, 2, …: linear between whole grades, constant beyond the
    ends."""
    if grade <= 0.0:
        return values[0]
    if grade >= len(values) - 1:
        return values[-1]
    low = int(grade)
    return values[low] + (grade - low) * (values[low + 1] - values[low])


@dataclass(frozen=True)
class _ByGrade:
    """Base of all models. `noise`: attractiveness of grade 0 (and below); `attractiveness`: of grades 1, 2, …; all
    within 0..1."""

    noise: float = NOISE
    attractiveness: tuple[float, ...] = ATTRACTIVENESS
    _attractive: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_probabilities("noise", (self.noise,))
        _check_probabilities("attractiveness", self.attractiveness)
        object.__setattr__(self, "_attractive", (self.noise, *self.attractiveness))

    def attraction(self, grades: Sequence[float]) -> list[float]:
        """Probability of a click on each item given that it is examined."""
        return [per_grade(grade, self._attractive) for grade in grades]


@dataclass(frozen=True)
class PositionBased(_ByGrade):
    """P(click at k) = curve(k)^eta × attractiveness(grade), places independent of one another (Craswell et al. 2008).

    curve: position from 1 -> examination probability, 0..1; eta: severity of the position bias, 0 (none) upwards, as in
    Joachims et al. 2017. The default curve is the discount of rewards: 1 / log2(1 + position).
    """

    eta: float = 1.0
    curve: Callable[[int], float] = log_discount
    _examined: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eta >= 0.0:
            raise InvalidRequest(f"eta {self.eta} is not a number from 0")
        object.__setattr__(self, "_examined", [])
        self._extend(10)

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        """See ClickModel."""
        _check_lengths(grades, uniforms)
        self._extend(len(grades))
        chances = zip(self.attraction(grades), self._examined, uniforms, strict=False)
        return tuple(place for place, (attractive, seen, draw) in enumerate(chances) if draw < seen * attractive)

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """See ClickModel."""
        self._extend(len(grades))
        return np.array(self._examined[: len(grades)], dtype=np.float64)

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """See ClickModel."""
        return self.examination(grades) * np.array(self.attraction(grades), dtype=np.float64)

    def _extend(self, size: int) -> None:
        """Ensure that the curve is cached for the first `size` places."""
        while len(self._examined) < size:
            value = self.curve(len(self._examined) + 1)
            _check_probabilities("curve", (value,))
            self._examined.append(value**self.eta)


@dataclass(frozen=True)
class Cascade(_ByGrade):
    """Top down until the first click, which ends the search (Craswell et al. 2008):

    P(click at k) = attractiveness(k) × product over i < k of (1 - attractiveness(i)).
    """

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        """See ClickModel."""
        _check_lengths(grades, uniforms)
        for place, attractive in enumerate(self.attraction(grades)):
            if uniforms[place] < attractive:
                return (place,)
        return ()

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """See ClickModel."""
        return _reached([1.0 - attractive for attractive in self.attraction(grades)])

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """See ClickModel."""
        return self.examination(grades) * np.array(self.attraction(grades), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Visit:
    """Behaviour of one user on one slate; places from 0."""

    clicks: tuple[int, ...]
    last_examined: int
    """The last place examined; -1 on an empty slate."""
    satisfied: bool
    """Whether the last click ended the search."""


@dataclass(frozen=True)
class DynamicBayesian(_ByGrade):
    """Top down; a click satisfies with satisfaction(grade), and an unsatisfied user examines the next place with
    probability gamma (Chapelle and Zhang 2009, with attractiveness and satisfaction given by the grade):

    P(examine k) = product over i < k of gamma × (1 - attractiveness(i) × satisfaction(i)),
    P(click at k) = P(examine k) × attractiveness(k).

    satisfaction: of grades 1, 2, …, given a click; grade 0 never satisfies. gamma: perseverance. All within 0..1.
    """

    satisfaction: tuple[float, ...] = SATISFACTION
    gamma: float = 0.9
    _satisfying: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_probabilities("satisfaction", self.satisfaction)
        _check_probabilities("gamma", (self.gamma,))
        object.__setattr__(self, "_satisfying", (0.0, *self.satisfaction))

    def clicks(self, grades: Sequence[float], uniforms: Sequence[float]) -> tuple[int, ...]:
        """See ClickModel."""
        return self.visit(grades, uniforms).clicks

    def visit(self, grades: Sequence[float], uniforms: Sequence[float]) -> Visit:
        """Clicks, and how far the user got. One number decides everything at a place: below a × s a satisfying click,
        below a an unsatisfying one, else none; in the last two cases, the first gamma of the interval means that the
        user continues. Raises ValueError as `clicks` does."""
        _check_lengths(grades, uniforms)
        clicked: list[int] = []
        place = -1
        for place, (grade, attractive) in enumerate(zip(grades, self.attraction(grades), strict=True)):
            uniform, satisfying = uniforms[place], attractive * per_grade(grade, self._satisfying)
            if uniform < satisfying:
                return Visit((*clicked, place), place, True)
            if uniform < attractive:
                clicked.append(place)
                proceeds = uniform < satisfying + self.gamma * (attractive - satisfying)
            else:
                proceeds = uniform < attractive + self.gamma * (1.0 - attractive)
            if not proceeds:
                break
        return Visit(tuple(clicked), place, False)

    def examination(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """See ClickModel."""
        attraction = self.attraction(grades)
        return _reached(
            [
                self.gamma * (1.0 - attractive * per_grade(grade, self._satisfying))
                for grade, attractive in zip(grades, attraction, strict=True)
            ]
        )

    def click_probabilities(self, grades: Sequence[float]) -> NDArray[np.float64]:
        """See ClickModel."""
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
        raise InvalidRequest(f"no click model {name!r}; the models are {', '.join(MODELS)}")
    try:
        return MODELS[name](**parameters)
    except TypeError as error:
        raise InvalidRequest(f"click model {name}: {error}") from error


def _reached(proceeds: Sequence[float]) -> NDArray[np.float64]:
    """Probability that each place is reached, given the probability of continuing after each."""
    reached = np.ones(len(proceeds), dtype=np.float64)
    np.cumprod(proceeds[:-1], out=reached[1:])
    return reached


def _check_lengths(grades: Sequence[float], uniforms: Sequence[float]) -> None:
    if len(grades) != len(uniforms):
        raise ValueError(f"{len(grades)} grades but {len(uniforms)} uniforms")


def _check_probabilities(name: str, values: Sequence[float]) -> None:
    if not values or not all(0.0 <= value <= 1.0 for value in values):
        raise InvalidRequest(f"{name} {', '.join(map(str, values)) or 'without a value'} is not within 0..1")
