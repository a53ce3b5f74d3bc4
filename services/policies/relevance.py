"""Relevance model: the probability that a user wants an item, learned from clicks. It gives a policy the worth of
candidates that it did not retrieve and that nobody could click.

Position-based click model (Craswell et al., "An experimental comparison of click position-bias models", WSDM 2008):

    P(click on item i at place k) = e(k) (NOISE + (ATTRACTIVENESS - NOISE) p_i),    p_i = sigmoid(w . x_i)

x_i are products of request features and item features, above all the item's rank in the union of all arms' full
lists. A page shows the first ranks only; how p falls from one rank to the next, for this kind of request, predicts how
much there is to find beyond the page. The inputs are few because any other explanation of a page's order weakens the
slope that is extrapolated: with all columns of the ranker, recall within 50 candidates was .01 to .03 lower.

w has a Gaussian posterior, updated answer by answer as in an extended Kalman filter: one Newton step with the Fisher
information of the clicks (Bishop, "Pattern Recognition and Machine Learning", 2006, 4.5 and 13.3). One pass is as good
as refitting on all answers (films, 12,000 answers: recall within .005, in a tenth of the time). From time to time it
drifts back towards the prior, so that new answers outweigh old ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.policies.base import FACTS, KNOWN_ARMS, KnownArms
from services.types import Survey

Floats = NDArray[np.float64]

_ASPECTS_OF_REQUESTS = (
    *("tokens", *(f"tokens_{n}" for n in range(1, 7)), "characters", "digits", "number", "unknown", "some_unknown"),
    *("corrected", "rarity_max", "rarity_mean", "rarity_min", "filters", "filtered", "depth"),
    *("slot_title", "slot_keyword", "slot_range", "slots", "slots_none", "covered", "rest", "rest_none", "title_alone"),
    *("reading", "readings", "person", "history", "history_fresh", "history_disliked"),
    *("memory_none", "memory_hits", "memory_best", "memory_focus", "memory_similarity", "memory_predicted"),
    *("memory_clicks", *(f"language_{language}" for language in ("en", "de", "fr", "es", "it", "und", "other"))),
)


def aspects(arms: KnownArms) -> tuple[str, ...]:
    """Names of the context features (services/policies/features.py) that characterise a kind of request: all but the
    time and the caller's own."""
    return (*_ASPECTS_OF_REQUESTS, *(f"has_{arm}" for arm in arms.names))


ASPECTS = aspects(KNOWN_ARMS)
KEYS = (
    *("has_personal", "slots_none", "rest_none", "title_alone", "has_structured", "some_unknown", "corrected"),
    "memory_none",
)
"""The context features among them that interact with an item's facts."""
POOLED_FACTS = ("title_trigrams", "title_query_share", "slots_expected")
"""Facts whose maximum over the union characterises the request."""

NOISE = 0.1
"""P(click | examined) of an item that nobody wants."""
ATTRACTIVENESS = 0.75
"""P(click | examined) of a wanted one. Estimating both from the clicks changed nothing (films: .096, .93)."""
TAIL_DECAY = 0.8
"""Additional fall of the log-odds per unit of log rank beyond the first page: deep candidates are worth less than the
slope of the page predicts (films, validation)."""
FIRST_PAGE = 10
MAX_RANK = 450.0
"""Rank at which the slope's input is 0: about as many items as five arms can have."""

PRIOR = (-8.0, 7.0, 0.0)
"""Prior means: log-odds at MAX_RANK, their gain from there up to rank 1, and the extra gain at rank 1."""
PRECISION = 0.1
PRECISION_OF_PRODUCTS = 0.5
"""Precision of the Gaussian prior: for those three inputs, and for all others (mean 0)."""
DRIFT_EVERY = 500
DRIFT = 0.05
"""Every so many answers the posterior's precision moves this far towards the prior's: what was learned has lost half
of its weight after some 7,000 answers."""

_LIMIT = 30.0
_SLOPES = 3
_CONTEXT = 1 + len(ASPECTS) + len(POOLED_FACTS)
_KEYS = 1 + len(KEYS) + len(POOLED_FACTS)


def input_names(arms: KnownArms) -> tuple[tuple[str, str], ...]:
    """(request feature, item feature) pairs whose products are the model's inputs, in order."""
    context = product(("", *aspects(arms), *POOLED_FACTS), ("", "falling", "reciprocal"))
    return (*context, *product(("", *KEYS, *POOLED_FACTS), FACTS))


INPUTS = len(input_names(KNOWN_ARMS))


@dataclass(frozen=True, slots=True)
class RequestFeatures:
    """A request with all its candidates, as inputs of the model."""

    context: Floats
    """[_CONTEXT]."""
    keys: Floats
    """[_KEYS]."""
    slopes: Floats
    """[items, _SLOPES]: 1, the logarithm of the rank (1 at rank 1, 0 at MAX_RANK), 1 / rank."""
    facts: Floats
    """[items, facts]."""

    def inputs(self, row_indices: Sequence[int]) -> Floats:
        """[row_indices, INPUTS]: all products of request and item features."""
        return np.hstack(
            [_products(self.context, self.slopes[row_indices]), _products(self.keys, self.facts[row_indices])]
        )


