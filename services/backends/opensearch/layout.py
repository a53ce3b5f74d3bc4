"""Layout of the OpenSearch index: which engine field holds which part of an item.

It has the same content as the embedded index (see lexical_rules.py), so that both find and rank the same. Text is
tokenised and stemmed here and reaches the engine as tokens separated by spaces, which it leaves as they are: both sides
of a match always agree, whatever the engine's version.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from services.backends.lexical_rules import (
    EXACT,
    GRAMS,
    ID,
    MAX_ORDER_CHARS,
    MAX_REPEATS,
    NAMES,
    NEWNESS,
    PAIRS,
    PRIOR,
    PRIOR_GAIN,
    PRIOR_WEIGHT,
    QUALITY,
    QUALITY_GAIN,
    QUALITY_WEIGHT,
    SHOWN,
    STARTS,
    TITLE,
    WEIGHT_PER_REPEAT,
    WORDS,
    clean,
    pairs,
    spaced,
    starts,
    stem,
    term,
)
from services.schema.filters import FILTERABLE
from services.schema.schema import newness, prior, quality, to_json
from services.schema.values import values
from services.text import normalize, tokenize
from services.types import Document, Role, Schema

LAYOUT_VERSION = 1
"""Changes whenever the contents of an index do: an index of another version is rebuilt."""
ITEM = "item"
"""The whole item as written: stored, never parsed by the engine."""
MAX_TOKEN_CHARS = 120
"""Characters of a token that count; the engine's analyser cuts tokens of 255 into several."""
K1, B = 1.2, 0.75
"""Parameters of BM25, as in the embedded engine."""

_TOKENS = {"type": "text", "analyzer": "whitespace", "index_options": "freqs"}
_VALUE = {"type": "keyword", "doc_values": False}
_COUNTED = {"type": "keyword"}
_ORDER = {"type": "keyword", "index": False}
_NUMBER = {"type": "double"}
_WEIGHT = {"type": "double", "index": False}


