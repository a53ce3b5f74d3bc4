"""The learned policy: a cost regression per arm and count, anchored at the static mix.

One Vowpal Wabbit model (`--cb_adf --cb_type mtr`, https://vowpalwabbit.org) predicts the cost (negative reward) of each
count of each arm from context x arm x count. What to do with the predictions is decided here: masking, anchoring,
exploring, sampling.

Anchoring: each arm's count in the static mix is the default. Another count is taken only where its predicted cost plus
a margin is lower. The margin is `CAUTION` standard errors of the difference between the two counts' mean rewards,

    CAUTION * sqrt(variance * (1 / n_default + 1 / n_other))        (two-sample standard error, pooled variance)

with the arm's reward variance and each count's evidence so far, infinite below `MIN_EVIDENCE`. It vanishes as evidence
grows; without evidence the policy decides exactly as the static mix does, apart from exploration.

Exploring: `exploration` of each arm's probability is spread evenly over its allowed counts, so none falls below
exploration / number of allowed counts.
"""

from __future__ import annotations

import json
import logging
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias, cast

import numpy as np
import vowpal_wabbit_next as vw

from services.errors import ModelInvalid
from services.policies.base import Outcome
from services.policies.budget import BUDGET, FLOOR, Distribute, allocate, check, retrace
from services.policies.fixed import FixedPolicy
from services.policies.sampling import Distribution
from services.policies.vw_format import STEPS, action_line, context_line
from services.types import ArmChoice, ArmOption

ARGUMENTS = (
    "--cb_adf --cb_type mtr --hash all --bit_precision 18 "
    "--interactions st --interactions ta --interactions sta --learning_rate 0.02 --quiet"
)
"""The learning rate is far below the library's 0.5: rewards of single searches are nearly all noise, and a model that
follows them loses to the static mix for thousands of searches (seen in simulations)."""
FORM = f"{ARGUMENTS} steps {STEPS}"
"""What a stored model must have been made with to mean anything here."""
Workspace: TypeAlias = "vw.Workspace[Any]"

LABEL_PROBABILITY = 1.0
"""Makes learning a plain regression on the chosen count: it learned better than dividing by the true propensity, which
is logged for off-policy estimates instead."""
CAUTION = 1.0
MIN_EVIDENCE = 10.0
"""Learned decisions that a count needs before it can be preferred to the default."""
MIN_VARIANCE = 1e-4
CLIP = 1.0
"""Rewards beyond +-CLIP are cut: one freak reward must not pin an arm."""

_MAGIC = b"LTRRVW1\n"
_LENGTH = struct.Struct(">I")

logging.getLogger("vowpal_wabbit_next.driver").setLevel(logging.WARNING)  # a banner per model otherwise


@dataclass(slots=True)
class Evidence:
    """Weighted number of rewards seen, their sum, and the sum of their squares."""

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, reward: float, weight: float) -> None:
        self.n += weight
        self.total += weight * reward
        self.squares += weight * reward * reward


