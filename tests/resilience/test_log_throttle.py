"""Log lines about frequent events are throttled."""

from __future__ import annotations

from services.resilience.log_throttle import INTERVAL_SECONDS, MAX_SUBJECTS, LogThrottle


def test_each_subject_is_logged_once_within_its_time() -> None:
    now = [0.0]
    throttle = LogThrottle(clock=lambda: now[0])
    assert throttle.allow("memory", "Crash")
    assert not throttle.allow("memory", "Crash")
    assert throttle.allow("memory", "Other")
    now[0] += INTERVAL_SECONDS
    assert throttle.allow("memory", "Crash")


def test_it_remembers_no_more_than_so_many_subjects() -> None:
    throttle = LogThrottle(clock=lambda: 0.0)
    for number in range(10 * MAX_SUBJECTS):
        assert throttle.allow(str(number))
    assert len(throttle._logged) <= MAX_SUBJECTS
