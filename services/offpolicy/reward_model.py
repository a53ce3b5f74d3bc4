"""Reward model: predicts a decision's reward by ridge regression over context x arm x count, cross-fitted so that no
decision is predicted by a model that has seen it. Pure; numpy alone.

The prediction is linear in the encoding of an action: with probabilities in place of the one-hot counts of each arm, it
is exactly the mean over a policy's actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FOLDS = 5
RIDGE = 10.0
"""Penalty on squared coefficients of standardised columns, in decisions: with few, the model predicts the mean."""


@dataclass(frozen=True, slots=True)
class Actions:
    """Encoding of actions: a column per arm and count."""

    arms: tuple[int, ...]
    """Per column, the index of its arm."""
    counts: tuple[int, ...]
    """Per column, its count."""

    def depths(self, actions: Floats) -> Floats:
        """(n, arms): the (expected) logarithm of 1 + count, which multiplies the context features."""
        table = np.zeros((len(self.arms), max(self.arms, default=-1) + 1))
        table[np.arange(len(self.arms)), self.arms] = np.log1p(self.counts)
        return np.asarray(actions @ table)


def crossfit(
    context: Floats,
    actions: Actions,
    taken: Floats,
    proposed: Sequence[Floats],
    rewards: Floats,
    shares: Floats | None = None,
) -> tuple[Floats, list[Floats]]:
    """Predicted rewards (n,) of the actions taken, and of each list of proposed ones.

    context (n, features), 0 where a feature is absent; taken and each of proposed (n, columns of `actions`): the
    probability of each count of each arm, 1 for what was done; rewards and shares (n,). Each of FOLDS parts of the
    decisions (every FOLDS-th) is predicted by a model of the others (Chernozhukov et al., Econometrics Journal 2018).
    """
    n = len(rewards)
    weight = np.ones(n) if shares is None else shares
    spread = context.std(axis=0)
    scaled = np.divide(context - context.mean(axis=0), spread, out=np.zeros_like(context), where=spread > 0.0)
    done = _design(scaled, actions, taken)
    meant = [_design(scaled, actions, proposal) for proposal in proposed]
    fold = np.arange(n) % FOLDS
    products = [_products(done[fold == k], rewards[fold == k], weight[fold == k]) for k in range(FOLDS)]
    square, right = sum(p[0] for p in products), sum(p[1] for p in products)
    penalty = RIDGE * np.eye(done.shape[1])
    penalty[0, 0] = 1e-9  # the mean is free
    predicted, predictions = np.zeros(n), [np.zeros(n) for _ in proposed]
    for k in range(FOLDS):
        coefficients = np.linalg.solve(square - products[k][0] + penalty, right - products[k][1])
        part = fold == k
        predicted[part] = done[part] @ coefficients
        for prediction, design in zip(predictions, meant, strict=True):
            prediction[part] = design[part] @ coefficients
    return predicted, predictions


def _design(context: Floats, actions: Actions, written: Floats) -> Floats:
    """Design matrix, (n, 1 + features + columns + arms x features)."""
    depths = actions.depths(written)
    crossed = (depths[:, :, None] * context[:, None, :]).reshape(len(context), -1)
    return np.concatenate([np.ones((len(context), 1)), context, written, crossed], axis=1)


def _products(design: Floats, rewards: Floats, weight: Floats) -> tuple[Floats, Floats]:
    weighted = design * weight[:, None]
    return np.asarray(weighted.T @ design), np.asarray(weighted.T @ rewards)
