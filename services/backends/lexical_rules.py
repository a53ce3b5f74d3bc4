"""The rules that both lexical indexes follow, so that tantivy and OpenSearch find the same items in the same order:
names of engine fields, weights, limits, and how text becomes terms. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import tantivy

from services.text import fold, normalize, tokenize

ID = "id"
WORDS = "words"
"""Stems of all TEXT and KEYWORD fields."""
TITLE = "title"
"""Stems of the title."""
EXACT = "exact"
"""The title's tokens as they are, without stemming."""
PAIRS = "pairs"
"""Neighbouring tokens of the title and of each KEYWORD value: full names beside lone first names."""
GRAMS = "grams"
"""Character trigrams of the title."""
STARTS = "starts"
"""Beginnings of the title and of its parts from each word on, for completions."""
SHOWN = "shown"
"""The title as written; only stored."""
NAMES = "names"
"""Values of all KEYWORD fields, normalised."""
PRIOR, QUALITY, NEWNESS = "prior", "quality", "newness"
PRIOR_WEIGHT, QUALITY_WEIGHT = "prior_weight", "quality_weight"
PRIOR_GAIN = 0.7
"""A match of the most popular item scores this much more than the same match of an item of prior 0."""
QUALITY_GAIN = 0.05
"""The same for quality in structural matches: small, because it only orders items that meet the same constraints."""
MAX_START_CHARS = 24
"""Characters of a title's beginning that are indexed; longer prefixes are compared with the title itself."""
MAX_STARTS = 12
"""Words of a title from which a completion may start."""
MAX_TERM_BYTES = 1000
"""Bytes of an exact value that are indexed as they are; the engine drops terms of 64 kB."""
MAX_ORDER_CHARS = 100
"""Characters of a value that decide its place in a sorted list."""
MAX_REPEATS = 8
WEIGHT_PER_REPEAT = 1.5
STEMS = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).filter(tantivy.Filter.stemmer("english")).build()
DIGEST_PREFIX = "\x00sha256:"
TITLE_BOOST = 0.4
EXACT_BOOST = 0.2
GRAM_BOOST = 0.3
"""Weight of one trigram relative to one word, at ngram_weight 1."""
GRAM_SHARE = 0.5
"""Share of the query's trigrams that a title must have to match by them alone."""
PAIR_BOOST = 0.4
MAX_WORDS = 48
MAX_GRAMS = 96
MAX_SUBSETS = 64
"""Subsets of the constraints that are scored separately; where there are more, weights are only added up."""
SUBSET_DECAY = 0.93
"""Factor between the scores of a subset of constraints and the next lighter one: QUALITY_GAIN cannot make up for it."""
MAX_FACET_VALUES = 50
"""Values returned for a facet."""


def clean(text: str) -> str:
    """`text` with lone surrogates, which have no UTF-8 form, replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def term(value: str) -> str:
    """An exact value as an index term: itself, or its digest when it is very long."""
    encoded = value.encode()
    return value if len(encoded) <= MAX_TERM_BYTES else DIGEST_PREFIX + hashlib.sha256(encoded).hexdigest()


def stem(token: str) -> str:
    """A token as the engine keeps it in WORDS and TITLE."""
    return next(iter(STEMS.analyze(token)), token)


def pairs(tokens: list[str]) -> list[str]:
    """Each two neighbouring tokens as one term of PAIRS."""
    return [f"{left}_{right}" for left, right in pairwise(tokens)]


def spaced(tokens: list[str]) -> str:
    """Tokens with a space around each, so that trigrams know where words begin and end."""
    return f" {' '.join(tokens)} " if tokens else ""


def trigrams(text: str) -> list[str]:
    """Different trigrams of a query, in order, as the engine cuts those of titles."""
    padded = spaced(tokenize(text))
    return list(dict.fromkeys(padded[i : i + 3] for i in range(len(padded) - 2)))


def starts(tokens: list[str]) -> Iterator[str]:
    """Every beginning of at most MAX_START_CHARS characters of the title from each word on; a space ends a word."""
    seen: set[str] = set()
    for first in range(min(len(tokens), MAX_STARTS)):
        rest = spaced(tokens[first:])[1 : 1 + MAX_START_CHARS]
        seen.update(rest[:end] for end in range(1, len(rest) + 1))
    yield from sorted(seen)


def prefix_key(prefix: str) -> str:
    """A typed prefix as titles are indexed: a space at its end says that the last word is complete."""
    tokens = tokenize(prefix)
    open_word = not fold(normalize(prefix[-1:]))
    return " ".join(tokens) + (" " if tokens and open_word else "")


def starts_with(title: str, key: str) -> bool:
    """Whether a word sequence of the title begins with the whole of `key`, however long."""
    tokens = tokenize(title)
    return any(spaced(tokens[i:])[1:].startswith(key) for i in range(len(tokens)))
