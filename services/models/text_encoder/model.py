"""Text encoders: unit vectors whose cosine is the similarity of two texts. Serving only: numpy, no training.

A vector has two blocks: the title block, a sketch of the title's trigrams that finds misspelt names too, and the topic
block, latent semantic analysis or, before any training, hashed words. Both weigh the same in an item; in a query they
are weighted by TITLE_SHARE.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Protocol

import numpy as np

from services.errors import ModelInvalid
from services.models.text_encoder.features import (
    Matrix,
    Vector,
    sketch,
    title_of,
    unit,
    weighted_trigrams,
    word_weights,
    words,
)
from services.types import Document, Schema
from services.understanding.language import ENGLISH_STOPWORDS

TITLE_SIZE = 256
TOPIC_SIZE = 256
TITLE_SHARE = 0.4
"""Weight of a query's title block; the topic block has the rest. Tuned on the film queries' validation split (0.35 to
0.7 tried)."""

_FORMAT = 1
_ARRAYS = "arrays.npz"
_WORDS = "words.json"


class TextEncoder(Protocol):
    """Contract (tests/models/test_text_encoder.py): vectors are finite and of unit length, zero for text without
    known words; equal texts have equal vectors."""

    @property
    def version(self) -> str:
        """Version of the vectors; only vectors of the same version can be compared."""
        ...

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        ...

    @property
    def instant(self) -> bool:
        """Whether `encode_query` is fast enough (well below a millisecond) to run on the event loop."""
        ...

    def encode_query(self, text: str) -> Vector:
        """The vector of a query, float32 [size]."""
        ...

    def encode_documents(self, documents: Sequence[Document], schema: Schema) -> Matrix:
        """The vectors of documents, float32 [len(documents), size]. Blocks for long: call it off the event loop."""
        ...


class HashingEncoder:
    """Encoder that needs no training: hashed words beside the title's sketch, so that vectors exist from the start."""

    version = f"hashing-{_FORMAT}"
    size = TITLE_SIZE + TOPIC_SIZE
    instant = True

    def encode_query(self, text: str) -> Vector:
        """float32 [size], as TextEncoder.encode_query."""
        title = sketch(weighted_trigrams(text, {}), TITLE_SIZE)
        topic = sketch(((word, 1.0) for word in words(text) if word not in ENGLISH_STOPWORDS), TOPIC_SIZE)
        return _query_vector(title, topic)

    def encode_documents(self, documents: Sequence[Document], schema: Schema) -> Matrix:
        """float32 [len(documents), size], as TextEncoder.encode_documents."""
        titles, topics = _zeros(len(documents))
        for row, document in enumerate(documents):
            titles[row] = sketch(weighted_trigrams(title_of(document, schema), {}), TITLE_SIZE)
            weights = word_weights(document, schema).items()
            topics[row] = sketch(((word, w) for word, w in weights if word not in ENGLISH_STOPWORDS), TOPIC_SIZE)
        return _item_vectors(titles, topics)


class LsaEncoder:
    """Encoder by latent semantic analysis (Deerwester et al., JASIS 1990) of the catalogue, beside the title's
    sketch."""

    size = TITLE_SIZE + TOPIC_SIZE
    instant = True

    def __init__(self, vocabulary: Sequence[str], components: Matrix, trigram_idf: Mapping[str, float]) -> None:
        """`components` float32 [len(vocabulary), TOPIC_SIZE]: each word's inverse document frequency times its right
        singular vectors. `trigram_idf`: trigram of the titles -> inverse document frequency; unseen ones, which
        may be typos, get the smallest, 1."""
        if components.shape != (len(vocabulary), TOPIC_SIZE) or not np.isfinite(components).all():
            raise ModelInvalid("text encoder: components do not fit the vocabulary")
        self._rows = {word: row for row, word in enumerate(vocabulary)}
        # Stored in half precision; rounding here makes a new model equal to a loaded one.
        self._components = components.astype(np.float16).astype(np.float32)
        self._idf = {gram: float(np.float32(value)) for gram, value in trigram_idf.items()}
        digest = sha256()
        for content in self.to_files().values():
            digest.update(content)
        self.version = f"lsa-{digest.hexdigest()[:12]}"

    def encode_query(self, text: str) -> Vector:
        """float32 [size], as TextEncoder.encode_query; words outside the vocabulary only count in the title block."""
        counts: dict[int, int] = {}
        for word in words(text):
            row = self._rows.get(word)
            if row is not None:
                counts[row] = counts.get(row, 0) + 1
        topic = np.zeros(TOPIC_SIZE, np.float32)
        for row, count in counts.items():
            topic += (1.0 + math.log(count)) * self._components[row]
        return _query_vector(sketch(weighted_trigrams(text, self._idf), TITLE_SIZE), topic)

    def encode_documents(self, documents: Sequence[Document], schema: Schema) -> Matrix:
        """float32 [len(documents), size], as TextEncoder.encode_documents."""
        # Imported here: scipy is slow to import, and most processes never get to this.
        from scipy import sparse

        titles, _ = _zeros(len(documents))
        places: list[int] = [0]
        rows: list[int] = []
        weights: list[float] = []
        for number, document in enumerate(documents):
            trigrams = weighted_trigrams(title_of(document, schema), self._idf)
            titles[number] = sketch(trigrams, TITLE_SIZE)
            for word, weight in word_weights(document, schema).items():
                row = self._rows.get(word)
                if row is not None:
                    rows.append(row)
                    weights.append(weight)
            places.append(len(rows))
        shape = (len(documents), len(self._rows))
        about = sparse.csr_matrix((np.asarray(weights, np.float32), rows, places), shape=shape)
        return _item_vectors(titles, np.asarray(about @ self._components, np.float32))

    def to_files(self) -> dict[str, bytes]:
        """File name -> contents, for the model store; no pickle."""
        arrays = io.BytesIO()
        grams = list(self._idf)
        idf = np.asarray([self._idf[gram] for gram in grams], np.float32)
        np.savez(arrays, components=self._components.astype(np.float16), trigram_idf=idf)
        content = {"format": _FORMAT, "words": list(self._rows), "trigrams": grams}
        return {_ARRAYS: arrays.getvalue(), _WORDS: json.dumps(content, ensure_ascii=False).encode("utf-8")}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> LsaEncoder:
        """Raises ModelInvalid when the files are damaged or of another format."""
        try:
            content = json.loads(files[_WORDS])
            if content["format"] != _FORMAT:
                raise ModelInvalid(f"text encoder: format {content['format']}, not {_FORMAT}")
            with np.load(io.BytesIO(files[_ARRAYS]), allow_pickle=False) as arrays:
                components = arrays["components"].astype(np.float32)
                idf = dict(zip(content["trigrams"], arrays["trigram_idf"].tolist(), strict=True))
            return cls(content["words"], components, idf)
        except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ModelInvalid(f"text encoder: {type(error).__name__}: {error}") from error


def _zeros(items: int) -> tuple[Matrix, Matrix]:
    return np.zeros((items, TITLE_SIZE), np.float32), np.zeros((items, TOPIC_SIZE), np.float32)


def _query_vector(title: Vector, topic: Vector) -> Vector:
    return unit(np.concatenate([TITLE_SHARE * unit(title), (1.0 - TITLE_SHARE) * unit(topic)]))


def _item_vectors(titles: Matrix, topics: Matrix) -> Matrix:
    return unit(np.concatenate([unit(titles), unit(topics)], axis=1))
