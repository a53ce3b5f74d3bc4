"""Spelling correction by a noisy channel (Kernighan, Church and Gale, 1990): the likeliest words behind what was typed,
with neighbouring words as context and candidates by symmetric deletes (SymSpell, Garbe 2012). The constants are tuned
on the validation split of the film queries: restore many misspelled queries, change few correct ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import OSA, Levenshtein
from symspellpy import SymSpell, Verbosity
from symspellpy.abstract_distance_comparer import AbstractDistanceComparer
from symspellpy.editdistance import DistanceAlgorithm, EditDistance

from services.types import Alternative
from services.understanding.language import ENGLISH_STOPWORDS, general_words, stem
from services.understanding.vocabulary import MAX_WORD_CHARS, Vocabulary

UNSEEN_MASS = 0.01
"""Mass of an unseen word: the larger, the more readily an unknown word is left as it is."""
GENERAL_MASS = 0.2
"""The same for an everyday English word."""
SHORT_WORD_FACTOR = 2.0
"""Factor on the mass of an unknown word for each letter below six: short ones are often names and codes."""
UNSEEN_PAIR_COST = 1.0
"""Cost of a correction never seen beside the query's other words."""
MASS_EXPONENT = 0.6
"""Flattens the frequencies: searches are less skewed than the catalogue."""
EDIT_COST = 3.5
"""Minus log-probability of one edit."""
EASY_EDIT_DISCOUNT = 1.5
"""Reduction of the cost of an edit that is a swap, a doubled letter or a neighbouring key."""
FIRST_LETTER_COST = 2.5
"""Further cost of a wrong first letter, which is rare."""
PAIR_SHARE = 0.6
"""Share of a word's probability that comes from the word before it."""
MAX_CANDIDATES = 6
MAX_LOOKUPS = 8
"""Words of one query that are looked up: each takes tenths of a millisecond."""
COMMON_MASS = 60.0
"""A word of this mass is never corrected."""
MIN_WEIGHT = 0.05
"""Alternatives less likely than this are left out."""
MAX_SOUNDALIKE_EDITS = 3
LONG_WORD_CHARS, LONG_PREFIX_CHARS = 8, 4
"""A word this long may be three edits away from one with the same prefix."""

_KEYBOARD_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEARBY_KEYS = {
    key: set(row[max(0, i - 1) : i + 2]).union(
        *(other[max(0, i - 1) : i + 2] for other in _KEYBOARD_ROWS[max(0, r - 1) : r + 2])
    )
    for r, row in enumerate(_KEYBOARD_ROWS)
    for i, key in enumerate(row)
}


class _Distance(AbstractDistanceComparer):  # type: ignore[misc]
    """Optimal string alignment distance in C."""

    def distance(self, string_1: str, string_2: str, max_distance: int) -> int:
        """The distance of two strings; -1 when it is more than `max_distance`."""
        found: int = OSA.distance(string_1, string_2, score_cutoff=max_distance)
        return found if found <= max_distance else -1


@dataclass(frozen=True, slots=True)
class Spelling:
    """Possible spellings of the tokens of a query."""

    words: tuple[tuple[Alternative, ...], ...]
    best: tuple[str, ...]
    """Per token its likeliest spelling: two words when it is split, "" when it is joined to the token before."""


