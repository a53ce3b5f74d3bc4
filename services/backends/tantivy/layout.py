"""Layout of the tantivy index: which engine field holds which part of an item.

Engine fields have names of their own, so that a catalogue may use any field names. Text reaches the engine as the
tokens of services.text.tokenize, and the engine's analyser (stemming) is applied to queries as well: both sides always
agree.
"""

from __future__ import annotations

import tantivy

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
    STEMS,
    TITLE,
    WEIGHT_PER_REPEAT,
    WORDS,
    clean,
    pairs,
    spaced,
    starts,
    term,
)
from services.schema.filters import FILTERABLE
from services.schema.schema import newness, prior, quality
from services.schema.values import values
from services.text import normalize, tokenize
from services.types import Document, Role, Schema

LAYOUT_VERSION = 1
"""Changes whenever the contents of an index do: an index of another version is rebuilt."""


class Layout:
    """The engine's fields for one schema.

    Per field that can be filtered: `keywords` (values as written) or `numbers`, and `orders` (its smallest value, which
    decides the place in a sorted list); per KEYWORD field and the title: `names` (normalised values).
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        filterable = schema.of(*FILTERABLE)
        self.keywords = {f.name: f"k{i}" for i, f in enumerate(filterable) if f.role is Role.KEYWORD}
        self.names = {f.name: f"m{i}" for i, f in enumerate(filterable) if f.role is Role.KEYWORD}
        self.orders = {f.name: f"o{i}" for i, f in enumerate(filterable)}
        self.numbers = {f.name: f"n{i}" for i, f in enumerate(filterable) if f.role is not Role.KEYWORD}
        self._title = schema.get(schema.title) if schema.title else None
        if self._title is not None and self._title.name not in self.names:
            self.names[self._title.name] = "mt"
        self._spoken = [(f, _repeats(f.weight)) for f in schema.of(Role.TEXT, Role.KEYWORD) if f.weight > 0]
        builder = tantivy.SchemaBuilder()
        builder.add_text_field(ID, stored=True, fast=True, tokenizer_name="whole", index_option="basic")
        for name in (WORDS, TITLE):
            builder.add_text_field(name, tokenizer_name="stems", index_option="freq")
        for name in (EXACT, PAIRS):
            builder.add_text_field(name, tokenizer_name="spaced", index_option="freq")
        builder.add_text_field(GRAMS, tokenizer_name="trigrams", index_option="freq")
        for name in (STARTS, NAMES):
            builder.add_text_field(name, tokenizer_name="whole", index_option="basic")
        builder.add_bytes_field(SHOWN, stored=True)
        for name in self.names.values():
            builder.add_text_field(name, tokenizer_name="whole", index_option="basic")
        for name in (*self.keywords.values(), *(self.orders[name] for name in self.keywords)):
            builder.add_text_field(name, fast=True, tokenizer_name="whole", index_option="basic")
        for name in (*self.numbers.values(), *(self.orders[name] for name in self.numbers)):
            builder.add_float_field(name, indexed=True, fast=True)
        for name in (PRIOR, QUALITY, NEWNESS, PRIOR_WEIGHT, QUALITY_WEIGHT):
            builder.add_float_field(name, fast=True)
        self.engine = builder.build()

    def register(self, index: tantivy.Index) -> None:
        """Register the analysers that the fields name with the engine."""
        whole = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.raw()).build()
        index.register_tokenizer("whole", whole)
        index.register_fast_field_tokenizer("whole", whole)
        index.register_tokenizer("stems", STEMS)
        index.register_tokenizer("spaced", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
        index.register_tokenizer("trigrams", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.ngram(3, 3)).build())

    def document(self, document: Document) -> tantivy.Document:
        """The engine's document for an item."""
        entry = tantivy.Document()
        entry.add_text(ID, clean(str(document["id"])))
        words: list[str] = []
        for field, repeats in self._spoken:
            tokens = tokenize(" ".join(str(value) for value in values(document, field)))
            words.extend(tokens * repeats)
        entry.add_text(WORDS, " ".join(words))
        title = ""
        if self._title is not None:
            title = " ".join(str(value) for value in values(document, self._title))
            self._add_title(entry, clean(title), self._title.role)
        names: set[str] = set()
        for field in self.schema.of(Role.KEYWORD):
            held = [clean(str(value)) for value in values(document, field)]
            for value in held:
                entry.add_text(self.keywords[field.name], term(value))
            normal = {normalize(value) for value in held}
            for value in normal:
                entry.add_text(self.names[field.name], term(value))
            names |= normal
            if normal:
                entry.add_text(self.orders[field.name], min(normal)[:MAX_ORDER_CHARS])
        for value in names:
            entry.add_text(NAMES, term(value))
        named = [*names, title] if title else names
        entry.add_text(PAIRS, " ".join(pair for value in named for pair in pairs(tokenize(value))))
        for name, place in self.numbers.items():
            field_ = self.schema.get(name)
            numbers = {float(v) + 0.0 for v in (values(document, field_) if field_ else ())}  # no -0.0: another term
            for number in numbers:
                entry.add_float(place, number)
            if numbers:
                entry.add_float(self.orders[name], min(numbers))
        self._add_priors(entry, document)
        return entry

    def _add_title(self, entry: tantivy.Document, title: str, role: Role) -> None:
        tokens = tokenize(title)
        entry.add_bytes(SHOWN, title.encode())
        entry.add_text(TITLE, " ".join(tokens))
        entry.add_text(EXACT, " ".join(tokens))
        entry.add_text(GRAMS, spaced(tokens))
        if role is not Role.KEYWORD:
            entry.add_text("mt", term(normalize(title)))
        for start in starts(tokens):
            entry.add_text(STARTS, start)

    def _add_priors(self, entry: tantivy.Document, document: Document) -> None:
        popular, good = prior(self.schema, document), quality(self.schema, document)
        entry.add_float(PRIOR, popular)
        entry.add_float(QUALITY, good)
        entry.add_float(NEWNESS, newness(self.schema, document))
        entry.add_float(PRIOR_WEIGHT, weight_value(1.0 + PRIOR_GAIN * popular))
        entry.add_float(QUALITY_WEIGHT, weight_value(1.0 + QUALITY_GAIN * good))


def _repeats(weight: float) -> int:
    """BM25F (Robertson, Zaragoza and Taylor, 2004): a field of more weight counts as if its text stood there more
    often.

    Once up to WEIGHT_PER_REPEAT: repeating every field as often as an inferred weight says ranked worse.
    """
    return max(1, min(MAX_REPEATS, round(weight / WEIGHT_PER_REPEAT)))


def weight_value(factor: float) -> float:
    """The value v for which the engine multiplies a score by `factor` >= 1: it computes log2(2 + v)."""
    return float(2.0**factor - 2.0)
