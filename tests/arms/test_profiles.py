"""Profiles of arms: what every other list of arms follows from."""

from __future__ import annotations

import re

from app.http.pages.assets import STATIC, arm_styles
from services.arm_profiles import ARM_PROFILES, by_number
from services.arms.registry import CONSTRUCTORS
from services.policies.extension import FIRST_ARMS as FIRST_KNOWN_ARMS
from services.rankers.features import FIRST_ARMS, NAMES

FIRST = ("lexical", "structured", "vector", "memory", "personal", "explore")
"""The arms that were there when snapshots and logged rows did not say which."""


def test_every_arm_has_a_profile_and_a_constructor() -> None:
    names = [profile.name for profile in ARM_PROFILES]
    assert len(set(names)) == len(names)
    assert set(CONSTRUCTORS) == set(names)


def test_names_are_safe_as_metric_labels_features_and_css() -> None:
    variables = set(re.findall(r"--([a-z-]+):", (STATIC / "base.css").read_text()))
    for profile in ARM_PROFILES:
        assert re.fullmatch("[a-z][a-z_]*", profile.name)
        assert profile.name not in variables | {"arm"}
        assert all(re.fullmatch("#[0-9a-f]{3,6}", colour) for colour in profile.colours)


def test_numbers_count_up_and_those_of_the_first_arms_never_change() -> None:
    """Logged rows have no names: their columns are found by place."""
    assert [profile.number for profile in by_number()] == list(range(1, len(ARM_PROFILES) + 1))
    assert tuple(profile.name for profile in by_number())[:FIRST_ARMS] == FIRST
    assert set(FIRST_KNOWN_ARMS.names) == set(FIRST)
    assert NAMES[: 4 * FIRST_ARMS : 4] == tuple(f"{arm}_scaled" for arm in FIRST)
    assert NAMES[4 * FIRST_ARMS] == "arms"


def test_weights_and_counts_make_sense() -> None:
    for profile in ARM_PROFILES:
        assert profile.fusion_weight >= 0.0
        assert profile.static_count >= 0


def test_styles_have_a_colour_for_every_arm() -> None:
    styles = arm_styles()
    for profile in ARM_PROFILES:
        light, dark = profile.colours
        assert f"  --{profile.name}: light-dark({light}, {dark});" in styles
        assert f".of-{profile.name} {{ --arm: var(--{profile.name}); }}" in styles
