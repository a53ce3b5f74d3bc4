"""The learned policy: what each plan would find, foretold from the context, less the price of its candidates.

Learned from surveyed answers (services/search/survey.py): clicks bring up to date how likely each candidate is wanted
(`relevance.py`); with that, every plan has a worth for this request, taken or not (`plans.py`); kinds of requests are
found in those worths, and Vowpal Wabbit learns to foretell them from the context (`kinds.py`). The price comes in at
the decision alone, so one model serves any price.

Anchoring: the static mix is one of the plans. Another one is taken only where it is worth more by a margin of `CAUTION`
standard errors, CAUTION * SPREAD / sqrt(surveyed answers), and never before `LEAST` of them. Without evidence the
policy decides exactly as the static mix does, apart from exploration.

Exploring: around the plan, arm by arm, `exploration` of each arm's probability is spread over its allowed counts, the
more the nearer they are to the plan's (`nearby` in sampling.py). Masking, exploring and sampling are ours
(services/policies/budget.py).
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
from services.policies.relevance import ASPECTS, RelevanceModel, describe
from services.policies.sampling import Distribution, nearby
from services.types import ArmChoice, ArmOption, Survey

CAUTION = 1.0
SPREAD = 0.5
"""Standard deviation of what a plan finds for one request, at most."""
LEAST = 400
"""Surveyed answers before anything but the static mix is taken."""
SATIETY = 1.5
"""A plan that is thought to find the share s of what is wanted is worth 1 - (1 - s)^SATIETY. Some people want one thing
and some want many, of which only the latter need late candidates; the model knows the mean of both, and s alone would
send late candidates to everyone (films, validation, recall within 25 candidates: .780 against .771 with 1)."""
ORDER = 0.5
"""Part of a plan's worth that is how its first page is ordered, by the fused score; the rest is what it finds."""
PRICE = 0.0002
"""Default price of a candidate."""
CURIOUS = 300.0
"""Surveys wanted: of the n-th surveyed answer on, CURIOUS / n of all requests; in all about sqrt(2 CURIOUS x requests).
"""
LEAST_CURIOUS = 0.01

_MAGIC = b"LTRRVW2\n"


