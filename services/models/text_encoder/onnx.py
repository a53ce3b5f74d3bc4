"""A sentence encoder from a folder with ONNX files, such as all-MiniLM-L6-v2.

The folder holds config.json (`dim`, `max_seq_len`), tokenizer.json, and model_int8.onnx or model.onnx, whose inputs are
input_ids, attention_mask and token_type_ids and whose output is one unit vector a text. The int8 file is preferred: its
relevance is within .001 of fp32, in a quarter of the time. Needs the extra `encoder`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.errors import ModelInvalid, SettingsInvalid
from services.models.text_encoder.features import Matrix, Vector, title_of, unit
from services.onnx_session import onnx_session
from services.schema.values import values
from services.text import normalize
from services.types import Document, Role, Schema

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MODELS = ("model_int8.onnx", "model.onnx")
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_BATCH = 32
_MAX_CHARS = 1200
"""Characters of an item's text that are encoded; about as many tokens as the model reads."""


class OnnxEncoder:
    """Sentence encoder on the CPU. A text takes milliseconds, so it runs off the event loop."""

    instant = False

    def __init__(self, folder: Path) -> None:
        """Raises SettingsInvalid when the folder does not hold such an encoder or the extra is not installed."""
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            self.size = int(config["dim"])
            model = next((folder / name for name in _MODELS if (folder / name).is_file()), None)
            if model is None:
                raise SettingsInvalid(f"{folder}: has neither {' nor '.join(_MODELS)}")
            self._tokenizer = _tokenizer(folder / "tokenizer.json", int(config["max_seq_len"]))
            content = model.read_bytes()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsInvalid(f"{folder}: not a sentence encoder ({type(error).__name__}: {error})") from error
        self._session = _session(folder, content)
        self.version = f"onnx-{sha256(content).hexdigest()[:12]}"
        if self._encode(["a"]).shape != (1, self.size):
            raise SettingsInvalid(f"{folder}: the model does not give {self.size} numbers a text, as config.json says")

    def encode_query(self, text: str) -> Vector:
        """float32 [size] of unit length; zeros for blank text."""
        if not normalize(text):
            return np.zeros(self.size, np.float32)
        return np.asarray(self._encode([text])[0], np.float32)

    def encode_documents(self, documents: Sequence[Document], schema: Schema) -> Matrix:
        """float32 [len(documents), size], rows of unit length; zeros for items without text."""
        texts = [_text(document, schema) for document in documents]
        vectors = np.zeros((len(texts), self.size), np.float32)
        # Texts of similar length share a batch, which keeps padding short.
        order = sorted((row for row, text in enumerate(texts) if text), key=lambda row: len(texts[row]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            vectors[rows] = self._encode([texts[row] for row in rows])
        return vectors

    def _encode(self, texts: Sequence[str]) -> Matrix:
        # JSON allows a lone surrogate, UTF-8 does not.
        encoded = self._tokenizer.encode_batch([text.encode("utf-8", "replace").decode() for text in texts])
        longest = max(len(one.ids) for one in encoded)
        ids = np.zeros((len(encoded), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = one.ids
            mask[row, : len(one.ids)] = 1
        fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return unit(np.asarray(self._session.run(None, fed)[0], np.float32))


def _text(document: Document, schema: Schema) -> str:
    """The title, then keyword values, then the texts: the most telling parts come before the model's limit."""
    parts = [title_of(document, schema)]
    for role, limit in ((Role.KEYWORD, 5), (Role.TEXT, None)):
        fields = (field for field in schema.of(role) if field.name != schema.title)
        parts += [", ".join(str(value) for value in values(document, field)[:limit]) for field in fields]
    return ". ".join(part for part in parts if part)[:_MAX_CHARS]


def _tokenizer(path: Path, longest: int) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise SettingsInvalid("a sentence encoder needs the extra `encoder`: pip install 'ltrr[encoder]'") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises the bare class for any damage of the file
        raise SettingsInvalid(f"{path}: {error}") from error
    # The file may configure a shorter truncation, and padding, which is slow.
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return tokenizer


def _session(folder: Path, content: bytes) -> Any:
    try:
        session = onnx_session(content)
    except ModelInvalid as error:
        raise SettingsInvalid(f"{folder}: the model {error}") from error
    if {one.name for one in session.get_inputs()} != _INPUTS:
        raise SettingsInvalid(f"{folder}: the model's inputs must be {', '.join(sorted(_INPUTS))}")
    return session
