"""Rewards of answers, their attribution to arms, and the cap on one principal's influence. Pure.

Sources: position-based examination, Craswell et al., "An experimental comparison of click position-bias models", WSDM
2008; its use as inverse propensity, Joachims et al., "Unbiased learning-to-rank with biased feedback", WSDM 2017; the
logarithmic curve, Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002; dwell time of
satisfied clicks, Fox et al., "Evaluating implicit measures to improve web search", TOIS 2005.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from services.types import EventStatus, Impression, Interaction

ACTIONS = ("click", "add_to_cart", "purchase", "play", "like", "dislike", "dwell", "abandon")

SATISFIED_SECONDS = 30.0
"""Dwell time of a satisfied click, in seconds; longer ones count the same (Fox et al. 2005)."""


def examination(position: int) -> float:
    """Probability that the item at `position` (from 1) is looked at, relative to the first: 1 / log2(1 + position).

    The discount of DCG. It falls to 0.29 at place 10, much as measured click curves do, and has no parameter that would
    have to be estimated before there is any traffic. As inverse propensity it stays mild: weights reach 3.5 at place 10
    and 6.7 at place 100, so that no single lucky click deep down dominates, at the price of some bias that remains.
    """
    return 1.0 / math.log2(1 + max(1, position))


def strength(interaction: Interaction) -> float:
    """Share of its action's weight that an event carries, 0..1: dwell in proportion to its seconds, other actions in
    full, late events nothing."""
    if interaction.status != EventStatus.ACCEPTED:
        return 0.0
    if interaction.action_name == "dwell":
        return min(max(interaction.value or 0.0, 0.0) / SATISFIED_SECONDS, 1.0)
    return 1.0


def gain(interaction: Interaction, weights: Mapping[str, float]) -> float:
    """Worth of one event before any discount, -1..1: its action's weight over the largest (by size) of `weights`.

    Relative, so that the price of a candidate means the same whatever scale the weights are written in.
    """
    unit = max(map(abs, weights.values()), default=0.0)
    if unit == 0.0:
        return 0.0
    return weights.get(interaction.action_name, 0.0) / unit * strength(interaction)


def reward(interactions: Iterable[Interaction], weights: Mapping[str, float]) -> float:
    """Worth of an answer, -1..1: sum over its events of gain × examination(position shown), clipped."""
    return _clip(sum(_value(interaction, weights) for interaction in interactions))


def clicked(
    impression: Impression, interactions: Iterable[Interaction], weights: Mapping[str, float]
) -> tuple[float, ...]:
    """Per item that the answer showed, 1 where the gains of its events sum to more than 0, else 0."""
    worth: dict[str | None, float] = {}
    for event in interactions:
        worth[event.object_id] = worth.get(event.object_id, 0.0) + gain(event, weights)
    return tuple(float(worth.get(object_id, 0.0) > 0.0) for object_id in impression.shown)


def arm_rewards(
    impression: Impression, interactions: Iterable[Interaction], weights: Mapping[str, float], price: float
) -> dict[str, float]:
    """Per arm, what its candidates earned, -1..1: its share of each event's worth minus price × count, clipped.

    The worth of an event is shared equally among the arms that held the item within their count: 1 / (number of arms
    that hit) learned best of the attributions that were compared. Arms with count 0 earn 0. Absent: arms in `degraded`
    (censored: an outage is not a bad arm) and arms that had no choice but 0 (there is nothing to learn).

    `impression` is the one that the decision was taken for (the first page), `interactions` those of all its pages.
    """
    counts = {arm: choice.count for arm, choice in impression.decision.arms.items()}
    held = {arm: {object_id for object_id, _ in found[: counts.get(arm, 0)]} for arm, found in impression.lists.items()}
    earned = dict.fromkeys(counts, 0.0)
    for interaction in interactions:
        hit = [arm for arm in counts if interaction.object_id in held.get(arm, ())]
        for arm in hit:
            earned[arm] += _value(interaction, weights) / len(hit)
    absent = {degraded.arm for degraded in impression.degraded}
    absent |= {option.name for option in impression.options if option.counts == (0,)}
    return {arm: _clip(earned[arm] - price * count) for arm, count in counts.items() if arm not in absent}


def principal_weight(n_recent: int, cap: int) -> float:
    """Weight, 0..1, of the next event (or impression) of a principal that had `n_recent` in the last hour.

    Full for the first `cap`, then (cap / n)² for the n-th. The squares sum to less than `cap`, so one principal never
    weighs more than 2 × cap an hour, however much it sends; a plain cap / n would grow without end.
    """
    n = n_recent + 1
    return 1.0 if n <= cap else (cap / n) ** 2


def _value(interaction: Interaction, weights: Mapping[str, float]) -> float:
    """Gain discounted by the position we showed; without one (abandon) as at the first."""
    return gain(interaction, weights) * examination(interaction.position or 1)


def _clip(value: float) -> float:
    return min(1.0, max(-1.0, value))
