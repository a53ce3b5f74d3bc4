"""The learned policy: the plan with the highest predicted worth minus candidate cost.

It learns from surveyed answers (services/search/survey.py): clicks update how likely each candidate is wanted
(`relevance.py`); from that follows the worth of every plan for this request, chosen or not (`plans.py`); requests are
clustered into kinds by those worths, and Vowpal Wabbit learns to predict the kind from the context (`kinds.py`). The
price enters at the decision alone, so one model serves any price.

Anchoring: the static mix is one of the plans. Another plan is chosen only where its worth is higher by a margin of
`MARGIN_Z` standard errors, MARGIN_Z * WORTH_STD / sqrt(surveyed answers), and never before `MIN_SURVEYS` of them.
Without evidence the policy decides exactly as the static mix does, apart from exploration.

Exploration: around the plan, arm by arm, `exploration` of each arm's probability is spread over its allowed counts,
with more on counts near the plan's (`nearby` in sampling.py). Masking, exploration and sampling are done here, not by
the library (services/policies/budget.py).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import ModelInvalid
from services.policies.base import KNOWN_ARMS, PLAN_ARMS, Outcome, part
from services.policies.budget import BUDGET, FLOOR, Distribute, allocate, check, retrace
from services.policies.extension import arm_names, carry_over, learned_arms
from services.policies.fixed import FixedPolicy, nearest
from services.policies.kinds import Kinds
from services.policies.plans import STATIC, Plans
from services.policies.relevance import ASPECTS, RelevanceModel, featurize
from services.policies.sampling import Distribution, nearby
from services.types import ArmChoice, ArmOption, Survey

MARGIN_Z = 1.0
WORTH_STD = 0.5
"""Upper bound of the standard deviation of a plan's worth over requests."""
MIN_SURVEYS = 400
"""Surveyed answers before anything but the static mix is chosen."""
COVERAGE_EXPONENT = 1.5
"""A plan that is expected to find the share s of the wanted items is worth 1 - (1 - s)^COVERAGE_EXPONENT. Some users
want one item and some want many, and only the latter need deep candidates; the model knows the mean of both, and s
alone would fetch deep candidates for everyone (films, validation, recall within 25 candidates: .780 against .771 with
1)."""
ORDER_SHARE = 0.5
"""Weight, in a plan's worth, of how well the fused score orders its first page; the rest is its coverage."""
DEFAULT_PRICE = 0.0002
"""Default price of a candidate."""
SURVEY_BUDGET = 300.0
"""After n surveyed answers, SURVEY_BUDGET / n of all requests are to be surveyed: in all about
sqrt(2 SURVEY_BUDGET x requests)."""
MIN_SURVEY_RATE = 0.01

_MAGIC = b"LTRRVW2\n"


