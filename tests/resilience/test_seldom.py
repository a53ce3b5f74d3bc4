"""What may happen at every request is said now and then."""

from __future__ import annotations

from services.resilience.log_throttle import MOST, SECONDS, Seldom


def test_each_thing_is_said_once_within_its_time() -> None:
    now = [0.0]
    seldom = Seldom(clock=lambda: now[0])
    assert seldom.due("memory", "Crash")
    assert not seldom.due("memory", "Crash")
    assert seldom.due("memory", "Other")
    now[0] += SECONDS
    assert seldom.due("memory", "Crash")


def test_it_remembers_no_more_than_so_many_things() -> None:
    seldom = Seldom(clock=lambda: 0.0)
    for number in range(10 * MOST):
        assert seldom.due(str(number))
    assert len(seldom._said) <= MOST
