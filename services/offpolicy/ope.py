"""Off-policy estimators: the value of a policy on decisions that another one took, with confidence intervals. Pure.

Everything is about n logged decisions, each of them a draw per arm in a fixed order. `rewards` (n,) are what they
earned; `logged` and `target` (n, arms) are the probabilities of the counts that were drawn, each given the counts of
the arms before it, by the policy that decided (> 0) and by the one that is judged. `shares` (n,), by default 1, says
how much each decision counts: every mean is sum(shares * .) / sum(shares). Decisions are taken as independent.

| | estimate | bias | source |
|---|---|---|---|
| `ips` | mean(w r), w the product over arms of target / logged | none | Horvitz and Thompson, JASA 1952 |
| `snips` | sum(w r) / sum(w) | falls as 1/n | Swaminathan and Joachims, NeurIPS 2015 |
| `doubly_robust` | mean(q(x, target) + w (r - q(x, a))) | none | Dudík, Langford, Li, ICML 2011 |
| `ips` of `pseudo_inverse` | mean(r (1 - L + sum of target / logged)) | see there | Swaminathan et al., NeurIPS 2017 |

Where the log holds no action that the target would take, no estimate is possible: NoSupport is raised, and
`expected_size` says beforehand how much support there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Z95 = 1.959964
"""Quantile of the normal distribution for two-sided 95 % intervals."""
MIN_FREEDOM = 3.0
"""Fewest degrees of freedom an interval is widened for."""
ROUNDING = 1e-9


class NoSupport(ValueError):
    """The target would never have taken any of the logged actions."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value in units of reward per decision, with its 95 % interval."""

    value: float
    low: float
    high: float
    effective: float
    """Number of the target's own decisions that would give the same precision (`effective_size`)."""
    n: int

    def __str__(self) -> str:
        return f"{self.value:.5f} [{self.low:.5f}, {self.high:.5f}]"


@dataclass(frozen=True, slots=True)
class Estimator:
    """A value with the influence of each decision on it, from which intervals and paired differences follow.

    The influence (n,) has mean 0: to first order, the estimate's error is the mean of n independent draws of it.
    """

    value: float
    influence: Floats
    effective: float

    def minus(self, other: Estimator) -> Estimator:
        """The difference on the same decisions; noise common to both cancels. Its effective size is the smaller one.
        Raises ValueError when the numbers of decisions differ."""
        if self.influence.shape != other.influence.shape:
            raise ValueError("a difference needs two estimates on the same decisions")
        effective = min(self.effective, other.effective)
        return Estimator(self.value - other.value, self.influence - other.influence, effective)

    def interval(self) -> Estimate:
        """The value with its 95 % interval, asymmetric as the influence is; infinite for a single decision.

        Weighted rewards are nearly all near 0 and a few very large, so that the log has often not seen the largest
        yet, and intervals from what it has seen lie too low (evaluation/studies/ope_coverage.py: normal, percentile,
        BCa and studentised bootstrap cover 88-91 %, an empirical Bernstein bound 100 % at 3.6 times the width).
        Therefore each end is computed as if one more decision had come in, as extreme as the most extreme one so far
        (as empirical likelihood allows for what was not seen, Karampatziakis, Langford, Mineiro, ICML 2020), and the
        end on the side of the longer tail has the Student quantile whose degrees of freedom follow from the
        uncertainty of the variance, 2 n / (kurtosis - 1) (Satterthwaite 1946). Same input, same interval: there is no
        resampling.
        """
        n = len(self.influence)
        if n < 2:
            return Estimate(self.value, -math.inf, math.inf, self.effective, n)
        square = self.influence**2
        variance = float(square.mean())
        if variance == 0.0:
            return Estimate(self.value, self.value, self.value, self.effective, n)
        kurtosis = float((square**2).mean()) / variance**2
        wide = _student(2.0 * n / max(kurtosis - 1.0, 1.0))
        right = float((square * self.influence).mean()) >= 0.0
        low = self._end(min(float(self.influence.min()), 0.0), -1.0, Z95 if right else wide)
        high = self._end(max(float(self.influence.max()), 0.0), 1.0, wide if right else Z95)
        return Estimate(self.value, low, high, self.effective, n)

    def _end(self, extreme: float, side: float, quantile: float) -> float:
        """One end of the interval, with one decision of influence `extreme` more."""
        n = len(self.influence) + 1
        mean = extreme / n
        variance = (float((self.influence**2).sum()) + extreme * extreme) / n - mean * mean
        return self.value + mean + side * quantile * math.sqrt(variance / n)


def product(logged: Floats, target: Floats, clip: float | None = None) -> Floats:
    """Weight w of each decision (n,): the product over its arms of target / logged.

    `clip` is the largest weight that counts as such, larger ones count as `clip`: less variance for a bias towards 0
    of mean((w - clip)+ r), so that a policy which does what was seldom done looks worse than it is when rewards are
    positive. Raises ValueError for arrays that do not fit together, or hold anything but probabilities.
    """
    ratios = _ratios(logged, target)
    weights: Floats = ratios.prod(axis=1)
    return weights if clip is None else np.minimum(weights, clip)


