"""The packaged synonyms, hints and filler words (synonyms.toml) merged with the catalogue's own synonyms."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from services.text import tokenize
from services.types import Schema


@dataclass(frozen=True, slots=True)
class Hint:
    """A word beside a name that indicates the name's field ("directed by")."""

    fields: frozenset[str]
    """Stems of field names."""
    strength: float


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words that are not in the catalogue's data, for one schema."""

    synonyms: Mapping[str, tuple[str, ...]]
    """Phrase (tokens joined with spaces) -> keys of the values that it means."""
    hints: Mapping[str, Hint]
    filler: frozenset[str]
    """Words that request something without naming it ("show me")."""


@lru_cache(maxsize=1)
def _packaged() -> dict[str, Any]:
    return tomllib.loads((resources.files("services.understanding") / "synonyms.toml").read_text("utf-8"))


def lexicon(schema: Schema) -> Lexicon:
    """The packaged lexicon with the synonyms of `schema`."""
    packaged = _packaged()
    synonyms: dict[str, tuple[str, ...]] = {}
    for source in (packaged["values"], schema.synonyms):
        for phrase, values in source.items():
            keys = tuple(" ".join(tokenize(value)) for value in values)
            key = " ".join(tokenize(phrase))
            synonyms[key] = tuple(dict.fromkeys((*synonyms.get(key, ()), *keys)))
    hints = {word: Hint(frozenset(h["fields"]), float(h["strength"])) for word, h in packaged["hints"].items()}
    return Lexicon(synonyms, hints, frozenset(packaged["filler"]["words"]))
