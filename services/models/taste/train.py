"""Learn from people's histories which items are liked together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from services.errors import ModelInvalid
from services.models.taste.model import RANK, TasteEncoder

SEED = 20261120
_DAMPING = 0.5
"""A person's row is divided by its length to this power: people with long histories count for more, but not as much as
their histories are long."""


def train(history: Iterable[tuple[str, str, float]], seed: int = SEED) -> TasteEncoder:
    """`history`: (person, object_id, weight of the action; negative for dislikes). Of several actions of a person on an
    item the strongest counts. Raises ModelInvalid when fewer than two people or items are in it."""
    strongest: dict[tuple[str, str], float] = {}
    for person, object_id, weight in history:
        known = strongest.get((person, object_id), 0.0)
        if abs(weight) > abs(known):
            strongest[person, object_id] = weight
    people = {person: row for row, person in enumerate(sorted({person for person, _ in strongest}))}
    items = {item: column for column, item in enumerate(sorted({item for _, item in strongest}))}
    if min(len(people), len(items)) < 2:
        raise ModelInvalid("taste: at least two people and two items with a history are needed")
    rows = [people[person] for person, _ in strongest]
    columns = [items[item] for _, item in strongest]
    shape = (len(people), len(items))
    matrix = sparse.csr_matrix((np.fromiter(strongest.values(), np.float64), (rows, columns)), shape=shape)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = sparse.diags(lengths**-_DAMPING) @ matrix
    factors = np.zeros((len(items), RANK), np.float32)
    rank = min(RANK, min(shape) - 1)
    _, _, right = svds(matrix, k=rank, rng=np.random.default_rng(seed))
    factors[:, :rank] = right.T
    return TasteEncoder(list(items), factors / np.linalg.norm(factors, axis=1).max())
