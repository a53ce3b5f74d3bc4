"""Names of parametrised tests that are the same in every process, as pytest-xdist needs them."""

from __future__ import annotations

import re


def stable_repr(value: object) -> str:
    """`repr`, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
