"""Whether the intervals of services/offpolicy/ope.py cover the truth: `python -m evaluation.studies.ope_coverage`.

A world as hard as ours, small enough that every value in it is known exactly: six arms that are good for different
contexts and find the same items, a budget that masks counts, one search in five with a click, whose worth depends on
place and action, and a price per candidate. A greedy policy with a little exploration per arm logs; other greedy
policies, and the static mix, are valued from its log. Every seed is a log of its own.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from services.offpolicy import ope
from services.offpolicy.reward_model import Actions, crossfit
from services.policies.sampling import nearby

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Intervals = Mapping[str, tuple[float, float]]

COUNTS = np.array([0, 10, 25, 50])
ARMS = 6
CONTEXTS = 6
BUDGET = 150
FLOOR = 10
PRICE = 0.0002
CLICKED = 0.3
"""Chance of a click on an answer with everything in it."""
GAINS = np.array([0.2, 0.4, 1.0])
GAIN_SHARES = np.array([0.7, 0.2, 0.1])
PLACES = 1.0 / np.log2(1.0 + np.arange(1, 11))
"""Discount of places 1..10, which are clicked in proportion to it."""

ACTIONS = np.array(list(itertools.product(range(len(COUNTS)), repeat=ARMS)))
"""(actions, arms): the place of the count in COUNTS."""
COST = PRICE * COUNTS[ACTIONS].sum(axis=1)
WRITTEN = np.eye(len(COUNTS))[ACTIONS].reshape(len(ACTIONS), -1)
COLUMNS = Actions(
    tuple(int(arm) for arm in np.repeat(np.arange(ARMS), len(COUNTS))), tuple(int(c) for c in np.tile(COUNTS, ARMS))
)

NEARBY = np.zeros((len(COUNTS) + 1, len(COUNTS), len(COUNTS)))
"""[allowed counts, place of the preferred one among them, place of another]: share of what is explored."""
for _size, _place in ((size, place) for size in range(1, len(COUNTS) + 1) for place in range(size)):
    NEARBY[_size, _place, :_size] = nearby(_place, _size)

STATIC = np.tile([1, 2, 1, 2, 0, 3], (CONTEXTS, 1))
"""(contexts, arms): the count that is preferred, by its place in COUNTS."""


def _changed(preferred: Ints, *changes: tuple[int, int, int]) -> Ints:
    """With (context, arm, count) changes."""
    copy = preferred.copy()
    for context, arm, count in changes:
        copy[context, arm] = count
    return copy


LOGGING = _changed(STATIC, (1, 1, 3), (2, 3, 0), (3, 0, 2), (4, 4, 1))
TARGETS: Mapping[str, tuple[Ints, bool]] = {
    "one arm, half the searches": (_changed(LOGGING, (0, 1, 0), (2, 2, 2), (4, 0, 3)), True),
    "one arm, all searches": (np.where(np.arange(ARMS) == 3, 1, LOGGING), True),
    "the static mix": (STATIC, False),
    "two arms at once": (_changed(LOGGING, (0, 1, 0), (0, 2, 2), (1, 0, 0)), True),
}
"""Preferred counts, and whether the policy explores as the logging one does."""


def conditionals(preferred: Ints, exploration: float) -> Floats:
    """(contexts, actions, arms): the probability of each arm's count given the counts of the arms before. Counts that
    break the budget are masked, for the last arm those that miss the floor as well; the largest allowed count up to the
    preferred one gets what exploration leaves, which is spread as our policy spreads it."""
    place, rows = np.arange(len(COUNTS)), np.arange(len(ACTIONS))
    taken = COUNTS[ACTIONS]
    spent = np.cumsum(taken, axis=1) - taken
    chances = np.zeros((CONTEXTS, *ACTIONS.shape))
    for arm in range(ARMS):
        total = spent[:, arm, None] + COUNTS
        allowed = (total <= BUDGET) & ((total >= FLOOR) | (arm < ARMS - 1))
        drawn = ACTIONS[:, arm]
        possible = allowed[rows, drawn]
        sizes, order = allowed.sum(axis=1), np.maximum(np.cumsum(allowed, axis=1) - 1, 0)
        for context in range(CONTEXTS):
            within = allowed & (place <= preferred[context, arm])
            best = np.where(within.any(axis=1), np.where(within, place, -1).max(axis=1), allowed.argmax(axis=1))
            share = NEARBY[sizes, order[rows, best], order[rows, drawn]]
            chances[context, :, arm] = np.where(
                possible, exploration * share + (1.0 - exploration) * (drawn == best), 0
            )
    return chances


@dataclass(frozen=True)
class Target:
    """A policy against the logging one. Per context and action, but `value` and `moment`, which are means."""

    arms: Floats
    product: Floats
    written: Floats
    """(contexts, columns): the probability of each count of each arm."""
    value: float
    moment: float
    """Mean of the squared weight."""


class World:
    """The logging policy and `targets`, with everything that can be known of them.

    `seed`: which arms are good for which context. The intervals were chosen in the world of seed 7; others test them.
    """

    def __init__(self, exploration: float, seed: int = 7) -> None:
        good = np.random.default_rng(seed).uniform(0.05, 0.5, (CONTEXTS, ARMS))
        finds = good[:, None, :] * (1.0 - np.exp(-COUNTS / 15.0))[ACTIONS]
        self.clicked = CLICKED * (1.0 - np.prod(1.0 - finds, axis=2))
        self.worth = self.clicked * (GAINS @ GAIN_SHARES) * (PLACES**2).sum() / PLACES.sum() - COST
        self.arms = conditionals(LOGGING, exploration)
        self.chances = self.arms.prod(axis=2)
        self.value = self._value(self.chances)
        self.exploration = exploration

    @cached_property
    def targets(self) -> dict[str, Target]:
        return {
            name: self.target(preferred, self.exploration * explores) for name, (preferred, explores) in TARGETS.items()
        }

    def target(self, preferred: Ints, exploration: float) -> Target:
        arms = conditionals(preferred, exploration)
        chances = arms.prod(axis=2)
        moment = float(np.divide(chances**2, self.chances, out=np.zeros_like(chances), where=chances > 0).sum(1).mean())
        return Target(arms, chances, chances @ WRITTEN, self._value(chances), moment)

    def _value(self, chances: Floats) -> float:
        return float((chances * self.worth).sum(axis=1).mean())

    def log(self, n: int, seed: int) -> tuple[Ints, Ints, Floats]:
        """Contexts, actions and rewards (n,) of a log."""
        generator = np.random.default_rng([seed, n])
        context = generator.integers(0, CONTEXTS, n)
        cumulated = self.chances.cumsum(axis=1)
        cumulated[:, -1] = 1.0
        point = generator.random(n)
        action = np.zeros(n, dtype=np.int64)
        for one in range(CONTEXTS):
            here = context == one
            action[here] = np.searchsorted(cumulated[one], point[here], side="right")
        clicked = generator.random(n) < self.clicked[context, action]
        gain = generator.choice(GAINS, n, p=GAIN_SHARES)
        place = generator.choice(PLACES, n, p=PLACES / PLACES.sum())
        return context, action, clicked * gain * place - COST[action]


def estimators(
    world: World, targets: Iterable[Target], context: Ints, action: Ints, rewards: Floats
) -> Iterator[dict[str, tuple[ope.Estimator, float]]]:
    """For each target, every estimate of its value, or of what it is better by than the logging policy, with the truth;
    one reward model serves all of them."""
    targets = list(targets)
    logged = world.arms[context, action]
    proposals = [target.written[context] for target in targets]
    taken, predictions = crossfit(np.eye(CONTEXTS)[context], COLUMNS, WRITTEN[action], proposals, rewards)
    present = ope.on_policy(rewards)
    for target, proposed in zip(targets, predictions, strict=True):
        wanted = target.arms[context, action]
        weights = ope.product(logged, wanted)
        found = {
            "IPS": ope.ips(rewards, weights),
            "SNIPS": ope.snips(rewards, weights),
            "DR": ope.doubly_robust(rewards, weights, taken, proposed),
            "PI": ope.ips(rewards, ope.pseudo_inverse(logged, wanted)),
        }
        known = {name: (estimator, target.value) for name, estimator in found.items()}
        better = target.value - world.value
        yield known | {f"{name} difference": (found[name].minus(present), better) for name in ("SNIPS", "DR")}


# --- other intervals, for comparison ------------------------------------------------------------------------------


def compared(estimator: ope.Estimator, resamples: int, seed: int) -> Intervals:
    """95 % intervals of one estimate by several methods. All of them treat the value as a mean of influences."""
    influence, value, n = estimator.influence, estimator.value, len(estimator.influence)
    error = float(influence.std()) / n**0.5
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n)
    moved, squares = (times @ np.stack([influence, influence**2], axis=1) / n).T
    errors = np.sqrt(np.maximum(squares - moved**2, 1e-30) / n)
    studentised = np.percentile(moved / errors, [97.5, 2.5])
    own = estimator.interval()
    bernstein = (2.0 * np.log(4 / 0.05) / n) ** 0.5 * influence.std()
    bernstein += 7.0 * np.ptp(influence) * np.log(4 / 0.05) / (3.0 * (n - 1))  # Maurer and Pontil, COLT 2009
    return {
        "ours": (own.low, own.high),
        "normal": (value - ope.Z95 * error, value + ope.Z95 * error),
        "percentile bootstrap": _pair(value + np.percentile(moved, [2.5, 97.5])),
        "BCa bootstrap": _pair(value + np.percentile(moved, _bca(influence, moved))),
        "studentised bootstrap": _pair(value - error * studentised),
        "empirical Bernstein": (float(value - bernstein), float(value + bernstein)),
    }


def _bca(influence: Floats, moved: Floats) -> list[float]:
    """Percentages between which resampled means lie (Efron, JASA 1987)."""
    normal = NormalDist()
    share = float((moved < 0).mean() + 0.5 * (moved == 0).mean())
    shift = normal.inv_cdf(min(max(share, 1e-4), 1.0 - 1e-4))
    acceleration = float((influence**3).sum() / (6.0 * (influence**2).sum() ** 1.5))
    ends = (shift - ope.Z95, shift + ope.Z95)
    return [100.0 * normal.cdf(shift + end / max(1.0 - acceleration * end, 1e-9)) for end in ends]


def _pair(ends: Floats) -> tuple[float, float]:
    return float(ends[0]), float(ends[1])


# --- the table ----------------------------------------------------------------------------------------------------


@dataclass
class Score:
    """What came of one kind of estimate or interval over all seeds."""

    seeds: int = 0
    covered: int = 0
    above: int = 0
    """Seeds whose whole interval lay above the truth: the promise that was broken when the lower end decides."""
    width: float = 0.0
    squares: float = 0.0

    def add(self, value: float, low: float, high: float, truth: float) -> None:
        self.seeds += 1
        self.plan_recall += low <= truth <= high
        self.above += low > truth
        self.width += high - low
        self.squares += (value - truth) ** 2

    @property
    def coverage(self) -> float:
        return self.plan_recall / self.seeds

    @property
    def rmse(self) -> float:
        return float((self.squares / self.seeds) ** 0.5)

    def __str__(self) -> str:
        return (
            f"coverage {self.coverage:6.1%}   too high {self.above / self.seeds:5.1%}"
            f"   width {self.width / self.seeds:.4f}   RMSE {self.rmse:.5f}"
        )


def score(world: World, names: Iterable[str], n: int, seeds: int) -> dict[tuple[str, str], Score]:
    """Scores per (target, estimate); each seed is one log of n decisions, from which all targets are valued."""
    names = list(names)
    scores: dict[tuple[str, str], Score] = {}
    for log in logs(world, n, seeds):
        valued = estimators(world, [world.targets[name] for name in names], *log)
        for name, found in zip(names, valued, strict=True):
            for kind, (estimator, truth) in found.items():
                interval = estimator.interval()
                one = scores.setdefault((name, kind), Score())
                one.add(interval.value, interval.low, interval.high, truth)
    return scores


def score_intervals(world: World, name: str, n: int, seeds: int, resamples: int) -> dict[str, Score]:
    """Scores of the intervals that were compared, for one target's SNIPS difference from the logging policy."""
    scores: dict[str, Score] = {}
    target = world.targets[name]
    for seed, (context, action, rewards) in enumerate(logs(world, n, seeds)):
        weights = ope.product(world.arms[context, action], target.arms[context, action])
        estimator = ope.snips(rewards, weights).minus(ope.on_policy(rewards))
        for method, (low, high) in compared(estimator, resamples, seed).items():
            scores.setdefault(method, Score()).add(estimator.value, low, high, target.value - world.value)
    return scores


