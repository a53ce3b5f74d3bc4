"""The functions that a search is composed of; a simulation replaces some of them. The defaults are those used in
serving."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.policies.features import features
from services.rankers.base import Rows
from services.rankers.features import rows
from services.rankers.fusion import fuse
from services.search.slate import Entry, slate
from services.types import ArmOption, Candidate, Context, Document, Hit, Pooled, Schema, Understanding

Featurize = Callable[[Context, Sequence[ArmOption], str | None], dict[str, float]]
"""(context, options, name of the title field) -> features by name, as services.policies.features.features."""
Fuse = Callable[[Mapping[str, Sequence[Candidate]], Mapping[str, float]], list[Pooled]]
"""(lists by arm, weights by arm) -> pool, as services.rankers.fusion.fuse."""
BuildRows = Callable[[Context, Sequence[Pooled], Mapping[str, Document], Schema], Rows]
"""(context, pool, documents by id, schema) -> one row per pool entry, as services.rankers.features.rows."""
BuildHits = Callable[[Sequence[Entry], Mapping[str, Document], int, Understanding, Schema], tuple[Hit, ...]]
"""(entries, documents by id, offset, understanding, schema) -> hits, as services.search.slate.slate."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Replaceable functions of one search, in the order they run."""

    draw_seed: Callable[[], int] = lambda: secrets.randbits(63)
    """The seed of a decision."""
    featurize: Featurize = features
    """Features of a request for the policy."""
    fuse: Fuse = fuse
    """The arms' lists as one pool."""
    build_rows: BuildRows = rows
    """Feature rows of a pool for the ranker."""
    build_hits: BuildHits = slate
    """The page as shown."""