class VWPolicy:
    """A LearningPolicy. Deciding leaves no trace in the model. Not thread-safe."""

    name = "vw"

    def __init__(
        self,
        fixed: FixedPolicy,
        exploration: float = 0.05,
        budget: int = BUDGET,
        floor: int = FLOOR,
        price: float = PRICE,
        model: bytes | None = None,
        version: str | None = None,
    ) -> None:
        """`price`: what one candidate must be worth (1: a page of wanted items). `model` is what `dump` returned, None
        for an untrained policy; `version` is what the model is called where it is kept (default: a digest of it).

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
        if self._version is None:
            self._version = sha256(self.dump()).hexdigest()[:12]
        return self._version

    @property
    def curiosity(self) -> float:
        """Share of the requests that it would have surveyed, 0..1."""
        return max(LEAST_CURIOUS, min(1.0, CURIOUS / (1.0 + self.kinds.requests)))

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        """Raises ValueError for features that are not finite, ArithmeticError for worths that are not."""
        return allocate(options, self._budget, self._floor, seed, self._distribution(features, options))

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        """What `decide` would have logged, had it drawn `counts`. Raises as `decide` does."""
        return retrace(options, self._budget, self._floor, counts, self._distribution(features, options))

    def at_price(self, price: float) -> VWPolicy:
        """The policy that decides by the same model when a candidate costs so much, and never explores."""
        other = VWPolicy(self._fixed, 0.0, self._budget, self._floor, price, version=self._version)
        other.relevance, other.kinds = self.relevance, self.kinds
        return other

    def plan(self, features: Mapping[str, float], options: Sequence[ArmOption]) -> dict[str, int]:
        """Arm -> count of the best plan. Raises as `decide` does."""
        offered = {option.name: option.counts for option in options}
        static = {arm: self._fixed.wanted(arm) for arm in offered}
        worth = self.worth(features)
        if worth is None or self.kinds.requests < LEAST:
            return static
        able = np.array([len(offered.get(arm, (0,))) > 1 for arm in PLAN_ARMS])
        gain = worth - self._price * (self.plans.counts @ able)
        margin = CAUTION * SPREAD / np.sqrt(self.kinds.requests)
        best = int(np.where(self.possible(offered), gain, -np.inf)[:STATIC].argmax())
        if gain[best] <= gain[STATIC] + margin:
            return static
        chosen = dict(zip(PLAN_ARMS, self.plans.counts[best].tolist(), strict=True))
        return {arm: chosen.get(arm, 0) for arm in offered}

    def worth(self, features: Mapping[str, float]) -> NDArray[np.float64] | None:
        """[plans], the static mix last: the share of a page of wanted items that each is thought to find; None as long
        as nothing is known. Raises as `decide` does."""
        worth = self.kinds.worth(_aspects(features))
        if worth is not None and not np.isfinite(worth).all():
            raise ArithmeticError("the model foretells worths that are not finite")
        return worth

    def possible(self, offered: Mapping[str, tuple[int, ...]]) -> NDArray[np.bool_]:
        """[plans]: whether every count of the plan is offered, and its sum between floor and budget."""
        asked = tuple(offered.get(arm, (0,)) for arm in PLAN_ARMS)
        found = self._possible.get(asked)
        if found is None:
            costs = self.plans.counts.sum(axis=1)
            found = (costs >= self._floor) & (costs <= self._budget)
            for column, counts in zip(self.plans.counts.T, asked, strict=True):
                found &= np.isin(column, counts)
            self._possible[asked] = found
        return found

    def learn(self, outcome: Outcome) -> None:
        """Raises ValueError, having learned nothing, for numbers that are not finite or a weight outside [0, 1]. An
        outcome without a survey teaches nothing. A lesson of weight 1/2 is worth half of one that counts in full."""
        if not 0.0 <= outcome.weight <= 1.0:
            raise ValueError(f"weight must be in [0, 1], not {outcome.weight}")
        survey = outcome.survey
        if survey is None or outcome.weight == 0.0:
            return
        if not len(outcome.looked) == len(outcome.taken) == len(survey.shown):
            raise ValueError("looks and actions must be given per item shown")
        described = describe(outcome.features, survey)
        known = [(place, n) for n, place in enumerate(survey.shown) if 0 <= place < len(described.slopes)]
        places = [place for place, _ in known]
        looked, taken = (np.array([told[n] for _, n in known]) for told in (outcome.looked, outcome.taken))
        if not (np.isfinite(looked).all() and np.isfinite(taken).all()):
            raise ValueError("a look or an action that is not a finite number")
        self.relevance.learn(described, places, looked, taken, outcome.weight)
        wanted = self.relevance.wanted(described, places, looked, taken)
        self.kinds.learn(_aspects(outcome.features), self._worth(survey, wanted), outcome.weight)
        self._version = None

    def _worth(self, survey: Survey, wanted: NDArray[np.float64]) -> NDArray[np.float64]:
        """[plans]. A survey of a release that did not take down what arms add to fused scores tells what is found."""
        items = max(map(len, survey.ranks.values()), default=0)
        nothing = (0,) * items
        ranks = np.array([survey.ranks.get(arm, nothing) for arm in PLAN_ARMS], dtype=np.int32)
        ranks = ranks.T.reshape(items, len(PLAN_ARMS))
        found: NDArray[np.float64] = 1.0 - (1.0 - self.plans.found(ranks, wanted)) ** SATIETY
        if not any(part(arm) in survey.facts for arm in PLAN_ARMS):
            return found
        parts = np.array([survey.facts.get(part(arm), nothing) for arm in PLAN_ARMS], dtype=np.float64)
        pages = self.plans.pages(ranks, wanted, parts.T.reshape(items, len(PLAN_ARMS)))
        return (1.0 - ORDER) * found + ORDER * pages

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
            raise ModelInvalid("not a policy model of this format; train it anew from the event log")
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
    """Those that say what kind of request it is: the time of day and what callers add made it worse."""
    return {name: features[name] for name in ASPECTS if name in features}
