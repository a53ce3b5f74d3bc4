"""Training of the catalogue's own text encoder by latent semantic analysis. Seconds for 10,000 items on one core."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import linalg, sparse

from services.errors import ModelInvalid
from services.models.text_encoder.features import Matrix, title_of, trigrams, word_weights
from services.models.text_encoder.model import TOPIC_SIZE, LsaEncoder
from services.types import Document, Schema

SEED = 20261120
_MAX_ITEMS = 50_000
"""Items to train on; a larger catalogue is sampled."""
_MAX_WORDS = 50_000
_MIN_FREQUENCY = 2
"""Items a word must occur in; a word of a single item relates it to no other."""
_MAX_FREQUENCY_SHARE = 0.3
"""Words in more than this share of the items are ignored."""
_OVERSAMPLING = 16
_ITERATIONS = 3


def train(documents: Sequence[Document], schema: Schema, seed: int = SEED) -> LsaEncoder:
    """An encoder trained on `documents`. Raises ModelInvalid when they have no words in common."""
    rng = np.random.default_rng(seed)
    if len(documents) > _MAX_ITEMS:
        documents = [documents[i] for i in np.sort(rng.choice(len(documents), _MAX_ITEMS, replace=False))]
    weights = [word_weights(document, schema) for document in documents]
    items = len(documents)
    frequency = Counter(word for weighted in weights for word in weighted)
    # In a small catalogue, the share of a few items is already large.
    limit = max(_MAX_FREQUENCY_SHARE * items, 10.0)
    vocabulary = sorted(word for word, count in frequency.items() if _MIN_FREQUENCY <= count <= limit)
    if len(vocabulary) > _MAX_WORDS:
        vocabulary = sorted(sorted(vocabulary, key=lambda word: (-frequency[word], word))[:_MAX_WORDS])
    if not vocabulary:
        raise ModelInvalid("text encoder: the catalogue's items share no words to learn from")
    idf = np.asarray([_idf(items, frequency[word]) for word in vocabulary], np.float32)
    right = _right_singular_vectors(_matrix(weights, vocabulary, idf), TOPIC_SIZE, rng)
    grams = Counter(gram for document in documents for gram in set(trigrams(title_of(document, schema))))
    return LsaEncoder(vocabulary, idf[:, None] * right, {g: _idf(items, grams[g]) for g in sorted(grams)})


def _idf(items: int, frequency: int) -> float:
    return math.log((1 + items) / (1 + frequency)) + 1.0


def _matrix(weights: Sequence[dict[str, float]], vocabulary: Sequence[str], idf: Matrix) -> sparse.csr_matrix:
    """Items x words, rows of unit length, so that long descriptions do not dominate the decomposition."""
    rows = {word: row for row, word in enumerate(vocabulary)}
    places, columns, data = [0], [], []
    for weighted in weights:
        for word, weight in weighted.items():
            column = rows.get(word)
            if column is not None:
                columns.append(column)
                data.append(weight * idf[column])
        places.append(len(columns))
    matrix = sparse.csr_matrix((np.asarray(data, np.float32), columns, places), shape=(len(weights), len(vocabulary)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1.0 / np.where(norms > 0.0, norms, 1.0)).astype(np.float32) @ matrix)


def _right_singular_vectors(matrix: sparse.csr_matrix, size: int, rng: np.random.Generator) -> Matrix:
    """float32 [words, size] by randomised subspace iteration (Halko, Martinsson & Tropp, SIAM Review 2011, alg. 4.4);
    columns beyond the matrix's rank are zero."""
    width = min(size + _OVERSAMPLING, *matrix.shape)
    basis = matrix @ rng.standard_normal((matrix.shape[1], width), dtype=np.float32)
    for _ in range(_ITERATIONS):
        basis = matrix @ (matrix.T @ linalg.qr(basis, mode="economic")[0])
    basis = linalg.qr(basis, mode="economic")[0]
    _, singular, right = linalg.svd((matrix.T @ basis).T, full_matrices=False)
    kept = min(size, int((singular > 1e-5 * singular[0]).sum()))
    padded = np.zeros((matrix.shape[1], size), np.float32)
    padded[:, :kept] = right[:kept].T
    return padded