class Speller:
    """Spelling correction over one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._index = SymSpell(
            max_dictionary_edit_distance=2,
            prefix_length=6,
            distance_comparer=EditDistance(DistanceAlgorithm.USER_PROVIDED, _Distance()),
        )
        self._entries: set[str] = set()
        self._general = general_words()
        self._long: defaultdict[str, set[str]] = defaultdict(set)

    def refresh(self, words: Iterable[str]) -> None:
        """Update the index of possible corrections for words whose counts in the vocabulary changed."""
        for word in words:
            indexed = self._vocabulary.spellable(word)
            if indexed and word not in self._entries:
                self._entries.add(word)
                self._index.create_dictionary_entry(word, 1)
                if len(word) >= LONG_WORD_CHARS:
                    self._long[word[:LONG_PREFIX_CHARS]].add(word)
            elif not indexed and word in self._entries:
                self._entries.discard(word)
                self._index.delete_dictionary_entry(word)
                self._long[word[:LONG_PREFIX_CHARS]].discard(word)

    def spell(self, tokens: Sequence[str]) -> Spelling:
        """Alternatives of every token and the likeliest spelling of all of them together. Linear in their number."""
        lattice = self._lattice(tokens)
        path = self._best_path(lattice)
        words = []
        for i, options in enumerate(lattice):
            before = path[i - 1] if i else ""
            after = path[i + 1] if i + 1 < len(path) else ""
            words.append(self._weigh(tokens[i], options, before, after))
        return self._join(tokens, words, path)

    def _lattice(self, tokens: Sequence[str]) -> list[dict[str, float]]:
        """Per token its possible spellings with their log-likelihood, without context."""
        lattice = []
        lookups = 0
        for i, token in enumerate(tokens):
            options = {token: MASS_EXPONENT * math.log(self._vocabulary.mass(token) + self._unseen(token))}
            if lookups < MAX_LOOKUPS and self._doubtful(tokens, i):
                lookups += 1
                scored = sorted(self._candidates(tokens, i), key=lambda entry: (-entry[1], entry[0]))
                options.update(scored[:MAX_CANDIDATES])
            lattice.append(options)
        return lattice

    def _unseen(self, token: str) -> float:
        """Mass of a word that may be correct although the catalogue does not have it."""
        if token in self._general:
            return GENERAL_MASS
        return UNSEEN_MASS * SHORT_WORD_FACTOR ** max(0, 6 - len(token))

    def _doubtful(self, tokens: Sequence[str], i: int) -> bool:
        """Whether a token may be misspelled: unknown, or rare and never seen beside its neighbours."""
        token = tokens[i]
        if len(token) < 3 or len(token) > MAX_WORD_CHARS or not token.isalpha():
            return False
        if token not in self._entries:
            return True
        if len(token) < 4 or self._vocabulary.mass(token) >= COMMON_MASS:
            return False
        pairs = self._vocabulary.pairs
        before = i > 0 and f"{tokens[i - 1]} {token}" in pairs
        after = i + 1 < len(tokens) and f"{token} {tokens[i + 1]}" in pairs
        return len(tokens) > 1 and not before and not after

    def _candidates(self, tokens: Sequence[str], i: int) -> list[tuple[str, float]]:
        vocabulary = self._vocabulary
        token = tokens[i]
        known = token in self._entries or token in self._general
        reach = 1 if known or len(token) < 5 else 2
        found = [item.term for item in self._index.lookup(token, Verbosity.ALL, reach) if item.distance]
        distant = not found and not known and len(token) >= LONG_WORD_CHARS
        if distant:
            near = self._long.get(token[:LONG_PREFIX_CHARS], ())
            found = [word for word in near if OSA.distance(token, word, score_cutoff=3) <= 3]
        scored = []
        for word in found:
            paired = self._is_paired(tokens, i, word)
            if ((known or distant) and not paired) or _same_word(token, word, known):
                continue
            cost = 2 * EDIT_COST if distant else slip_cost(token, word)
            cost += 0.0 if paired or len(tokens) == 1 else UNSEEN_PAIR_COST
            scored.append((word, MASS_EXPONENT * math.log(vocabulary.mass(word)) - cost))
        if not known:
            for cut in range(2, len(token) - 1):
                left, right = token[:cut], token[cut:]
                seen = vocabulary.pairs.get(f"{left} {right}", 0)
                if seen:
                    scored.append(
                        (f"{left} {right}", MASS_EXPONENT * math.log(2.0 * seen) - EDIT_COST + EASY_EDIT_DISCOUNT)
                    )
        return scored

    def _is_paired(self, tokens: Sequence[str], i: int, word: str) -> bool:
        """Whether `word` was seen beside a neighbour of token `i`."""
        pairs = self._vocabulary.pairs
        return (i > 0 and f"{tokens[i - 1]} {word}" in pairs) or (
            i + 1 < len(tokens) and f"{word} {tokens[i + 1]}" in pairs
        )

    def _transition(self, before: str, word: str) -> float:
        """Log of how much likelier `word` is after `before` than anywhere."""
        if not before:
            return 0.0
        last, first = before.rsplit(" ", 1)[-1], word.split(" ", 1)[0]
        seen = self._vocabulary.pairs.get(f"{last} {first}", 0)
        if not seen:
            return math.log(1.0 - PAIR_SHARE)
        expected = self._vocabulary.mass(last) * self._vocabulary.mass(first) / self._total()
        return math.log(1.0 - PAIR_SHARE + PAIR_SHARE * seen / max(expected, 1e-6))

    def _total(self) -> float:
        return 10.0 * max(1, self._vocabulary.items)

    def _best_path(self, lattice: list[dict[str, float]]) -> list[str]:
        """Most likely sequence of spellings (Viterbi)."""
        if not lattice:
            return []
        scores = dict(lattice[0])
        origins: list[dict[str, str]] = []
        for options in lattice[1:]:
            step: dict[str, float] = {}
            origin: dict[str, str] = {}
            for word, score in options.items():
                best, best_before = -math.inf, ""
                for before, so_far in scores.items():
                    reached = so_far + self._transition(before, word)
                    if reached > best:
                        best, best_before = reached, before
                step[word] = best + score
                origin[word] = best_before
            scores = step
            origins.append(origin)
        path = [max(scores, key=lambda word: scores[word])]
        for origin in reversed(origins):
            path.append(origin[path[-1]])
        return path[::-1]

    def _weigh(self, token: str, options: dict[str, float], before: str, after: str) -> tuple[Alternative, ...]:
        """Posterior of one token's spellings, given the likeliest ones of its neighbours."""
        if len(options) == 1:
            return (Alternative(token, 1.0),)
        logs = {
            word: score + self._transition(before, word) + (self._transition(word, after) if after else 0.0)
            for word, score in options.items()
        }
        most = max(logs.values())
        odds = {word: math.exp(value - most) for word, value in logs.items()}
        total = sum(odds.values())
        kept = [Alternative(w, o / total) for w, o in odds.items() if w == token or o / total >= MIN_WEIGHT]
        return tuple(sorted(kept, key=lambda alternative: (-alternative.weight, alternative.text)))

    def _join(self, tokens: Sequence[str], words: list[tuple[Alternative, ...]], path: list[str]) -> Spelling:
        """Joins two tokens that the catalogue writes as one ("broke back"): an alternative of the first, and its best
        spelling when the two were never seen side by side."""
        vocabulary = self._vocabulary
        best = list(path)
        for i in range(len(tokens) - 1):
            apart = vocabulary.pairs.get(f"{tokens[i]} {tokens[i + 1]}", 0)
            joined = tokens[i] + tokens[i + 1]
            if joined not in self._entries and not apart:
                joined = self._soundalike(tokens, i)
            if joined not in self._entries or best[i] == "":
                continue
            together = vocabulary.mass(joined)
            weight = together / (together + 4.0 * apart + 1.0)
            if weight < MIN_WEIGHT or any(a.text == joined for a in words[i]):
                continue
            words[i] = tuple(sorted((*words[i], Alternative(joined, weight)), key=lambda a: (-a.weight, a.text)))
            small = tokens[i] in ENGLISH_STOPWORDS or tokens[i + 1] in ENGLISH_STOPWORDS
            if not apart and not small and weight > 0.5:
                best[i], best[i + 1] = joined, ""
        return Spelling(tuple(words), tuple(best))

    def _soundalike(self, tokens: Sequence[str], i: int) -> str:
        """A long word close to two tokens together ("broke brake mountain" -> brokeback) that was seen beside one of
        their neighbours; "" when there is none."""
        joined = tokens[i] + tokens[i + 1]
        before, after = tokens[i - 1 : i], tokens[i + 2 : i + 3]
        pairs = self._vocabulary.pairs
        soundalikes = [
            (distance, word)
            for word in self._long.get(joined[:LONG_PREFIX_CHARS], ())
            if (distance := OSA.distance(joined, word, score_cutoff=MAX_SOUNDALIKE_EDITS)) <= MAX_SOUNDALIKE_EDITS
            and (any(f"{t} {word}" in pairs for t in before) or any(f"{word} {t}" in pairs for t in after))
        ]
        return min(soundalikes, default=(0, ""))[1]