class VWPolicy:
    """A LearningPolicy. Deciding does not change the model. Not thread-safe."""

    name = "vw"

    def __init__(
        self,
        fixed: FixedPolicy,
        exploration: float = 0.05,
        budget: int = BUDGET,
        floor: int = FLOOR,
        price: float = DEFAULT_PRICE,
        model: bytes | None = None,
        version: str | None = None,
    ) -> None:
        """`price`: worth that one candidate must add (1: a page of wanted items). `model`: bytes returned by `dump`, or
        None for an untrained policy; `version`: the model's version in its store (default: a digest of the model).

        Raises ModelInvalid for a model that cannot be read, ValueError for an exploration outside [0, 1], a price below
        0 or a floor above the budget.
        """
        check(budget, floor)
        if not 0.0 <= exploration <= 1.0:
            raise ValueError(f"exploration must be in [0, 1], not {exploration}")
        if not price >= 0.0:
            raise ValueError(f"a price must not be negative: {price}")
        self._fixed = fixed
        self._exploration = exploration
        self._budget = budget
        self._floor = floor
        self._price = price
        self._version = version
        self.plans = self._plans_of(PLAN_ARMS)
        self._possible: dict[tuple[tuple[int, ...], ...], NDArray[np.bool_]] = {}
        self.relevance = RelevanceModel()
        self.kinds = Kinds(len(self.plans))
        if model is not None:
            self._load(model)

    @property
    def version(self) -> str:
        """The model's version in its store, or else a digest of the model."""
        if self._version is None:
            self._version = sha256(self.dump()).hexdigest()[:12]
        return self._version

    @property
    def survey_share(self) -> float:
        """Share of the requests to survey, 0..1."""
        return max(MIN_SURVEY_RATE, min(1.0, SURVEY_BUDGET / (1.0 + self.kinds.requests)))

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        """Raises ValueError for features that are not finite, ArithmeticError for worths that are not."""
        return allocate(options, self._budget, self._floor, seed, self._distribution(features, options))

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        """The choices that `decide` would have logged, had it drawn `counts`. Raises as `decide` does."""
        return retrace(options, self._budget, self._floor, counts, self._distribution(features, options))

    def at_price(self, price: float) -> VWPolicy:
        """A policy with the same model, the given price of a candidate, and no exploration."""
        other = VWPolicy(self._fixed, 0.0, self._budget, self._floor, price, version=self._version)
        other.relevance, other.kinds = self.relevance, self.kinds
        return other

    def plan(self, features: Mapping[str, float], options: Sequence[ArmOption]) -> dict[str, int]:
        """Arm -> count of the best plan. Raises as `decide` does."""
        offered = {option.name: option.counts for option in options}
        static = {arm: self._fixed.wanted(arm) for arm in offered}
        worth = self.worth(features)
        if worth is None or self.kinds.requests < MIN_SURVEYS:
            return static
        able = np.array([len(offered.get(arm, (0,))) > 1 for arm in PLAN_ARMS])
        gain = worth - self._price * (self.plans.counts @ able)
        margin = MARGIN_Z * WORTH_STD / np.sqrt(self.kinds.requests)
        best = int(np.where(self.possible(offered), gain, -np.inf)[:STATIC].argmax())
        if gain[best] <= gain[STATIC] + margin:
            return static
        chosen = dict(zip(PLAN_ARMS, self.plans.counts[best].tolist(), strict=True))
        return {arm: chosen.get(arm, 0) for arm in offered}

    def worth(self, features: Mapping[str, float]) -> NDArray[np.float64] | None:
        """Predicted worth of each plan, [plans], the static mix last; None while the model is untrained. Raises as
        `decide` does."""
        worth = self.kinds.worth(_aspects(features))
        if worth is not None and not np.isfinite(worth).all():
            raise ArithmeticError("the model predicts worths that are not finite")
        return worth

    def possible(self, offered: Mapping[str, tuple[int, ...]]) -> NDArray[np.bool_]:
        """[plans]: whether every count of the plan is offered, and its sum between floor and budget."""
        counts_by_arm = tuple(offered.get(arm, (0,)) for arm in PLAN_ARMS)
        found = self._possible.get(counts_by_arm)
        if found is None:
            costs = self.plans.counts.sum(axis=1)
            found = (costs >= self._floor) & (costs <= self._budget)
            for column, counts in zip(self.plans.counts.T, counts_by_arm, strict=True):
                found &= np.isin(column, counts)
            self._possible[counts_by_arm] = found
        return found

    def learn(self, outcome: Outcome) -> None:
        """Raises ValueError, having learned nothing, for numbers that are not finite or a weight outside [0, 1]. An
        outcome without a survey is ignored. An outcome of weight 1/2 counts half as much as one of weight 1."""
        if not 0.0 <= outcome.weight <= 1.0:
            raise ValueError(f"weight must be in [0, 1], not {outcome.weight}")
        survey = outcome.survey
        if survey is None or outcome.weight == 0.0:
            return
        if not len(outcome.examination) == len(outcome.clicked) == len(survey.shown):
            raise ValueError("examination and clicks must be given per item shown")
        request_features = featurize(outcome.features, survey)
        known = [(index, n) for n, index in enumerate(survey.shown) if 0 <= index < len(request_features.slopes)]
        row_indices = [index for index, _ in known]
        examination, clicked = (
            np.array([given[n] for _, n in known]) for given in (outcome.examination, outcome.clicked)
        )
        if not (np.isfinite(examination).all() and np.isfinite(clicked).all()):
            raise ValueError("an examination probability or a click that is not a finite number")
        self.relevance.learn(request_features, row_indices, examination, clicked, outcome.weight)
        wanted = self.relevance.wanted(request_features, row_indices, examination, clicked)
        self.kinds.learn(_aspects(outcome.features), self._worth(survey, wanted), outcome.weight)
        self._version = None

    def _worth(self, survey: Survey, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Observed worth of each plan, [plans]. Surveys of early releases lack the arms' parts of the fused scores and
        yield coverage alone."""
        items = max(map(len, survey.ranks.values()), default=0)
        nothing = (0,) * items
        ranks = np.array([survey.ranks.get(arm, nothing) for arm in PLAN_ARMS], dtype=np.int32)
        ranks = ranks.T.reshape(items, len(PLAN_ARMS))
        found: NDArray[np.float64] = 1.0 - (1.0 - self.plans.found(ranks, wanted)) ** COVERAGE_EXPONENT
        if not any(part(arm) in survey.facts for arm in PLAN_ARMS):
            return found
        parts = np.array([survey.facts.get(part(arm), nothing) for arm in PLAN_ARMS], dtype=np.float64)
        pages = self.plans.pages(ranks, wanted, parts.T.reshape(items, len(PLAN_ARMS)))
        return (1.0 - ORDER_SHARE) * found + ORDER_SHARE * pages

    def dump(self) -> bytes:
        """The model: equal bytes for equal histories."""
        packed = io.BytesIO()
        arrays: dict[str, Any] = self.kinds.arrays() | {
            "plans": self.plans.counts,
            "mean": self.relevance.mean,
            "covariance": self.relevance.covariance,
            "answers": np.array(self.relevance.answers),
        }
        arrays |= arm_names(KNOWN_ARMS)
        np.savez(packed, **arrays)
        return _MAGIC + packed.getvalue()

    def _load(self, model: bytes) -> None:
        if not model.startswith(_MAGIC):
            raise ModelInvalid("not a policy model of this format; retrain it from the event log")
        try:
            with np.load(io.BytesIO(model[len(_MAGIC) :]), allow_pickle=False) as packed:
                arrays = carry_over(dict(packed), self._plans_of(learned_arms(packed).planned), self.plans)
                self.relevance.mean = arrays["mean"]
                self.relevance.covariance = arrays["covariance"]
                self.relevance.answers = int(arrays["answers"])
                self.kinds = Kinds.of(arrays, len(self.plans))
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ModelInvalid(f"a policy model that is damaged: {type(error).__name__}") from error

    def _plans_of(self, arms: Sequence[str]) -> Plans:
        return Plans(arms, [self._fixed.wanted(arm) for arm in arms])

    def _distribution(self, features: Mapping[str, float], options: Sequence[ArmOption]) -> Distribute:
        plan = self.plan(features, options)

        def distribute(option: ArmOption, allowed: tuple[int, ...]) -> Distribution:
            best = nearest(plan[option.name], allowed)
            shares = nearby(allowed.index(best), len(allowed))
            chances = {c: self._exploration * share for c, share in zip(allowed, shares, strict=True)}
            chances[best] += 1.0 - self._exploration
            return tuple((c, chances.get(c, 0.0)) for c in option.counts)

        return distribute


def _aspects(features: Mapping[str, float]) -> dict[str, float]:
    """The features that characterise a kind of request: the time of day and the caller's own made predictions worse."""
    return {name: features[name] for name in ASPECTS if name in features}
