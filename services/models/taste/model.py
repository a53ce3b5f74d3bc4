"""Taste encoder: unit vectors of items and users from users' histories and from item quality. Serving only.

An item's vector holds its factors of the matrix users x items (PureSVD: Cremonesi, Koren & Turrin, "Performance of
recommender algorithms on top-n recommendation tasks", RecSys 2010), its quality, and one more number that makes all
lengths 1, so that the cosine with a user's vector orders items as the inner product does, popular items first (Bachrach
et al., "Speeding up the Xbox recommender system using a Euclidean transformation for inner-product spaces", RecSys
2014), and any cosine index can serve it. Items in no history only have their quality.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from services.errors import ModelInvalid
from services.schema.priors import quality
from services.types import Document, Schema

RANK = 16
QUALITY_WEIGHT = 0.05
"""Weight of an item's quality (0..1) relative to the inner product with a user of unit length; factors are at most 1
long. Tuned on the validation split of the personal film queries, as RANK was; results barely change near these
values."""

_FORMAT = 1
_ARRAYS = "arrays.npz"
_ITEMS = "items.json"


class TasteEncoder:
    """Item and user vectors with `size` numbers: RANK factors, the quality, and the one that makes lengths equal."""

    size = RANK + 2

    def __init__(self, object_ids: Sequence[str], factors: NDArray[np.float32]) -> None:
        """`factors` float32 [len(object_ids), RANK], no row longer than 1. Raises ModelInvalid otherwise."""
        if factors.shape != (len(object_ids), RANK) or not np.isfinite(factors).all():
            raise ModelInvalid("taste: factors do not fit the items")
        if len(factors) and float(np.linalg.norm(factors, axis=1).max()) > 1.001:
            raise ModelInvalid("taste: factors longer than 1")
        self._rows = {object_id: row for row, object_id in enumerate(object_ids)}
        self._factors = factors.astype(np.float32)
        digest = sha256()
        for content in self.to_files().values():
            digest.update(content)
        self.version = f"taste-{digest.hexdigest()[:12]}"

    @classmethod
    def untrained(cls) -> TasteEncoder:
        """An encoder without items: it orders by quality alone."""
        return cls((), np.zeros((0, RANK), np.float32))

    def encode_documents(self, documents: Sequence[Document], schema: Schema) -> NDArray[np.float32]:
        """float32 [len(documents), size], rows of unit length."""
        vectors = np.zeros((len(documents), self.size), np.float32)
        for number, document in enumerate(documents):
            row = self._rows.get(document["id"])
            if row is not None:
                vectors[number, :RANK] = self._factors[row]
            vectors[number, RANK] = quality(schema, document)
        # Factors and quality are each at most 1 long, together at most the square root of 2.
        vectors /= np.sqrt(2.0)
        vectors[:, -1] = np.sqrt(np.clip(1.0 - np.square(vectors).sum(axis=1), 0.0, 1.0))
        return vectors

    def user_vector(self, liked: NDArray[np.float32]) -> NDArray[np.float32]:
        """The query vector of a user, float32 [size], from `liked`, the weighted sum of their items' vectors,
        [size]."""
        length = float(np.linalg.norm(liked[:RANK]))
        vector = np.zeros(self.size, np.float32)
        if length > 0.0:
            vector[:RANK] = liked[:RANK] / length
        vector[RANK] = QUALITY_WEIGHT
        return vector

    def to_files(self) -> dict[str, bytes]:
        """File name -> contents, for the model store; no pickle."""
        arrays = io.BytesIO()
        np.savez(arrays, factors=self._factors)
        content = {"format": _FORMAT, "items": list(self._rows)}
        return {_ARRAYS: arrays.getvalue(), _ITEMS: json.dumps(content, ensure_ascii=False).encode("utf-8")}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> TasteEncoder:
        """Raises ModelInvalid when the files are damaged or of another format."""
        try:
            content = json.loads(files[_ITEMS])
            if content["format"] != _FORMAT:
                raise ModelInvalid(f"taste: format {content['format']}, not {_FORMAT}")
            with np.load(io.BytesIO(files[_ARRAYS]), allow_pickle=False) as arrays:
                return cls(content["items"], arrays["factors"])
        except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ModelInvalid(f"taste: {type(error).__name__}: {error}") from error