def pseudo_inverse(logged: Floats, target: Floats) -> Floats:
    """Weight of each decision (n,) by the pseudo-inverse estimator for a product logging policy: 1 - L + the sum over
    the L arms of target / logged (Swaminathan et al., "Off-policy evaluation for slate recommendation", NeurIPS 2017).

    Its variance grows with the sum of what the arms differ by, not with the product; weights can be negative. Unbiased
    only where the reward is a sum of what each arm's count earns by itself, and the counts are drawn independently of
    each other. Biased where arms share the credit of an item or take turns in finding it, and where the budget masks
    counts because of earlier draws. `ips` with these weights is the estimate. Raises as `product` does.
    """
    ratios = _ratios(logged, target)
    weights: Floats = 1.0 - ratios.shape[1] + ratios.sum(axis=1)
    return weights


def effective_size(weights: Floats) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965): the number of the target's own decisions that would give the same precision; 0
    when all weights are 0. Optimistic while the log lacks what the target does but the logging policy seldom did: see
    `expected_size`."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0.0 else 0.0


def expected_size(moments: Floats, shares: Floats | None = None) -> float:
    """The `effective_size` to be expected from the policies, whatever happened to be logged: n / mean(E w^2).

    moments (n,): E w^2 given x, the sum over actions of target^2 / logged, >= 1, infinite without support."""
    if not len(moments):
        return 0.0
    weight = np.ones(len(moments)) if shares is None else shares
    return effective_size(weight) / float(np.average(moments, weights=weight))


def ips(rewards: Floats, weights: Floats, shares: Floats | None = None) -> Estimator:
    """Inverse propensity score: mean(w r). Raises ValueError for invalid arrays, NoSupport when all weights are 0."""
    share = _checked(rewards, weights, shares)
    return _mean(weights * rewards, share, weights)


def snips(rewards: Floats, weights: Floats, shares: Floats | None = None) -> Estimator:
    """Self-normalised: sum(w r) / sum(w). Never outside the range of the rewards, and equivariant under shifts of all
    rewards. Raises as `ips` does, and NoSupport where the weights' sum is not above 0."""
    share = _checked(rewards, weights, shares)
    total = float((share * weights).sum())
    if not total > 0.0:
        raise NoSupport("the weights sum to no more than 0")
    value = float((share * weights * rewards).sum()) / total
    return Estimator(value, len(rewards) * share * weights * (rewards - value) / total, effective_size(share * weights))


def doubly_robust(
    rewards: Floats, weights: Floats, logged: Floats, target: Floats, shares: Floats | None = None
) -> Estimator:
    """mean(q(x, target) + w (r - q(x, a))) with a model's predictions (n,) for what was done (`logged`) and for what
    the target would do (`target`: the mean over its own actions). Unbiased however wrong the model is, as long as it
    has not seen the decision that it predicts (services.offpolicy.reward_model). Raises as `ips` does."""
    share = _checked(rewards, weights, shares)
    if logged.shape != rewards.shape or target.shape != rewards.shape:
        raise ValueError("one prediction per decision for what was done, and one for what the target would do")
    return _mean(target + weights * (rewards - logged), share, weights)


def on_policy(rewards: Floats) -> Estimator:
    """The mean reward of the logging policy itself. Raises ValueError as `ips` does."""
    return ips(rewards, np.ones(rewards.shape))


def _mean(terms: Floats, share: Floats, weights: Floats) -> Estimator:
    value = float((share * terms).sum() / share.sum())
    return Estimator(value, share / share.mean() * (terms - value), effective_size(share * weights))


def _checked(rewards: Floats, weights: Floats, shares: Floats | None) -> Floats:
    share = np.ones(rewards.shape) if shares is None else shares
    if rewards.ndim != 1 or not len(rewards) or weights.shape != rewards.shape or share.shape != rewards.shape:
        raise ValueError("at least one decision, and one reward, weight and share each")
    if not (np.isfinite(rewards).all() and np.isfinite(weights).all() and np.isfinite(share).all()):
        raise ValueError("rewards, weights and shares must be finite")
    if (share < 0.0).any() or not share.sum() > 0.0:
        raise ValueError("shares must not be negative, nor all 0")
    if not (share * weights).any():
        raise NoSupport("the target would never have done anything of what was done")
    return share


def _ratios(logged: Floats, target: Floats) -> Floats:
    if logged.ndim != 2 or logged.shape != target.shape:
        raise ValueError(f"one probability per decision and arm each, not {logged.shape} and {target.shape}")
    if not ((logged > 0.0) & (logged <= 1.0 + ROUNDING)).all():
        raise ValueError("what was drawn had a probability above 0 and at most 1")
    if not ((target >= 0.0) & (target <= 1.0 + ROUNDING)).all():
        raise ValueError("a probability is in 0..1")
    ratios: Floats = target / logged
    return ratios


def _student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t."""
    # Imported here: scipy is slow to import, and most processes never get to this.
    from scipy.special import stdtrit

    return float(stdtrit(max(freedom, MIN_FREEDOM), 0.975))
