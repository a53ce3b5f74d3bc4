"""Second tries stay a small share of the calls."""

from __future__ import annotations

from services.resilience.retries import MAX_SAVED_RETRIES, SECONDS_PER_RETRY, RetryBudget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tries(budget: RetryBudget, calls: int, clock: Clock, rate: float) -> int:
    """Second tries in `calls` that all fail, `rate` of them a second."""
    second = 0
    for _ in range(calls):
        clock.now += 1.0 / rate
        budget.record_call()
        second += budget.spend()
    return second


def test_when_everything_fails_a_tenth_more_is_asked() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    assert 600 <= tries(budget, 6000, clock, 100.0) <= 600 + 60 / SECONDS_PER_RETRY + 1


def test_rare_calls_have_a_second_try_too() -> None:
    clock = Clock()
    assert tries(RetryBudget(clock), 20, clock, 1.0 / SECONDS_PER_RETRY) == 20


def test_a_long_healthy_time_saves_up_no_storm() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    for _ in range(100_000):
        budget.record_call()
    clock.now += 1e6
    assert sum(budget.spend() for _ in range(1000)) == MAX_SAVED_RETRIES


def test_a_new_budget_has_one() -> None:
    budget = RetryBudget(Clock())
    assert [budget.spend() for _ in range(3)] == [True, False, False]
