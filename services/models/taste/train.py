"""Training of the taste encoder on users' histories."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from services.errors import ModelInvalid
from services.models.taste.model import RANK, TasteEncoder

SEED = 20261120
_DAMPING = 0.5
"""A user's row is divided by its length to this power: users with long histories count for more, but less than in
proportion."""


def train(history: Iterable[tuple[str, str, float]], seed: int = SEED) -> TasteEncoder:
    """An encoder trained on `history`: (user, object id, weight of the action, negative for dislikes). Of several
    actions of a user on an item the strongest counts. Raises ModelInvalid with fewer than two users or items."""
    strongest: dict[tuple[str, str], float] = {}
    for user, object_id, weight in history:
        known = strongest.get((user, object_id), 0.0)
        if abs(weight) > abs(known):
            strongest[user, object_id] = weight
    users = {user: row for row, user in enumerate(sorted({user for user, _ in strongest}))}
    items = {item: column for column, item in enumerate(sorted({item for _, item in strongest}))}
    if min(len(users), len(items)) < 2:
        raise ModelInvalid("taste: at least two users and two items with a history are needed")
    rows = [users[user] for user, _ in strongest]
    columns = [items[item] for _, item in strongest]
    shape = (len(users), len(items))
    matrix = sparse.csr_matrix((np.fromiter(strongest.values(), np.float64), (rows, columns)), shape=shape)
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    matrix = sparse.diags(lengths**-_DAMPING) @ matrix
    factors = np.zeros((len(items), RANK), np.float32)
    rank = min(RANK, min(shape) - 1)
    _, _, right = svds(matrix, k=rank, rng=np.random.default_rng(seed))
    factors[:, :rank] = right.T
    return TasteEncoder(list(items), factors / np.linalg.norm(factors, axis=1).max())
