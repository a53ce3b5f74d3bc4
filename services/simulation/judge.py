"""The only part of a simulation that knows the relevance grades; it reveals them only as clicks and as metrics.

The grades of a data set are private to one object and attached to no query and no document. The simulated parts (the
service, its policies, the traffic) get clicks; reports get expected rewards and measures.
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
from services.simulation.traffic import uniforms
from services.types import EventStatus, Interaction

MEASURES = ("ndcg@10", "recall@100", "judged@10")
CLICK_WEIGHTS = {"click": 1.0}


class Judge:
    """Judgments seen through a click model.

    judgments: query_id -> object_id -> grade; unjudged items have grade 0. model: how users click. seed: of the random
    numbers behind clicks. drift: how grades change. weights: action -> weight, as in the service's settings; a click is
    worth its weight over the largest, as in services.rewards.rewards.gain.

    Searches are identified by `index`, their position in the traffic. Slates and rankings are distinct object ids, best
    first.
    """

    def __init__(
        self,
        judgments: Mapping[str, Grades],
        model: ClickModel,
        seed: int,
        drift: Drift | None = None,
        weights: Mapping[str, float] = CLICK_WEIGHTS,
    ) -> None:
        self.__judgments = judgments
        self.__eras: dict[tuple[str, int], Grades] = {}
        self._model = model
        self._seed = seed
        self._drift = drift or Drift()
        self._gain = gain(_full_click(), weights)
        self._discounts = np.array([examination(position) for position in range(1, 1001)])

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        model: ClickModel,
        seed: int,
        drift: Drift | None = None,
        weights: Mapping[str, float] = CLICK_WEIGHTS,
    ) -> Judge:
        """A judge with the grades of a data set folder. Raises InvalidRequest when it has none."""
        return cls(dataset.judgments(), model, seed, drift, weights)

    def clicks(self, slate: Sequence[str], query_id: str, index: int) -> tuple[int, ...]:
        """Places of the slate, from 0, that the user of search `index` clicks. The same item at the same place of the
        same search gets the same random number whichever system ranked it: common random numbers."""
        return self._model.clicks(self.__of(slate, query_id, index), uniforms(self._seed, index, slate))

    def expected_reward(self, slate: Sequence[str], query_id: str, index: int) -> float:
        """Expected reward of the slate over users: sum over places of P(click) × gain of a click × examination, as
        computed by services.rewards.rewards.reward. Exact as long as a slate cannot earn more than 1, where rewards are
        clipped; with the service's weights that takes more than ten clicks. Raises IndexError beyond 1000 places."""
        probabilities = self._model.click_probabilities(self.__of(slate, query_id, index))
        if len(probabilities) > len(self._discounts):
            raise IndexError(f"a slate has up to {len(self._discounts)} places, not {len(probabilities)}")
        return self._gain * float(probabilities @ self._discounts[: len(probabilities)])

    def best_reward(self, query_id: str, index: int, size: int = 10) -> float:
        """Expected reward of the top `size` judged items by grade, without those not yet in the catalogue: what a
        service that knew the grades would earn (for position-based users, the maximum)."""
        grades, missing = self.__at(query_id, index), self._drift.missing_items(index)
        present = sorted((-grade, object_id) for object_id, grade in grades.items() if object_id not in missing)
        return self.expected_reward([object_id for _, object_id in present[:size]], query_id, index)

    def measures(
        self, ranking: Sequence[str], query_id: str, index: int, names: Sequence[str] = MEASURES
    ) -> dict[str, float]:
        """Name -> value, by services.evaluation.measures; for reports, never for decisions. Items not yet in the
        catalogue count as unjudged. Raises InvalidRequest for an unknown measure."""
        grades, missing = self.__at(query_id, index), self._drift.missing_items(index)
        if missing:
            grades = {object_id: grade for object_id, grade in grades.items() if object_id not in missing}
        return {name: named(name)(ranking, grades) for name in names}

    def plan_recall(
        self,
        depths: Mapping[str, NDArray[np.int32]],
        plans: NDArray[np.int32],
        query_id: str,
        index: int = 0,
        k: int = 10,
    ) -> NDArray[np.float64]:
        """Capped recall@k of each plan, [plans]: the share of the relevant items (k at most) that some arm returns
        within its count. depths: object_id -> rank in each arm's full list, [arms], from 1, and greater than every
        count where the arm does not return it; plans: candidate counts, [plans, arms]. For reports, never for
        decisions."""
        grades = self.__at(query_id, index)
        relevant = [object_id for object_id, grade in grades.items() if grade > 0.0]
        if not relevant:
            return np.zeros(len(plans))
        returned = [depths[object_id] for object_id in relevant if object_id in depths]
        hits = np.zeros(len(plans))
        for ranks in returned:
            hits += (plans >= ranks).any(axis=1)
        found: NDArray[np.float64] = np.minimum(hits, k) / min(len(relevant), k)
        return found

    def has_relevant(self, query_id: str, index: int = 0) -> bool:
        """Whether any item is relevant to the query at search `index`; a query without one cannot evaluate a policy."""
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


def _full_click() -> Interaction:
    """An accepted click at full weight."""
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