def featurize(features: Mapping[str, float], survey: Survey) -> RequestFeatures:
    """Inputs for a surveyed request. Raises ValueError for numbers that are not finite or columns of different
    lengths."""
    items = max(map(len, survey.ranks.values()), default=0)
    if any(len(column) != items for column in (*survey.ranks.values(), *survey.facts.values())):
        raise ValueError("a survey whose columns differ in length")
    ranks = np.arange(1, items + 1, dtype=np.float64)
    falling = np.maximum(1.0 - np.log(ranks) / np.log(MAX_RANK), 0.0)
    slopes = np.column_stack([np.ones(items), falling, 1.0 / ranks])
    nothing = (0.0,) * items
    facts = np.array([survey.facts.get(name, nothing) for name in FACTS], dtype=np.float64).T.reshape(items, len(FACTS))
    maxima = [float(facts[:, FACTS.index(name)].max(initial=0.0)) for name in POOLED_FACTS]
    context = np.array([1.0, *(features.get(name, 0.0) for name in ASPECTS), *maxima])
    keys = np.array([1.0, *(features.get(name, 0.0) for name in KEYS), *maxima])
    if not (np.isfinite(context).all() and np.isfinite(facts).all()):
        raise ValueError("a number that is not finite")
    return RequestFeatures(context, keys, slopes, facts)


class RelevanceModel:
    """The posterior of w. Deterministic: equal answers in equal order give equal bytes."""

    def __init__(self) -> None:
        self.mean, self.precision = _prior()
        self.covariance: Floats = np.diag(1.0 / self.precision)
        self.answers = 0

    def learn(
        self,
        request_features: RequestFeatures,
        row_indices: Sequence[int],
        examination: Floats,
        clicked: Floats,
        weight: float = 1.0,
    ) -> None:
        """Update with one answer. row_indices: positions of the shown items among the candidates; examination:
        probability that each was seen; clicked: 1 where a user acted on it, else 0; weight: weight of the answer, in
        (0, 1]."""
        if len(row_indices) == 0:
            return
        inputs = request_features.inputs(row_indices)
        p = _sigmoid(_matmul(inputs, self.mean))
        click = np.clip(examination * (NOISE + (ATTRACTIVENESS - NOISE) * p), 1e-4, 1.0 - 1e-4)
        slope = examination * (ATTRACTIVENESS - NOISE) * p * (1.0 - p)
        information = weight * slope * slope / (click * (1.0 - click)) + 1e-9
        surprise = weight * (clicked - click) / (click * (1.0 - click)) * slope
        covariance_inputs = _matmul(self.covariance, inputs.T)
        gain = np.linalg.inv(np.diag(1.0 / information) + _matmul(inputs, covariance_inputs))
        self.mean = self.mean + _matmul(covariance_inputs, _matmul(gain, surprise / information))
        # einsum is slow on columns that do not lie side by side.
        inputs_covariance = np.ascontiguousarray(covariance_inputs.T)
        self.covariance = self.covariance - _matmul(_matmul(covariance_inputs, gain), inputs_covariance)
        self.answers += 1
        if self.answers % DRIFT_EVERY == 0:
            self._drift()

    def wanted(
        self, request_features: RequestFeatures, row_indices: Sequence[int], examination: Floats, clicked: Floats
    ) -> Floats:
        """[items], 0..1: how likely each candidate is wanted, given also the clicks on those at `row_indices`."""
        context, keys = self.mean[: _CONTEXT * _SLOPES], self.mean[_CONTEXT * _SLOPES :]
        odds = _matmul(request_features.slopes, _matmul(context.reshape(_CONTEXT, _SLOPES).T, request_features.context))
        odds += _matmul(request_features.facts, _matmul(keys.reshape(_KEYS, len(FACTS)).T, request_features.keys))
        ranks = np.arange(1, len(odds) + 1)
        p = _sigmoid(odds - TAIL_DECAY * np.log(np.maximum(ranks / FIRST_PAGE, 1.0)))
        shown = p[row_indices]
        if_clicked = ATTRACTIVENESS * shown / (NOISE * (1.0 - shown) + ATTRACTIVENESS * shown)
        missed = 1.0 - examination * (NOISE + (ATTRACTIVENESS - NOISE) * shown)
        p[row_indices] = np.where(clicked > 0.0, if_clicked, shown * (1.0 - examination * ATTRACTIVENESS) / missed)
        return p

    def _drift(self) -> None:
        precision = np.linalg.inv((self.covariance + self.covariance.T) / 2.0)
        self.covariance[:] = np.linalg.inv((1.0 - DRIFT) * precision + DRIFT * np.diag(self.precision))


def _prior() -> tuple[Floats, Floats]:
    """(mean, precision), [INPUTS] each."""
    mean, precision = np.zeros(INPUTS), np.full(INPUTS, PRECISION_OF_PRODUCTS)
    mean[:_SLOPES] = PRIOR
    precision[:_SLOPES] = PRECISION
    precision[_CONTEXT * _SLOPES :][: len(FACTS)] = PRECISION
    return mean, precision


def _products(left: Floats, right: Floats) -> Floats:
    """[items, len(left) * columns of right]."""
    return (left[None, :, None] * right[:, None, :]).reshape(len(right), -1)


def _matmul(left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]) -> Floats:
    """left @ right, bit-identical in every process: linear algebra libraries change the order of summation with the
    number of threads."""
    product: Floats = np.einsum("ij,j...->i...", left, right)
    return product


def _sigmoid(odds: Floats) -> Floats:
    p: Floats = 1.0 / (1.0 + np.exp(-np.clip(odds, -_LIMIT, _LIMIT)))
    return p
