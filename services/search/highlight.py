"""The words of a document that match the query: HTML-escaped text with <mark> around them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from html import escape
from typing import Any

from services.text import fold, normalize, tokenize
from services.types import Alternative, Document, Role, Schema
from services.understanding.language import ENGLISH_STOPWORDS, stem

FRAGMENT_LENGTH = 200
"""Characters of a long field that are shown."""
MIN_WEIGHT = 0.2
"""An alternative spelling less likely than this marks nothing."""
STEM_PREFIX = 3
"""Words that differ from every searched word in their first letters have another stem."""

_WORD = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f]|['’](?=[^\W_]))*")


class _Searched:
    """The words to mark."""

    def __init__(self, words: tuple[tuple[Alternative, ...], ...]) -> None:
        texts = {word for options in words for a in options if a.weight >= MIN_WEIGHT for word in tokenize(a.text)}
        self.content_words = texts - ENGLISH_STOPWORDS
        self.all = texts
        self.stems = {stem(word) for word in self.content_words}
        self.prefixes = {word[:STEM_PREFIX] for word in self.content_words}
        self.all_prefixes = {word[:STEM_PREFIX] for word in texts}

    def may_occur(self, text: str, stopwords: bool) -> bool:
        """Whether `finds` could be true of a word in `text`. A quick test: most texts hold no searched word, and most
        of those not even the beginning of one."""
        plain = (text.lower() if text.isascii() else fold(normalize(text))).replace("'", "").replace("’", "")
        return any(start in plain for start in (self.all_prefixes if stopwords else self.prefixes))

    def finds(self, tokens: Iterable[str], stopwords: bool) -> bool:
        """Whether one of the tokens is to be marked; stopwords are only where they count too."""
        return any(
            token in self.content_words
            or (stopwords and token in self.all)
            or (token[:STEM_PREFIX] in self.prefixes and stem(token) in self.stems)
            for token in tokens
        )


_searched = lru_cache(maxsize=64)(_Searched)
"""All hits of an answer are marked for the same words."""


def highlights(words: Sequence[Sequence[Alternative]], document: Document, schema: Schema) -> dict[str, str]:
    """Field -> escaped text with marks, for the fields in which a searched word occurs.

    `words`: an Understanding's words. The title comes whole, other text as a fragment of about 200 characters where the
    marks are densest, keyword fields as their marked values joined by commas. Stopwords are marked in titles only.
    """
    searched = _searched(tuple(map(tuple, words)))
    found: dict[str, str] = {}
    if not searched.all:
        return found
    for field in schema.of(Role.TEXT, Role.KEYWORD):
        is_title = field.name == schema.title
        texts = list(_texts(document.get(field.name)))
        if not searched.may_occur(" ".join(texts), is_title):
            continue
        if field.role is Role.KEYWORD:
            marked = [_mark(text, spans) for text in texts if (spans := _spans(text, searched, False))]
            if marked:
                found[field.name] = ", ".join(marked)
            continue
        for text in texts:
            spans = _spans(text, searched, is_title)
            if spans:
                found[field.name] = _mark(text, spans) if is_title else _fragment(text, spans)
                break
    return found


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from (entry for entry in value if isinstance(entry, str))


def _spans(text: str, searched: _Searched, stopwords: bool) -> list[tuple[int, int]]:
    return [m.span() for m in _WORD.finditer(text) if searched.finds(_tokens(m.group()), stopwords)]


def _tokens(word: str) -> Sequence[str]:
    return (word.lower(),) if word.isascii() and "'" not in word else tokenize(word)


def _mark(text: str, spans: Iterable[tuple[int, int]]) -> str:
    out: list[str] = []
    at = 0
    for start, end in spans:
        out += (escape(text[at:start]), "<mark>", escape(text[start:end]), "</mark>")
        at = end
    return "".join((*out, escape(text[at:])))


def _fragment(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """About FRAGMENT_LENGTH characters around the most marks, cut between words, with ellipses where text is left
    out."""
    if len(text) <= FRAGMENT_LENGTH:
        return _mark(text, spans)
    first, last = max(_windows(spans), key=lambda window: (window[1] - window[0], -window[0]))
    inner = spans[first:last]
    spare = max(0, FRAGMENT_LENGTH - (inner[-1][1] - inner[0][0]))
    start = max(0, min(inner[0][0] - spare // 2, len(text) - FRAGMENT_LENGTH))
    end = max(inner[-1][1], min(len(text), start + FRAGMENT_LENGTH))
    if start > 0:
        space = text.find(" ", start, inner[0][0])
        start = space + 1 if space >= 0 else inner[0][0]
    if end < len(text):
        space = text.rfind(" ", inner[-1][1], end)
        end = space if space >= 0 else inner[-1][1]
    inside = [(a - start, b - start) for a, b in spans if a >= start and b <= end]
    return ("…" if start > 0 else "") + _mark(text[start:end], inside) + ("…" if end < len(text) else "")


def _windows(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(first, last) of the runs of marks that fit into one fragment, one for each first mark."""
    last = 0
    for first in range(len(spans)):
        last = max(last, first + 1)
        while last < len(spans) and spans[last][1] - spans[first][0] <= FRAGMENT_LENGTH:
            last += 1
        yield first, last
