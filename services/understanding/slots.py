"""Pieces of a query that name values of the catalogue, and the likeliest interpretations of the whole query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from services.types import Schema
from services.understanding.gazetteer import MAX_NAME_TOKENS, Gazetteer, Reading
from services.understanding.language import ENGLISH_STOPWORDS, stem
from services.understanding.lexicon import Lexicon
from services.understanding.numbers import Numbers
from services.understanding.vocabulary import Vocabulary

NAME_CONFIDENCE, WORD_NAME_CONFIDENCE = 0.95, 0.7
"""Confidence that several tokens, or a single one, that equal a value mean it (before ambiguity)."""
CATEGORY_CONFIDENCE = 0.93
FORM_CONFIDENCE, SYNONYM_CONFIDENCE, PARTIAL_CONFIDENCE = 0.85, 0.9, 0.7
WHOLE_TITLE_CONFIDENCE, PART_TITLE_CONFIDENCE, WORD_TITLE_CONFIDENCE = 0.9, 0.5, 0.2
MIN_CREDIBLE = 0.5
NESTED_FACTOR = 0.2
"""Factor on the confidence of a hypothesis within a longer one of at least MIN_CREDIBLE."""
MIN_CONFIDENCE = 0.1
MAX_READINGS = 4
HINT_TOKENS = 3
BEAM_WIDTH = 8
MAX_INTERPRETATIONS = 6
UNEXPLAINED_FACTOR = 0.8
"""Factor on the likelihood of an interpretation for each informative token that no slot covers."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Tokens first..last (exclusive) may name a value (or, with bounds, a range) of a field."""

    field: str
    value: str
    first: int
    last: int
    confidence: float
    low: float | None = None
    high: float | None = None


class SlotFinder:
    """Finds the values of one catalogue that tokens of a query may name."""

    def __init__(
        self, schema: Schema, gazetteer: Gazetteer, numbers: Numbers, vocabulary: Vocabulary, lexicon: Lexicon
    ) -> None:
        self._title = schema.title
        self._field_stems = {
            f.name: frozenset(stem(part) for part in f.name.casefold().split("_")) for f in schema.fields
        }
        self._gazetteer = gazetteer
        self._numbers = numbers
        self._vocabulary = vocabulary
        self._lexicon = lexicon

    def informative(self, token: str) -> bool:
        """Whether a token carries meaning: neither a stopword nor filler."""
        return token not in ENGLISH_STOPWORDS and token not in self._lexicon.filler

    def find(self, tokens: Sequence[str]) -> list[Hypothesis]:
        """All values that pieces of the query may name."""
        if not tokens:
            return []
        informative = sum(map(self.informative, tokens))
        found: list[Hypothesis] = []
        for first in range(len(tokens)):
            for last in range(min(len(tokens), first + MAX_NAME_TOKENS), first, -1):
                found.extend(self._named(tokens, first, last, informative))
        for slot in self._numbers.find(tokens):
            text = " ".join(tokens[slot.first : slot.last])
            found.append(Hypothesis(slot.field, text, slot.first, slot.last, slot.confidence, slot.low, slot.high))
        return _longest_first(found, len(tokens))

    def _named(self, tokens: Sequence[str], first: int, last: int, informative: int) -> list[Hypothesis]:
        piece = tokens[first:last]
        key = " ".join(piece)
        if len(piece) > 2 and not self._gazetteer.knows(key) and key not in self._lexicon.synonyms:
            return []
        best: dict[tuple[str, str], float] = {}

        def propose(reading: Reading, confidence: float) -> None:
            place = (reading.field, reading.value)
            best[place] = max(best.get(place, 0.0), confidence)

        readings = self._gazetteer.exact(key)
        named = sum(r.count for r in readings)
        for reading in readings:
            if reading.field == self._title:
                propose(reading, self._title_confidence(piece, informative, len(piece) == len(tokens)))
            else:
                propose(reading, self._name_confidence(piece, reading, named))
        for synonym in self._lexicon.synonyms.get(key, ()):
            for reading in self._gazetteer.exact(synonym):
                if reading.field != self._title:
                    propose(reading, SYNONYM_CONFIDENCE)
        if len(piece) <= 2 and key not in ENGLISH_STOPWORDS:
            for reading, closeness in self._gazetteer.category_forms(piece):
                propose(reading, FORM_CONFIDENCE * closeness)
        if len(piece) == 1 and not best and self.informative(key) and len(key) > 2:
            for reading, share in self._gazetteer.partial(key):
                propose(reading, PARTIAL_CONFIDENCE * share * self._usage(key, share, reading.count))
        if not best:
            return []
        chosen = self._apply_hints(tokens, first, last, best)
        return [
            Hypothesis(field, value, first, last, confidence)
            for (field, value), confidence in chosen
            if confidence >= MIN_CONFIDENCE
        ]

    def _usage(self, token: str, share: float, count: int) -> float:
        """Share of the items with `token` in which it is part of such a name."""
        return min(1.0, count / share / max(1, self._vocabulary.frequency.get(token, 0)))

    def _title_confidence(self, piece: Sequence[str], informative: int, whole: bool) -> float:
        """Confidence that the piece names a title. `informative`: number of informative tokens in the query; `whole`:
        whether the piece is the whole query ("it", "her")."""
        weight = sum(map(self.informative, piece))
        if whole or (weight and weight == informative):
            return WHOLE_TITLE_CONFIDENCE if len(piece) > 1 else WHOLE_TITLE_CONFIDENCE - 0.1
        if weight == 0:
            return 0.0
        return WORD_TITLE_CONFIDENCE if len(piece) == 1 else min(0.8, PART_TITLE_CONFIDENCE + 0.1 * (weight - 1))

    def _name_confidence(self, piece: Sequence[str], reading: Reading, named: int) -> float:
        """Confidence that the piece names the reading's value. `named`: items in which it is a name, in any field."""
        ambiguity = reading.count / named
        if self._gazetteer.is_category(reading.field):
            return CATEGORY_CONFIDENCE * ambiguity
        if len(piece) > 1:
            return NAME_CONFIDENCE * ambiguity
        if not self.informative(piece[0]):
            return 0.0
        return (
            WORD_NAME_CONFIDENCE
            * ambiguity
            * min(1.0, 2.0 * named / max(1, self._vocabulary.frequency.get(piece[0], 0)))
        )

    def _apply_hints(
        self, tokens: Sequence[str], first: int, last: int, best: dict[tuple[str, str], float]
    ) -> list[tuple[tuple[str, str], float]]:
        """The readings reweighted by the words around the piece ("directed by X" means a director), best first."""
        if len({field for field, _ in best}) > 1:
            before = takewhile(
                lambda word: not self.informative(word), reversed(tokens[max(0, first - HINT_TOKENS) : first])
            )
            hints = [self._hint(word) for word in (*before, *tokens[last : last + 1]) if not self.informative(word)]
            usable = [(strength, fields) for fields, strength in hints if any(field in fields for field, _ in best)]
            if usable:
                strength, fields = max(usable, key=lambda hint: hint[0])
                total = sum(best.values())
                meant = sum(c for (field, _), c in best.items() if field in fields)
                for place, confidence in best.items():
                    share, mass = (strength, meant) if place[0] in fields else (1.0 - strength, total - meant)
                    best[place] = min(NAME_CONFIDENCE, total) * share * confidence / mass
        return sorted(best.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_READINGS]

    def _hint(self, word: str) -> tuple[frozenset[str], float]:
        """Fields that a word points to, with its strength: those named like it, or those of the packaged hint."""
        stemmed = stem(word)
        own = frozenset(name for name, stems in self._field_stems.items() if stemmed in stems)
        if own:
            return own, 0.95
        hint = self._lexicon.hints.get(word)
        if hint is None:
            return frozenset(), 0.0
        stems_wanted = {stem(name) for name in hint.fields}
        return frozenset(name for name, stems in self._field_stems.items() if stems & stems_wanted), hint.strength


