"""The circuit breaker by a clock that the tests turn."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.resilience.circuit import (
    MAX_PROBE_SUCCESSES,
    MIN_CALLS,
    PROBE_SECONDS,
    PROBE_SUCCESSES,
    STEADY_SECONDS,
    WINDOW_SECONDS,
    Circuit,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(clock)


def call(circuit: Circuit, succeeded: bool) -> bool:
    """Whether the call went through."""
    token = circuit.admit()
    if token is None:
        return False
    circuit.settle(token, succeeded)
    return True


def opened(circuit: Circuit) -> Circuit:
    while circuit.state == "closed":
        call(circuit, False)
    return circuit


def run(circuit: Circuit, clock: Clock, seconds: float, rate: float, outcome: Callable[[], bool]) -> tuple[int, int]:
    """(calls let through, times that the circuit went from closed to open) in `seconds` of `rate` calls a second."""
    through = openings = 0
    for _ in range(int(seconds * rate)):
        clock.now += 1.0 / rate
        before = circuit.state
        through += call(circuit, outcome())
        openings += before == "closed" and circuit.state == "open"
    return through, openings


def close(circuit: Circuit, clock: Clock) -> int:
    """Seconds of probing that succeeds until it closed."""
    for second in range(1, 100):
        clock.now += PROBE_SECONDS
        assert call(circuit, True)
        if circuit.state == "closed":
            return second
    raise AssertionError("never closed")


def test_few_calls_that_all_fail_open_after_five(circuit: Circuit, clock: Clock) -> None:
    for _ in range(4):
        assert call(circuit, False)
        clock.now += 30.0
    assert circuit.state == "closed"
    call(circuit, False)
    assert circuit.state == "open"


def test_something_that_dies_under_load_is_noticed_within_twenty_calls(circuit: Circuit, clock: Clock) -> None:
    run(circuit, clock, WINDOW_SECONDS, 500, lambda: True)
    through, openings = run(circuit, clock, 0.1, 500, lambda: False)
    assert openings == 1
    assert through <= 20


def test_half_of_the_calls_failing_opens_and_a_third_does_not(clock: Clock) -> None:
    """Outcomes in turn, so that chance plays no part: only the share differs."""
    half, third = Circuit(clock), Circuit(clock)
    for number in range(10 * MIN_CALLS):
        clock.now += 0.1
        call(half, number % 2 == 0)
        call(third, number % 3 != 0)
        if number < MIN_CALLS - 2:
            assert half.state == "closed"
    assert half.state != "closed"
    assert third.state == "closed"


def test_failures_by_chance_do_not_open_a_busy_circuit(circuit: Circuit, clock: Clock) -> None:
    rng = random.Random(3)
    _, openings = run(circuit, clock, 100, 200, lambda: rng.random() >= 0.2)
    assert openings == 0


def test_failures_are_forgotten_after_the_window(circuit: Circuit, clock: Clock) -> None:
    for _ in range(4):
        for succeeded in [False, False, False, True, False]:
            call(circuit, succeeded)
        assert circuit.state == "closed"
        clock.now += WINDOW_SECONDS + 1.0
    assert circuit.state == "closed"


def test_open_lets_one_probe_a_second_through(circuit: Circuit, clock: Clock) -> None:
    opened(circuit)
    through, _ = run(circuit, clock, 60, 50, lambda: False)
    assert 58 <= through <= 60


def test_a_probe_that_is_never_settled_blocks_nothing(circuit: Circuit, clock: Clock) -> None:
    opened(circuit)
    for _ in range(5):
        clock.now += PROBE_SECONDS
        assert circuit.admit() is not None
        assert circuit.admit() is None
        assert circuit.state == "half_open"
    assert close(circuit, clock) == PROBE_SUCCESSES


def test_states_on_the_way_back(circuit: Circuit, clock: Clock) -> None:
    assert opened(circuit).state == "open"
    clock.now += PROBE_SECONDS
    assert circuit.state == "open"
    call(circuit, True)
    assert circuit.state == "half_open"
    clock.now += PROBE_SECONDS
    call(circuit, False)
    assert circuit.state == "open"
    assert close(circuit, clock) == PROBE_SUCCESSES, "successes before the failure do not count"


@pytest.mark.parametrize("outcome", [True, False])
def test_outcomes_of_calls_from_before_do_not_count(circuit: Circuit, clock: Clock, outcome: bool) -> None:
    early = [circuit.admit() for _ in range(50)]
    opened(circuit)
    for token in early:
        assert token is not None
        circuit.settle(token, outcome)
    assert circuit.state == "open"
    clock.now += PROBE_SECONDS
    probe = circuit.admit()
    for token in early:
        assert token is not None
        circuit.settle(token, outcome)
    assert probe is not None
    assert circuit.state == "half_open"
    circuit.settle(probe, True)
    assert close(circuit, clock) == PROBE_SUCCESSES - 1


def test_closes_within_ten_seconds_of_recovery_and_does_not_flap(circuit: Circuit, clock: Clock) -> None:
    """Five seconds well, five seconds ill, for ten minutes."""
    start = clock.now
    _, openings = run(circuit, clock, 600, 50, lambda: (clock.now - start) % 10 < 5)
    assert openings <= 2 * 600 / 60
    for _ in range(10):
        opened(circuit)
        assert close(circuit, clock) <= 10
    opened(circuit)
    assert close(circuit, clock) == MAX_PROBE_SUCCESSES


def test_failures_from_before_it_closed_are_forgotten(circuit: Circuit, clock: Clock) -> None:
    for succeeded in [True, False] * MIN_CALLS:
        call(circuit, succeeded)
    assert circuit.state == "open"
    close(circuit, clock)
    call(circuit, False)
    assert circuit.state == "closed"


def test_a_steady_minute_forgives(circuit: Circuit, clock: Clock) -> None:
    for _ in range(3):
        opened(circuit)
        close(circuit, clock)
    clock.now += STEADY_SECONDS
    opened(circuit)
    assert close(circuit, clock) == PROBE_SUCCESSES


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.sampled_from([True, False, None])), max_size=300))
def test_whatever_happens_it_neither_sticks_nor_floods(steps: list[tuple[float, bool | None]]) -> None:
    clock = Clock()
    circuit = Circuit(clock)
    probed = float("-inf")
    for pause, outcome in steps:
        clock.now += pause
        was_closed = circuit.state == "closed"
        token = circuit.admit()
        if token is not None and not was_closed:
            assert clock.now - probed >= PROBE_SECONDS
            probed = clock.now
        if token is not None and outcome is not None:
            circuit.settle(token, outcome)
        if was_closed and circuit.state == "open":
            probed = clock.now
    if circuit.state != "closed":
        clock.now += PROBE_SECONDS
        assert close(circuit, clock) <= MAX_PROBE_SUCCESSES
