"""Arm profiles: the properties of each arm beside its code, from which every other list of arms is derived.

A new arm is one file in services/arms/, one profile here and its constructor in services/arms/registry.py. Models
trained before it was added stay active: columns of rankers are found by name and those of a new arm stand last
(services/rankers/features.py); policy models are carried over (services/policies/extension.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ScoreKind(Enum):
    """Meaning of the scores in an arm's list, which decides how fusion scales them (services/rankers/fusion.py)."""

    RELATIVE = "relative"
    """Comparable only within the list: BM25."""
    CONFIDENCE = "confidence"
    """The best score is the arm's confidence, 0..1: the weight of the slots met, a cosine."""
    PROBABILITY = "probability"
    """Each score is a probability."""


class SlotResponse(Enum):
    """How the arm's weight in the fused score follows from how much of the query its slots cover."""

    NONE = "none"
    FALLS = "falls"
    """The more of the query slots cover, the less is left for the arm."""
    RISES = "rises"
    """The arm finds by slots: without them it is trusted less."""
    DECIDES = "decides"
    """Where slots cover the whole query, the arm ranks the many items that match them."""


class ListInput(Enum):
    """The input that the arm's list depends on beside the catalogue."""

    QUERY = "query"
    """Text and filters alone."""
    PERSON = "person"
    """Text, filters and the user's history."""
    CLICKS = "clicks"
    """The clicks of all users: the list may differ at every request."""


@dataclass(frozen=True, slots=True)
class ArmProfile:
    """Profile of one arm. Profiles are values; an arm's behaviour is in its own file."""

    name: str
    """Lower-case letters and `_`. Never renamed: it is a feature, a metric label and a field of the API."""
    number: int
    """From 1, in the order in which arms were added; never changed and never reused. Columns of the ranker's table are
    in this order (services/rankers/features.py), and so are metric series."""
    fusion_weight: float
    """Weight in the fused score, >= 0."""
    static_count: int
    """Number of candidates in the static mix; 0: the arm is not used."""
    colours: tuple[str, str]
    """CSS colours of the arm on the pages: (on a light, on a dark background)."""
    score_kind: ScoreKind = ScoreKind.RELATIVE
    slot_response: SlotResponse = SlotResponse.NONE
    planned: bool = True
    """Whether plans may use it (services/policies/plans.py); otherwise it is left to exploration."""
    list_input: ListInput = ListInput.QUERY
    monotone: bool = False
    """Whether a trained ranker must never like an item less for standing higher in the arm's list, with the rest equal
    (services/models/ranker/ensemble.py)."""


ARM_PROFILES: tuple[ArmProfile, ...] = (
    ArmProfile(
        # An item clicked again and again for a query outweighs any one other arm. Scores are click probabilities, so an
        # item with a score of .1 weighs little (films, train queries seen before: NDCG@10 .666 with 1, .665 with .5,
        # .657 without memory).
        name="memory",
        number=4,
        fusion_weight=1.00,
        static_count=10,
        colours=("#c26a00", "#f2aa4c"),
        score_kind=ScoreKind.PROBABILITY,
        slot_response=SlotResponse.FALLS,
        list_input=ListInput.CLICKS,
    ),
    ArmProfile(
        name="structured",
        number=2,
        fusion_weight=0.36,
        static_count=25,
        colours=("#0c857c", "#4ec9bd"),
        score_kind=ScoreKind.CONFIDENCE,
        slot_response=SlotResponse.RISES,
    ),
    ArmProfile(
        # Users search again for things that suit their taste, and the items still first then are those they passed
        # over: their clicks would turn the list upside down, hence monotone.
        name="personal",
        number=5,
        fusion_weight=0.05,
        static_count=10,
        colours=("#c0387a", "#f28ab8"),
        slot_response=SlotResponse.DECIDES,
        list_input=ListInput.PERSON,
        monotone=True,
    ),
    ArmProfile(
        name="vector",
        number=3,
        fusion_weight=0.24,
        static_count=25,
        colours=("#8448cf", "#c29bf5"),
        score_kind=ScoreKind.CONFIDENCE,
        slot_response=SlotResponse.FALLS,
    ),
    ArmProfile(
        # Its items answer no query in particular and add nothing to what users search for (films, validation: best at
        # the smallest weight), so it is left to exploration.
        name="explore",
        number=6,
        fusion_weight=0.002,
        static_count=0,
        colours=("#5d7a1f", "#a9cc63"),
        planned=False,
    ),
    ArmProfile(
        name="lexical",
        number=1,
        fusion_weight=0.40,
        static_count=50,
        colours=("#3b6fd8", "#7ea6f7"),
        slot_response=SlotResponse.FALLS,
    ),
)
"""All arms in decision order: the cheap and specific ones first, so that the budget reaches them; lexical last, because
it can always answer and so fills up to the floor.

Weights of lexical, structured, vector and explore were tuned on film queries of five kinds (validation split, traffic
mix) and are flat around these values.
"""


def by_number() -> tuple[ArmProfile, ...]:
    """All profiles, in the order in which the arms were added."""
    return tuple(sorted(ARM_PROFILES, key=lambda profile: profile.number))
