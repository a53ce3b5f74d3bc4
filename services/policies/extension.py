"""Carries a policy model that was trained with fewer arms over to the current ones: nothing learned is lost when an arm
is added. Pure.

Learned plan worths hold for the same plans with the new arms at 0, so decisions stay as before. A plan that uses a new
arm starts with the worth of the plan without it, so its price keeps it from being chosen; exploration and surveys still
query the arm, and their results update the worth of its plans. The sample of earlier requests has no information about
those plans: their worth is unknown there (NaN), and learning from the sample leaves it unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import ModelInvalid
from services.policies.base import KNOWN_ARMS, KnownArms
from services.policies.plans import STATIC, Plans
from services.policies.relevance import RelevanceModel, input_names

Arrays = Mapping[str, NDArray[Any]]

FIRST_ARMS = KnownArms(("memory", "structured", "personal", "vector", "lexical"), ("explore",))
"""Arms of models that do not list the arms they know. Never changed."""
_PLANNED, _OTHERS = "planned_arms", "other_arms"


def arm_names(arms: KnownArms) -> dict[str, NDArray[np.str_]]:
    """Arrays that record in a model which arms it knows; empty when these are FIRST_ARMS."""
    if arms == FIRST_ARMS:
        return {}
    return {_PLANNED: np.array(arms.planned, dtype=np.str_), _OTHERS: np.array(arms.others, dtype=np.str_)}


def learned_arms(arrays: Arrays) -> KnownArms:
    """The arms that a model knows, as recorded by `arm_names`. Raises ModelInvalid for arms that do not exist (any
    more) or that plans may not use (any more)."""
    if _PLANNED not in arrays:
        arms = FIRST_ARMS
    else:
        arms = KnownArms(tuple(arrays[_PLANNED].tolist()), tuple(arrays[_OTHERS].tolist()))
    if not (set(arms.planned) <= set(KNOWN_ARMS.planned) and set(arms.names) <= set(KNOWN_ARMS.names)):
        raise ModelInvalid("a policy model of other arms; retrain it from the event log")
    return arms


def carry_over(arrays: Arrays, old: Plans, new: Plans) -> Arrays:
    """Convert the arrays of a model over the plans `old` to the plans `new`, which have the same arms and perhaps more.

    Raises ModelInvalid for a model of other plans or inputs, KeyError when something is missing.
    """
    arms = learned_arms(arrays)
    names = input_names(arms)
    if not np.array_equal(arrays["plans"], old.counts) or arrays["mean"].shape != (len(names),):
        raise ModelInvalid("a policy model of other plans or inputs; retrain it from the event log")
    if arms == KNOWN_ARMS:
        return arrays
    places, added = _places(old, new)
    centres, worths = (np.where(places >= 0, arrays[name][:, places], 0.0) for name in ("centres", "worths"))
    if len(centres):
        worths[:, added] = np.nan
    mean, covariance = _posterior(arrays["mean"], arrays["covariance"], names)
    return dict(arrays) | {
        "plans": new.counts,
        "centres": centres.astype(np.float32),
        "worths": worths.astype(np.float16),
        "mean": mean,
        "covariance": covariance,
    }


def _places(old: Plans, new: Plans) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """([plans]: index in `old` of each plan of `new` with the added arms set to 0, -1 where no arm is left; [plans]:
    whether the plan uses any of the added arms)."""
    columns = [new.arms.index(arm) for arm in old.arms]
    place_of = {tuple(plan): place for place, plan in enumerate(old.counts[:STATIC].tolist())}
    places = [place_of.get(tuple(plan), -1) for plan in new.counts[:STATIC, columns].tolist()]
    others = [column for column in range(len(new.arms)) if column not in columns]
    added: NDArray[np.bool_] = np.any(new.counts[:, others] > 0, axis=1)
    return np.array([*places, len(old) + STATIC]), added


def _posterior(
    mean: NDArray[np.float64], covariance: NDArray[np.float64], names: tuple[tuple[str, str], ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(mean, covariance) over the current inputs; inputs that are not among `names` get the prior."""
    prior, now = RelevanceModel(), input_names(KNOWN_ARMS)
    places = [now.index(name) for name in names]
    prior.mean[places] = mean
    prior.covariance[np.ix_(places, places)] = covariance
    return prior.mean, prior.covariance
