"""What the product knows of each arm beside its code: one profile an arm, from which every other list of arms follows.

A new arm is one file in services/arms/, one profile here and its constructor in services/arms/registry.py. What was
learned before it came stays active: columns of rankers are found by name and those of a new arm stand last
(services/rankers/features.py); policy models are carried over (services/policies/extension.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ScoreKind(Enum):
    """What the scores of an arm's list mean, which is how fusion scales them (services/rankers/fusion.py)."""

    RELATIVE = "relative"
    """Only beside the other scores of the list: BM25."""
    CONFIDENCE = "confidence"
    """The best one says how sure the arm is, 0..1: the weight of the slots met, a cosine."""
    PROBABILITY = "probability"
    """Each is a probability."""


class SlotResponse(Enum):
    """How the arm's weight in the fused score follows from how much of the query its slots cover."""

    NONE = "none"
    FALLS = "falls"
    """The more slots cover, the less is left for the arm to say."""
    RISES = "rises"
    """The arm finds by slots: without them it is trusted less."""
    DECIDES = "decides"
    """Where slots cover the whole query, the arm tells the many items apart that fit it."""


class ListInput(Enum):
    """What the arm's list depends on beside the catalogue."""

    QUERY = "query"
    """Text and filters alone."""
    PERSON = "person"
    """The person's history as well."""
    CLICKS = "clicks"
    """Everybody's clicks: the list may be another one at every request."""


@dataclass(frozen=True, slots=True)
class ArmProfile:
    """One arm. Profiles are values; what an arm does is in its own file."""

    name: str
    """Lower-case letters and `_`. Never renamed: it is a feature, a metric label and a field of the API."""
    number: int
    """From 1, by when the arm was added; never changed and never given again. Columns of the ranker's table stand in
    this order (services/rankers/features.py), and so do metric series."""
    fusion_weight: float
    """Weight in the fused score, >= 0."""
    static_count: int
    """Candidates that the static mix asks for; 0: none."""
    colours: tuple[str, str]
    """In pages, on light and on dark ground (CSS)."""
    score_kind: ScoreKind = ScoreKind.RELATIVE
    slot_response: SlotResponse = SlotResponse.NONE
    planned: bool = True
    """Whether plans may ask it (services/policies/plans.py); otherwise it is left to exploration."""
    list_input: ListInput = ListInput.QUERY
    monotone: bool = False
    """Whether a trained ranker must never like an item less for standing higher in the arm's list, with the rest equal
    (services/models/ranker/ensemble.py)."""


ARM_PROFILES: tuple[ArmProfile, ...] = (
    ArmProfile(
        # An item taken again and again for a query outweighs any one other arm. Scores are chances that an item is
        # taken, so what has a tenth of one weighs little (films, train queries asked before: NDCG@10 .666 with 1, .665
        # with .5, .657 without memory).
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
        # People ask again for what suits their taste, and what then still stands first is what they passed over: their
        # clicks would turn the list upside down, hence monotone.
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
        # What it finds answers no query in particular and adds nothing to what people ask for (films, validation: best
        # at the least weight), so it is left to exploration.
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
"""In the order of decisions: what is cheap and specific first, so that the budget reaches it; lexical last, because it
can always serve and so fills up to the floor.

Weights of lexical, structured, vector and explore were tuned on film queries of five kinds (validation split, traffic
mix) and are flat around these values.
"""


def by_number() -> tuple[ArmProfile, ...]:
    """All profiles, in the order in which the arms were added."""
    return tuple(sorted(ARM_PROFILES, key=lambda profile: profile.number))