def _same_word(token: str, word: str, known: bool) -> bool:
    """Whether the two are forms of one word ("movie", "movies"): not a misspelling."""
    if known:
        return stem(token) == stem(word)
    longer, shorter = (token, word) if len(token) > len(word) else (word, token)
    return longer.startswith(shorter) and longer[len(shorter) :] in ("s", "es")


def slip_cost(typed: str, meant: str) -> float:
    """Minus log-probability of typing `typed` for `meant`: per edit, less for swapped, doubled or neighbouring keys,
    more for a wrong first letter."""
    edits = OSA.distance(typed, meant)
    operations = Levenshtein.editops(typed, meant)
    easy = len(operations) - edits  # a swap of neighbours is one edit here but two in Levenshtein's count
    if not easy:
        easy = sum(
            _is_easy(operation.tag, operation.src_pos, operation.dest_pos, typed, meant) for operation in operations
        )
    return EDIT_COST * edits - EASY_EDIT_DISCOUNT * easy + (FIRST_LETTER_COST if typed[:1] != meant[:1] else 0.0)


def _is_easy(kind: str, i: int, j: int, typed: str, meant: str) -> bool:
    if kind == "replace":
        return meant[j] in _NEARBY_KEYS.get(typed[i], ())
    word, at = (typed, i) if kind == "delete" else (meant, j)
    return word[at] in (word[at - 1 : at], word[at + 1 : at + 2])