def logs(world: World, n: int, seeds: int) -> Iterator[tuple[Ints, Ints, Floats]]:
    return (world.log(n, seed) for seed in range(seeds))


def main(say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="logs (default 1000)")
    parser.add_argument("--decisions", type=int, default=5000, help="per log (default 5000)")
    parser.add_argument("--exploration", type=float, default=0.1, help="per arm (default 0.1)")
    parser.add_argument("--resamples", type=int, default=400, help="of the bootstraps that are compared (default 400)")
    parser.add_argument("--world", type=int, default=7, help="seed of the world (default 7)")
    asked = parser.parse_args()
    begun = time.monotonic()
    world = World(asked.exploration, asked.world)
    rate = float((world.chances * world.clicked).sum(axis=1).mean())
    say(f"{asked.seeds} logs of {asked.decisions} decisions, exploration {asked.exploration:.0%} per arm;")
    say(f"clicked {rate:.1%}; value of the logging policy {world.value:.5f}")
    scores = score(world, TARGETS, asked.decisions, asked.seeds)
    for name, target in world.targets.items():
        say(f"\n{name}: value {target.value:.5f}, expected effective sample {asked.decisions / target.moment:.0f}")
        for (of, kind), one in scores.items():
            if of == name:
                say(f"  {kind:22}{one}")
    name = "the static mix"
    say(f"\nother intervals, SNIPS difference, {name}:")
    for method, one in score_intervals(world, name, asked.decisions, asked.seeds, asked.resamples).items():
        say(f"  {method:22}{one}")
    say(f"\n{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