class Layout:
    """The engine's fields for one schema.

    Per field that can be filtered: `keywords` (values as written) or `numbers`, and `orders` (its smallest value, which
    decides the place in a sorted list); per KEYWORD field and the title: `names` (normalised values).
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.fingerprint = fingerprint(schema)
        filterable = schema.of(*FILTERABLE)
        self.keywords = {f.name: f"k{i}" for i, f in enumerate(filterable) if f.role is Role.KEYWORD}
        self.names = {f.name: f"m{i}" for i, f in enumerate(filterable) if f.role is Role.KEYWORD}
        self.orders = {f.name: f"o{i}" for i, f in enumerate(filterable)}
        self.numbers = {f.name: f"n{i}" for i, f in enumerate(filterable) if f.role is not Role.KEYWORD}
        self._title = schema.get(schema.title) if schema.title else None
        if self._title is not None and self._title.name not in self.names:
            self.names[self._title.name] = "mt"
        self._spoken = [(f, _repeats(f.weight)) for f in schema.of(Role.TEXT, Role.KEYWORD) if f.weight > 0]

    def mappings(self) -> dict[str, Any]:
        """The `mappings` object of a new index; its `_meta` holds the schema."""
        properties: dict[str, Any] = {
            ITEM: {"type": "object", "enabled": False},
            # Only shown, never searched; an indexed keyword of any length would be refused.
            SHOWN: {"type": "object", "enabled": False},
            ID: _COUNTED,
            STARTS: _VALUE,
            NAMES: _VALUE,
        }
        properties |= dict.fromkeys((WORDS, TITLE, EXACT, PAIRS, GRAMS), _TOKENS)
        properties |= dict.fromkeys((PRIOR, QUALITY, NEWNESS, PRIOR_WEIGHT, QUALITY_WEIGHT), _WEIGHT)
        properties |= dict.fromkeys(self.keywords.values(), _COUNTED)
        properties |= dict.fromkeys(self.names.values(), _VALUE)
        properties |= dict.fromkeys(self.numbers.values(), _NUMBER)
        properties |= {self.orders[name]: _ORDER for name in self.keywords}
        properties |= {self.orders[name]: _WEIGHT for name in self.numbers}
        return {
            "dynamic": False,
            # Derived fields can be computed again: only the item itself is kept.
            "_source": {"includes": [ITEM, SHOWN]},
            "_meta": {"fingerprint": self.fingerprint, "schema": to_json(self.schema)},
            "properties": properties,
        }

    def entry(self, document: Document) -> dict[str, Any]:
        """The engine's document for an item."""
        entry: dict[str, Any] = {ITEM: document, ID: clean(str(document["id"]))}
        words: list[str] = []
        for field, repeats in self._spoken:
            words.extend(tokenize(" ".join(str(value) for value in values(document, field))) * repeats)
        entry[WORDS] = stems(words)
        title = ""
        if self._title is not None:
            title = clean(" ".join(str(value) for value in values(document, self._title)))
            tokens = tokenize(title)
            entry[SHOWN] = title
            entry[TITLE] = stems(tokens)
            entry[EXACT] = " ".join(cut(tokens))
            entry[GRAMS] = " ".join(gram(text) for text in _trigrams(tokens))
            entry[STARTS] = list(starts(tokens))
            if self._title.role is not Role.KEYWORD:
                entry[self.names[self._title.name]] = term(normalize(title))
        names: set[str] = set()
        for field in self.schema.of(Role.KEYWORD):
            held = [clean(str(value)) for value in values(document, field)]
            normal = {normalize(value) for value in held}
            entry[self.keywords[field.name]] = [term(value) for value in held]
            entry[self.names[field.name]] = [term(value) for value in sorted(normal)]
            if normal:
                entry[self.orders[field.name]] = min(normal)[:MAX_ORDER_CHARS]
            names |= normal
        entry[NAMES] = [term(value) for value in sorted(names)]
        named = [*sorted(names), title] if title else sorted(names)
        entry[PAIRS] = " ".join(pair for value in named for pair in pairs(cut(tokenize(value))))
        for name, place in self.numbers.items():
            number_field = self.schema.get(name)
            # No -0.0: for the engine it differs from 0.0.
            numbers = {float(v) + 0.0 for v in (values(document, number_field) if number_field else ())}
            if numbers:
                entry[place] = sorted(numbers)
                entry[self.orders[name]] = min(numbers)
        popular, good = prior(self.schema, document), quality(self.schema, document)
        entry[PRIOR], entry[QUALITY], entry[NEWNESS] = popular, good, newness(self.schema, document)
        entry[PRIOR_WEIGHT] = 1.0 + PRIOR_GAIN * popular
        entry[QUALITY_WEIGHT] = 1.0 + QUALITY_GAIN * good
        return entry


def fingerprint(schema: Schema) -> str:
    """A hash of the parts of a schema that the index was built from; when it changes, the index must be rebuilt."""
    stats = dict(sorted(schema.stats.items()))
    held = to_json(replace(schema, stats=stats, synonyms={}, inferred=True))
    return hashlib.sha256(f"{LAYOUT_VERSION} {json.dumps(held)}".encode("utf-8", "surrogatepass")).hexdigest()


def cut(tokens: list[str]) -> list[str]:
    """Tokens, each at most MAX_TOKEN_CHARS long."""
    return [token[:MAX_TOKEN_CHARS] for token in tokens]


def stems(tokens: list[str]) -> str:
    """Tokens as WORDS and TITLE hold them."""
    return " ".join(stem(token) for token in cut(tokens))


def gram(trigram: str) -> str:
    """A trigram as one token of GRAMS: spaces become underscores, which tokens never have."""
    return trigram.replace(" ", "_")


def _trigrams(tokens: list[str]) -> list[str]:
    padded = spaced(tokens)
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


def _repeats(weight: float) -> int:
    """How often the text of a field is repeated, from its weight; as in tantivy/layout.py."""
    return max(1, min(MAX_REPEATS, round(weight / WEIGHT_PER_REPEAT)))