def _longest_first(found: list[Hypothesis], length: int) -> list[Hypothesis]:
    """The hypotheses, with those within a longer credible one weakened: "eastwood" in "clint eastwood" is hardly a
    separate name."""
    around: list[tuple[int, int]] = [(i, i + 1) for i in range(length)]
    for h in found:
        if h.confidence >= MIN_CREDIBLE:
            for i in range(h.first, h.last):
                if h.last - h.first > around[i][1] - around[i][0]:
                    around[i] = (h.first, h.last)
    kept = []
    for h in found:
        first, last = around[h.first]
        inside = first <= h.first and h.last <= last and h.last - h.first < last - first
        confidence = h.confidence * NESTED_FACTOR if inside else h.confidence
        if confidence >= MIN_CONFIDENCE:
            kept.append(replace(h, confidence=confidence))
    return kept


def read(hypotheses: Sequence[Hypothesis], informative: Sequence[bool]) -> list[tuple[float, tuple[Hypothesis, ...]]]:
    """Interpretations of a query of len(informative) tokens as (likelihood, slots), likeliest first; they sum to 1.

    Each hypothesis is true with its confidence, independently of the others; an interpretation takes those it uses as
    true and those it skips at their own position as false. Beam search from left to right; the interpretation without
    slots is always among them.
    """
    starting: dict[int, list[Hypothesis]] = {}
    for hypothesis in hypotheses:
        starting.setdefault(hypothesis.first, []).append(hypothesis)
    length = len(informative)
    beams: list[list[tuple[float, tuple[Hypothesis, ...]]]] = [[] for _ in range(length + 1)]
    beams[0] = [(1.0, ())]
    for i in range(length):
        here = starting.get(i, ())
        longest = max((h.last for h in here), default=i)
        doubt = 1.0
        for hypothesis in here:
            doubt = min(doubt, 1.0 - hypothesis.confidence)
        skip = doubt * (UNEXPLAINED_FACTOR if informative[i] else 1.0)
        for weight, chosen in sorted(beams[i], key=lambda entry: -entry[0])[:BEAM_WIDTH]:
            beams[i + 1].append((weight * skip, chosen))
            for h in here:
                shorter = 0.5 ** (longest - h.last)
                beams[h.last].append((weight * h.confidence * shorter, (*chosen, h)))
        beams[i] = []
    ranked = sorted(beams[length], key=lambda entry: -entry[0])
    total = sum(weight for weight, _ in ranked) or 1.0
    kept = [(weight / total, chosen) for weight, chosen in ranked[:MAX_INTERPRETATIONS] if chosen]
    plain = next((weight / total for weight, chosen in ranked if not chosen), 0.0)
    readings = [*kept[: MAX_INTERPRETATIONS - 1], (plain, ())]
    return sorted(readings, key=lambda entry: -entry[0])
