"""Who alone knows how well an item answers a query, and tells it only as users and tables do: by clicks and by figures.

The grades of a data set live in one object, are attached to no query and no document, and have no way out of it. What
is simulated (the service, its policies, the traffic) gets clicks; what is reported gets expected rewards and measures.
tests/simulation/test_judge.py proves from the code that no other part of a simulation reads grades.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.datasets.folder import Dataset
from services.evaluation.measures import named
from services.rewards.rewards import examination, gain
from services.simulation.click_models import ClickModel
from services.simulation.drift import Drift, Grades
from services.simulation.users import uniforms
from services.types import EventStatus, Interaction

MEASURES = ("ndcg@10", "recall@100", "judged@10")
CLICK = {"click": 1.0}


class Judge:
    """Judgments seen through a click model.

    judgments: query_id -> object_id -> grade; what nobody judged has grade 0. model: how users click. seed: of their
    luck. drift: how grades change. weights: of the actions, as in the service's settings; a click is worth its weight
    over the largest, as services.rewards.rewards.gain has it.

    Searches are told apart by `index`, their number in the traffic. Slates and rankings are object ids, best first,
    each once.
    """

    def __init__(
        self,
        judgments: Mapping[str, Grades],
        model: ClickModel,
        seed: int,
        drift: Drift | None = None,
        weights: Mapping[str, float] = CLICK,
    ) -> None:
        self.__judgments = judgments
        self.__eras: dict[tuple[str, int], Grades] = {}
        self._model = model
        self._seed = seed
        self._drift = drift or Drift()
        self._gain = gain(_click(), weights)
        self._discounts = np.array([examination(position) for position in range(1, 1001)])

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        model: ClickModel,
        seed: int,
        drift: Drift | None = None,
        weights: Mapping[str, float] = CLICK,
    ) -> Judge:
        """By the grades of a data set folder. Raises InvalidRequest when it has none."""
        return cls(dataset.judgments(), model, seed, drift, weights)

    def clicks(self, slate: Sequence[str], query_id: str, index: int) -> tuple[int, ...]:
        """Places of the slate, from 0, that the user of search `index` clicks. The same item at the same place of the
        same search has the same luck, whoever ranked it: common random numbers."""
        return self._model.clicks(self.__of(slate, query_id, index), uniforms(self._seed, index, slate))

    def expected_reward(self, slate: Sequence[str], query_id: str, index: int) -> float:
        """What the slate earns on average over users: sum over places of P(click) × gain of a click × examination, as
        services.rewards.rewards.reward counts it. Exact as long as a slate cannot earn more than 1, where rewards are
        clipped; with the service's weights that takes more than ten clicks. Raises IndexError beyond 1000 places."""
        probabilities = self._model.click_probabilities(self.__of(slate, query_id, index))
        if len(probabilities) > len(self._discounts):
            raise IndexError(f"a slate has up to {len(self._discounts)} places, not {len(probabilities)}")
        return self._gain * float(probabilities @ self._discounts[: len(probabilities)])

    def best_reward(self, query_id: str, index: int, size: int = 10) -> float:
        """Expected reward of the first `size` judged items by grade, those that are absent then left out: what a
        service that knew the grades would earn (position-based users: the most that anyone can)."""
        grades, absent = self.__at(query_id, index), self._drift.absent(index)
        present = sorted((-grade, object_id) for object_id, grade in grades.items() if object_id not in absent)
        return self.expected_reward([object_id for _, object_id in present[:size]], query_id, index)

    def measures(
        self, ranking: Sequence[str], query_id: str, index: int, names: Sequence[str] = MEASURES
    ) -> dict[str, float]:
        """Name -> value, by services.evaluation.measures; for tables, never for anything that decides. Items that are
        absent then are wanted by nobody. Raises InvalidRequest for a name that is not one."""
        grades, absent = self.__at(query_id, index), self._drift.absent(index)
        if absent:
            grades = {object_id: grade for object_id, grade in grades.items() if object_id not in absent}
        return {name: named(name)(ranking, grades) for name in names}

    def covered(
        self,
        depths: Mapping[str, NDArray[np.int32]],
        plans: NDArray[np.int32],
        query_id: str,
        index: int = 0,
        k: int = 10,
    ) -> NDArray[np.float64]:
        """Capped recall@k of what each plan finds, [plans]: of the wanted items (k at most) the share that stands in
        some arm's list within its count. depths: object_id -> its rank in each arm's full list, from 1, a number beyond
        all counts where it is not in it; plans: [plans, arms]. For tables, never for anything that decides."""
        grades = self.__at(query_id, index)
        wanted = [object_id for object_id, grade in grades.items() if grade > 0.0]
        if not wanted:
            return np.zeros(len(plans))
        held = [depths[object_id] for object_id in wanted if object_id in depths]
        hits = np.zeros(len(plans))
        for ranks in held:
            hits += (plans >= ranks).any(axis=1)
        found: NDArray[np.float64] = np.minimum(hits, k) / min(len(wanted), k)
        return found

    def answerable(self, query_id: str, index: int = 0) -> bool:
        """Whether anything at all is wanted; a query of which nothing is says nothing about a policy."""
        return any(grade > 0.0 for grade in self.__at(query_id, index).values())

    def __of(self, slate: Sequence[str], query_id: str, index: int) -> list[float]:
        grades = self.__at(query_id, index)
        return [grades.get(object_id, 0.0) for object_id in slate]

    def __at(self, query_id: str, index: int) -> Grades:
        era = self._drift.era(index)
        if era == 0:
            return self.__judgments.get(query_id, {})
        found = self.__eras.get((query_id, era))
        if found is None:
            found = self.__eras[query_id, era] = self._drift.grades(self.__judgments, query_id, index)
        return found


def _click() -> Interaction:
    """A click that counts in full."""
    return Interaction(
        event_id="",
        query_id=None,
        object_id=None,
        action_name="click",
        at=0.0,
        timestamp=None,
        position=1,
        value=None,
        user_id=None,
        client_id=None,
        session_id=None,
        status=EventStatus.ACCEPTED,
    )
