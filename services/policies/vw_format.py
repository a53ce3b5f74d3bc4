"""Policy features as lines of Vowpal Wabbit's text format.

The format gives meaning to space, tab, newline, `|`, `:` and the first characters of a line. Names are therefore
written in an alphabet without them: ASCII letters, digits, `_`, `.`, `-` and `=` stand for themselves, every other
character for the `%XX` of its UTF-8 bytes, so that different names stay different and no name can add a feature, a
namespace or an action.

Namespaces: `s` the context, `t` the arm, `a` the count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

MAX_FEATURES = 256
"""Parsing and predicting hold the interpreter; this keeps one decision far below a millisecond."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.=-]")


@lru_cache(maxsize=4096)
def escaped(name: str) -> str:
    """`name` in the safe alphabet; equal only for equal names."""
    return _UNSAFE.sub(_percent, name)


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def context_line(features: Mapping[str, float]) -> str:
    """The part of an example that all arms and counts share. The order of `features` does not matter; zeros are left
    out.

    Raises ValueError for a value that is not finite and for more than MAX_FEATURES features.
    """
    if len(features) > MAX_FEATURES:
        raise ValueError(f"{len(features)} features; at most {MAX_FEATURES}")
    if not all(map(math.isfinite, features.values())):
        raise ValueError("a feature that is not a finite number")
    written = " ".join(f"{escaped(name)}:{value:.6g}" for name, value in sorted(features.items()) if value != 0.0)
    return f"shared |s {written}"


def action_line(arm: str, count: int) -> str:
    """One count of one arm."""
    return f"|t {escaped(arm)} |a c{count:d}"


def labelled_line(arm: str, count: int, cost: float) -> str:
    """One count of one arm with the cost it turned out to have.

    The label's probability is always 1, which makes learning a plain regression on the chosen count; it learned better
    than dividing by the true propensity, which is logged for off-policy estimates instead. Raises ValueError for a cost
    that is not finite (it would turn all later predictions into NaN).
    """
    if not math.isfinite(cost):
        raise ValueError("a cost that is not a finite number")
    return f"0:{cost:.9g}:1 {action_line(arm, count)}"