class VWPolicy:
    """A LearningPolicy. Deciding leaves no trace in the model: it works on a copy of the weights, refreshed after
    learning, because the library counts predictions in what it saves. Not thread-safe."""

    name = "vw"

    def __init__(
        self,
        fixed: FixedPolicy,
        exploration: float = 0.05,
        budget: int = BUDGET,
        floor: int = FLOOR,
        model: bytes | None = None,
        version: str | None = None,
    ) -> None:
        """`model` is what `dump` returned, None for an untrained policy; `version` is what the model is called where it
        is kept (default: a digest of it).

        Raises ModelInvalid for a model that cannot be read, ValueError for an exploration outside [0, 1] or a floor
        above the budget.
        """
        check(budget, floor)
        if not 0.0 <= exploration <= 1.0:
            raise ValueError(f"exploration must be in [0, 1], not {exploration}")
        self._fixed = fixed
        self._exploration = exploration
        self._budget = budget
        self._floor = floor
        self._version = version
        self._evidence: dict[str, dict[int, Evidence]] = {}
        if model is None:
            self._learner = _workspace()
        else:
            self._evidence, self._learner = _unpack(model)
        self._parser = vw.TextFormatParser(self._learner)
        self._predictor = _workspace()
        self._predictor_parser = vw.TextFormatParser(self._predictor)
        self._stale = True
        self._actions: dict[tuple[str, int], vw.Example] = {}

    @property
    def version(self) -> str:
        if self._version is None:
            self._version = sha256(self.dump()).hexdigest()[:12]
        return self._version

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> dict[str, ArmChoice]:
        """Raises ValueError for features that are not finite, ArithmeticError for a model that predicts such costs."""
        return allocate(options, self._budget, self._floor, seed, self._distribution(features, options))

    def retrace(
        self, features: Mapping[str, float], options: Sequence[ArmOption], counts: Mapping[str, int]
    ) -> dict[str, ArmChoice]:
        """What `decide` would have logged, had it drawn `counts`. Raises as `decide` does."""
        return retrace(options, self._budget, self._floor, counts, self._distribution(features, options))

    def _distribution(self, features: Mapping[str, float], options: Sequence[ArmOption]) -> Distribute:
        costs = self.costs(features, options)

        def distribute(option: ArmOption, allowed: tuple[int, ...]) -> Distribution:
            best = self._best(option.name, allowed, costs)
            share = self._exploration / len(allowed)
            kept = 1.0 - self._exploration
            return tuple((c, (share + kept * (c == best)) if c in allowed else 0.0) for c in option.counts)

        return distribute

    def costs(self, features: Mapping[str, float], options: Sequence[ArmOption]) -> dict[tuple[str, int], float]:
        """Predicted cost of every (arm, count) that is a real choice. Raises as `decide` does."""
        actions = [(option.name, count) for option in options if len(option.counts) > 1 for count in option.counts]
        if not actions:
            return {}
        if self._stale:
            np.copyto(self._predictor.weights(), self._learner.weights())
            self._stale = False
        context = self._predictor_parser.parse_line(context_line(features))
        examples = [context, *(self._action(*action) for action in actions)]
        costs = {actions[index]: cost for index, cost in _predicted(self._predictor, examples)}
        if not all(map(math.isfinite, costs.values())):
            raise ArithmeticError("the model predicts costs that are not finite")
        return costs

    def learn(self, outcome: Outcome) -> None:
        """Raises ValueError, having learned nothing, for rewards or features that are not finite, a weight outside
        [0, 1], or a count that its arm did not offer. The weight is the library's importance weight: a lesson of weight
        1/2 is worth half of one that counts in full."""
        if not 0.0 <= outcome.weight <= 1.0:
            raise ValueError(f"weight must be in [0, 1], not {outcome.weight}")
        rewards = [
            (option.name, _offered(option, outcome.counts), _clipped(outcome.rewards[option.name]))
            for option in outcome.options
            if option.name in outcome.rewards and len(option.counts) > 1
        ]
        line = context_line(outcome.features)
        if not rewards or outcome.weight == 0.0:
            return
        for arm, count, reward in rewards:
            action = self._parser.parse_line(action_line(arm, count))
            action.set_label(vw.CBLabel(label=(0, -reward, LABEL_PROBABILITY), weight=outcome.weight))
            self._learner.learn_one([self._parser.parse_line(line), action])
            self._evidence.setdefault(arm, {}).setdefault(count, Evidence()).add(reward, outcome.weight)
        self._stale = True
        self._version = None

    def dump(self) -> bytes:
        """The model and its evidence: equal bytes for equal histories. The library's own format settles after one
        reload (fresh and reloaded models differ in session statistics only), so that is what is written."""
        header = {
            "form": FORM,
            "evidence": {
                arm: {str(count): [e.n, e.total, e.squares] for count, e in sorted(counts.items())}
                for arm, counts in sorted(self._evidence.items())
            },
        }
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        weights: bytes = _workspace(self._learner.serialize()).serialize()
        return _MAGIC + _LENGTH.pack(len(text)) + text + weights

    def _best(self, arm: str, allowed: tuple[int, ...], costs: Mapping[tuple[str, int], float]) -> int:
        default = self._fixed.count(arm, allowed)
        if len(allowed) == 1:
            return default
        best, least = default, costs[arm, default]
        evidence = self._evidence.get(arm, {})
        spread = CAUTION * math.sqrt(_variance(evidence))
        base = evidence.get(default, Evidence()).n
        for count in allowed:
            n = evidence.get(count, Evidence()).n
            if count == default or min(n, base) < MIN_EVIDENCE:
                continue
            cautious = costs[arm, count] + spread * math.sqrt(1.0 / n + 1.0 / base)
            if cautious < least:
                best, least = count, cautious
        return best

    def _action(self, arm: str, count: int) -> vw.Example:
        action = self._actions.get((arm, count))
        if action is None:
            action = self._actions[arm, count] = self._predictor_parser.parse_line(action_line(arm, count))
        return action


def _offered(option: ArmOption, counts: Mapping[str, int]) -> int:
    count = counts.get(option.name)
    if count is None or count not in option.counts:
        raise ValueError(f"arm {option.name!r} did not offer count {count}")
    return count


def _clipped(reward: float) -> float:
    if not math.isfinite(reward):
        raise ValueError("a reward that is not a finite number")
    return min(max(reward, -CLIP), CLIP)


def _variance(evidence: Mapping[int, Evidence]) -> float:
    """Variance of an arm's rewards within its counts."""
    n = sum(e.n for e in evidence.values())
    within = sum(e.squares - e.total * e.total / e.n for e in evidence.values())
    return max(within / n, MIN_VARIANCE) if n else MIN_VARIANCE


def _predicted(workspace: Workspace, examples: list[vw.Example]) -> list[tuple[int, float]]:
    """(place of the action in the examples, predicted cost)."""
    return cast(list[tuple[int, float]], workspace.predict_one(examples))


def _workspace(model: bytes | None = None) -> Workspace:
    """A new workspace, or the one that was saved as `model` (which holds its arguments)."""
    if model is None:
        return vw.Workspace(ARGUMENTS.split())
    try:
        return vw.Workspace(["--quiet"], model_data=model)
    except Exception as error:  # the library raises bare RuntimeError and its own kinds
        raise ModelInvalid(f"a policy model that cannot be read: {type(error).__name__}") from error


def _unpack(model: bytes) -> tuple[dict[str, dict[int, Evidence]], Workspace]:
    start = len(_MAGIC) + _LENGTH.size
    if not model.startswith(_MAGIC) or len(model) < start:
        raise ModelInvalid("not a policy model of this format")
    (length,) = _LENGTH.unpack_from(model, len(_MAGIC))
    try:
        header = json.loads(model[start : start + length])
        form = header["form"]
        evidence = {
            arm: {int(count): Evidence(*map(float, numbers)) for count, numbers in counts.items()}
            for arm, counts in header["evidence"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelInvalid("a policy model with a damaged header") from error
    if form != FORM:
        raise ModelInvalid("a policy model of another kind; train it anew from the event log")
    return evidence, _workspace(model[start + length :])
