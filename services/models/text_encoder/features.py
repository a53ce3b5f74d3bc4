"""Features of text encoders: stems of words, and a sketch of the character trigrams of a title.

The sketch is a sparse Johnson-Lindenstrauss projection in blocks (Kane & Nelson, "Sparser Johnson-Lindenstrauss
Transforms", JACM 2014): every trigram adds +-1 to one cell of each block, chosen by hash. Inner products of sketches
approximate those of the trigram vectors, so a typo moves a title only a little, and no vocabulary is needed: the titles
of new items are found as well as those of old ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from services.schema.values import values
from services.text import tokenize
from services.types import Document, Role, Schema
from services.understanding.language import stem

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]

_BLOCKS = 4
_KEYWORD_WEIGHT = 0.5
"""Weight of a KEYWORD field relative to a TEXT field; tuned on the film queries' validation split."""


def words(text: str) -> list[str]:
    """Stems of the word tokens, in order."""
    return [stem(token) for token in tokenize(text)]


def trigrams(text: str) -> list[str]:
    """Character trigrams of each word token with a space on both sides: "up" -> " up", "up "."""
    return [padded[i : i + 3] for token in tokenize(text) for padded in (f" {token} ",) for i in range(len(padded) - 2)]


def title_of(document: Document, schema: Schema) -> str:
    """The item's title; all its TEXT and KEYWORD values where the catalogue has no title field."""
    fields = [f for f in schema.fields if f.name == schema.title] or schema.of(Role.TEXT, Role.KEYWORD)
    return " ".join(str(value) for field in fields for value in values(document, field))


def word_weights(document: Document, schema: Schema) -> dict[str, float]:
    """Stem -> weight in the item: field weight * (1 + ln(count)), summed over its TEXT and KEYWORD fields."""
    total: dict[str, float] = {}
    for field in schema.of(Role.TEXT, Role.KEYWORD):
        # Weights above 1 are for exact matches (the title has its own sketch here); weights below 1 mark fields of
        # little meaning.
        weight = min(field.weight, 1.0) * (_KEYWORD_WEIGHT if field.role is Role.KEYWORD else 1.0)
        counts = Counter(word for value in values(document, field) for word in words(str(value)))
        for word, count in counts.items():
            total[word] = total.get(word, 0.0) + weight * (1.0 + math.log(count))
    return total


def sketch(features: Iterable[tuple[str, float]], size: int) -> Vector:
    """float32 [size]: the weighted sum of the features' signed cells, not normalised. `size`: a multiple of 4."""
    vector = np.zeros(size, np.float32)
    for feature, weight in features:
        for cell, sign in _cells(feature, size):
            vector[cell] += sign * weight
    return vector


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (or the one vector) scaled to unit length; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0.0, norms, 1.0), np.float32)


def weighted_trigrams(text: str, idf: Mapping[str, float]) -> list[tuple[str, float]]:
    """(trigram, (1 + ln(count)) * its inverse document frequency, 1 when it has none)."""
    return [(gram, (1.0 + math.log(count)) * idf.get(gram, 1.0)) for gram, count in Counter(trigrams(text)).items()]


@lru_cache(maxsize=65536)
def _cells(feature: str, size: int) -> tuple[tuple[int, float], ...]:
    """A cell and a sign per block, by a hash that is the same on every machine."""
    digest = blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=4 * _BLOCKS).digest()
    block = size // _BLOCKS
    cells = []
    for number in range(_BLOCKS):
        bits = int.from_bytes(digest[4 * number : 4 * number + 4], "little")
        cells.append((number * block + (bits >> 1) % block, 1.0 if bits & 1 else -1.0))
    return tuple(cells)
