"""Ridge-penalised logistic regression, minimised by scipy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Floats = NDArray[np.float64]


def logistic(
    table: Floats, positive: Floats, negative: Floats, ridge: float, lower: float | None = None
) -> tuple[float, Floats]:
    """(intercept, coefficients [columns]) of the log-odds on `table` [rows, columns], where row i was positive
    `positive[i]` times and negative `negative[i]` times, both >= 0. The penalty spares the intercept; `lower`: lower
    bound of the coefficients."""

    def loss(weights: Floats) -> tuple[float, Floats]:
        odds = weights[0] + table @ weights[1:]
        value = positive @ np.logaddexp(0.0, -odds) + negative @ np.logaddexp(0.0, odds)
        slope = (positive + negative) * expit(odds) - positive
        gradient = np.concatenate([[slope.sum()], slope @ table + ridge * weights[1:]])
        return float(value + 0.5 * ridge * weights[1:] @ weights[1:]), gradient

    bounds = [(None, None), *[(lower, None)] * table.shape[1]]
    found = minimize(loss, np.zeros(1 + table.shape[1]), jac=True, bounds=bounds, method="L-BFGS-B").x
    return float(found[0]), found[1:]
