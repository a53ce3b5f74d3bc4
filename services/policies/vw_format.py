"""Policy features as lines of Vowpal Wabbit's text format.

The format gives meaning to space, tab, newline, `|`, `:` and the first characters of a line. Names are therefore
written in an alphabet without them: ASCII letters, digits, `_`, `.`, `-` and `=` stand for themselves, every other
character for the `%XX` of its UTF-8 bytes, so that different names stay different and no name can add a feature or
a namespace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

MAX_FEATURES = 256
"""Parsing and predicting hold the interpreter lock; this keeps one decision far below a millisecond."""

SMALLEST = 1e-6
LIMIT = 1e3
"""Larger features are clipped to this size: they are meant to be within 0..1, and one outlier must not
drown out the others."""

_EMPTY = "%"  # no other name is written so: a `%` of its own becomes `%25`
_UNSAFE = re.compile(r"[^A-Za-z0-9_.=-]")


@lru_cache(maxsize=4096)
def escaped(name: str) -> str:
    """`name` in the safe alphabet; different names stay different."""
    return _UNSAFE.sub(_percent, name) or _EMPTY


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogatepass"))


def context_line(features: Mapping[str, float]) -> str:
    """An example without its label; the order of `features` does not matter.

    Values have six places and no exponent: the library reads some tiny numbers ("2e-184") as NaN. Those that round to
    0 are left out. Raises ValueError for a value that is not finite and for more than MAX_FEATURES features.
    """
    if len(features) > MAX_FEATURES:
        raise ValueError(f"{len(features)} features; at most {MAX_FEATURES}")
    if not all(map(math.isfinite, features.values())):
        raise ValueError("a feature that is not a finite number")
    written = [
        f" {escaped(name)}:{min(max(value, -LIMIT), LIMIT):.6f}"
        for name, value in sorted(features.items())
        if abs(value) >= SMALLEST
    ]
    return "|s" + "".join(written)
