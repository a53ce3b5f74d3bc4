"""Translates a query's text into its meaning; all knowledge is counted from the catalogue and past queries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from services.text import fold, normalize, tokenize
from services.types import Document, Interpretation, Role, Schema, Slot, Understanding
from services.understanding.gazetteer import Gazetteer
from services.understanding.language import guess_language
from services.understanding.lexicon import lexicon
from services.understanding.numbers import Numbers
from services.understanding.slots import Hypothesis, SlotFinder, read
from services.understanding.spelling import Speller, Spelling
from services.understanding.vocabulary import Vocabulary, strings

CORRECTION_TRUST = 0.85
"""Factor on the confidence of a slot that only the corrected spelling names."""
MAX_TOKENS = 64
"""Slots are searched among the first tokens only."""

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class Understander:
    """Query understanding over one catalogue. Not thread-safe, but without global state, so that another one can be
    built in a thread and swapped in."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._keywords = tuple(f.name for f in schema.of(Role.KEYWORD) if f.name != "id")
        self._vocabulary = Vocabulary(schema)
        self._gazetteer = Gazetteer()
        self._numbers = Numbers(schema)
        self._speller = Speller(self._vocabulary)
        self._slots = SlotFinder(schema, self._gazetteer, self._numbers, self._vocabulary, lexicon(schema))

    def add(self, documents: Iterable[Document]) -> None:
        """Count items in. To replace an item, remove it as it was and add it as it is."""
        self._count(documents, 1)

    def remove(self, documents: Iterable[Document]) -> None:
        """Count items out, each exactly as it was added."""
        self._count(documents, -1)

    def add_queries(self, texts: Iterable[str], weight: float = 1.0) -> None:
        """Count the words of past queries, each `weight` times."""
        changed: set[str] = set()
        for text in texts:
            tokens = tokenize(text)
            self._vocabulary.add_query(tokens, weight)
            changed.update(tokens)
        self._speller.refresh(changed)

    def understand(self, text: str) -> Understanding:
        """The meaning of `text`, a function of it and of the counts alone. Time is linear in its length."""
        normalized = normalize(text)
        pieces = token_spans(normalized)
        tokens = tuple(token for token, _, _ in pieces)
        spelling = self._speller.spell(tokens)
        corrected = _respell(normalized, pieces, spelling)
        vocabulary = self._vocabulary
        return Understanding(
            normalized=normalized,
            tokens=tokens,
            words=spelling.words,
            corrected=corrected if corrected != normalized else None,
            language=guess_language(normalized, tokens),
            interpretations=self._interpret(pieces, tokens, spelling),
            rarity=tuple(vocabulary.rarity(token) for token in tokens),
            unknown=sum(token not in vocabulary.frequency for token in tokens) / len(tokens) if tokens else 0.0,
        )

    def _count(self, documents: Iterable[Document], sign: int) -> None:
        changed: set[str] = set()
        known: dict[str, list[str]] = {}
        for document in documents:
            names: list[list[str]] = []
            for field in self._keywords:
                for value in strings(document.get(field)):
                    tokens = known.get(value)
                    if tokens is None:
                        tokens = known[value] = tokenize(value)
                    names.append(tokens)
                    self._gazetteer.add(field, value, tokens, sign)
            title = self._schema.title
            for value in strings(document.get(title)) if title else ():
                tokens = tokenize(value)
                names.append(tokens)
                self._gazetteer.add(str(title), value, tokens, sign, parts=False)
            self._numbers.add(document, sign)
            changed |= self._vocabulary.add(document, names, sign)
        self._speller.refresh(changed)

    def _interpret(
        self, pieces: Sequence[tuple[str, int, int]], tokens: tuple[str, ...], spelling: Spelling
    ) -> tuple[Interpretation, ...]:
        used = tokens[:MAX_TOKENS]
        hypotheses = self._slots.find(used)
        if spelling.best != tokens:
            hypotheses = self._with_corrected(hypotheses, spelling.best[:MAX_TOKENS])
        informative = [self._slots.informative(token) for token in used]
        interpretations = []
        for likelihood, chosen in read(hypotheses, informative):
            covered = {i for h in chosen for i in range(h.first, h.last)}
            slots = tuple(
                Slot(h.field, h.value, pieces[h.first][1], pieces[h.last - 1][2], h.confidence, h.low, h.high)
                for h in chosen
            )
            rest = tuple(t for i, t in enumerate(tokens) if i not in covered and self._slots.informative(t))
            interpretations.append(Interpretation(likelihood, slots, rest))
        return tuple(interpretations)

    def _with_corrected(self, hypotheses: list[Hypothesis], best: Sequence[str]) -> list[Hypothesis]:
        """The hypotheses and those that the corrected spelling adds, mapped back to the typed tokens."""
        words: list[str] = []
        origins: list[int] = []
        for i, spelled in enumerate(best):
            for word in spelled.split():
                words.append(word)
                origins.append(i)
        known = {(h.field, h.value, h.first, h.last) for h in hypotheses}
        merged = list(hypotheses)
        for h in self._slots.find(words):
            first, last = origins[h.first], origins[h.last - 1] + 1
            while last < len(best) and best[last] == "":
                last += 1
            if (h.field, h.value, first, last) not in known:
                merged.append(Hypothesis(h.field, h.value, first, last, h.confidence * CORRECTION_TRUST, h.low, h.high))
        return merged


def token_spans(normalized: str) -> list[tuple[str, int, int]]:
    """(token, start, end) of services.text.tokenize, with character offsets in the normalised text."""
    if normalized.isascii():
        folded, places = normalized, None
    else:
        places = []
        parts = []
        for i, char in enumerate(normalized):
            part = fold(char)
            parts.append(part)
            places.extend([i] * len(part))
        folded = "".join(parts)
    spans = []
    for match in _TOKEN.finditer(folded):
        start, end = match.span()
        if places is not None:
            start, end = places[start], places[end - 1] + 1
        spans.append((match.group().replace("'", "").replace("’", ""), start, end))
    return spans


def _respell(normalized: str, pieces: Sequence[tuple[str, int, int]], spelling: Spelling) -> str:
    """The normalised text with each token that has a better spelling replaced."""
    out: list[str] = []
    at = 0
    for (token, start, end), best in zip(pieces, spelling.best, strict=True):
        if best == token:
            continue
        out.append(normalized[at:start] if best else normalized[at:start].rstrip())
        out.append(best)
        at = end
    out.append(normalized[at:])
    return "".join(out)
