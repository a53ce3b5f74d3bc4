"""Stems, stopwords, and the probable language of a short text."""

from __future__ import annotations

import threading
from functools import lru_cache
from importlib import resources

import snowballstemmer

_STOPWORDS = {
    "en": "a an and are as at be but by for from has have how i in is it its my no not of on or that the their this to "
    "was what when where which who will with you your",
    "de": "aber als am auf aus bei das dem den der des die ein eine einen einer es fur im ist ich mit nach nicht oder "
    "sich sie uber um und von vom wie wo zu zum zur",
    "fr": "au aux avec ce ces dans de des du elle en est et il je la le les leur mais ne nous ou par pas pour que qui "
    "sans se son sur un une vous",
    "es": "al como con de del donde el ella en es esta la las lo los mas no o para pero por que se sin su una un y yo",
    "it": "al alla che come con da dal dei del della di e gli ha il io la le lo ma nel nella non per piu sono su un "
    "una",
    "pt": "ao as com como da das de do dos e em ela ele eu foi mais mas na nao no nos o os ou para pela por que se sem "
    "um uma",
    "nl": "aan als bij dat de die een en er het hij ik in is met niet of om op te uit van voor was wat zijn",
}
STOPWORDS: dict[str, frozenset[str]] = {code: frozenset(words.split()) for code, words in _STOPWORDS.items()}
ENGLISH_STOPWORDS = STOPWORDS["en"]

_SCRIPTS = (
    (0x0370, 0x03FF, "el"),
    (0x0400, 0x04FF, "ru"),
    (0x0590, 0x05FF, "he"),
    (0x0600, 0x06FF, "ar"),
    (0x0900, 0x097F, "hi"),
    (0x0E00, 0x0E7F, "th"),
    (0x3040, 0x30FF, "ja"),
    (0xAC00, 0xD7AF, "ko"),
    (0x4E00, 0x9FFF, "zh"),
)


@lru_cache(maxsize=1)
def general_words() -> frozenset[str]:
    """Everyday English words (the frequency list that SymSpell ships): no typos, even if no catalogue holds them."""
    source = resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    with source.open(encoding="utf-8-sig") as lines:
        return frozenset(line.split(" ", 1)[0] for line in lines)


_local = threading.local()


@lru_cache(maxsize=65536)
def stem(token: str) -> str:
    """Snowball English stem of a folded token; a token of another script comes back as it is."""
    if not token.isascii() or len(token) > 40:
        return token
    if not hasattr(_local, "stemmer"):  # a stemmer keeps state between calls, so each thread has its own
        _local.stemmer = snowballstemmer.stemmer("english")
    return str(_local.stemmer.stemWord(token))


def guess_language(normalized: str, tokens: tuple[str, ...]) -> str:
    """ISO 639-1 code by script, else the language that alone has the most stopwords in the text; "und" when unsure."""
    scripts: dict[str, int] = {}
    if not normalized.isascii():
        for char in normalized:
            point = ord(char)
            for low, high, code in _SCRIPTS:
                if low <= point <= high:
                    scripts[code] = scripts.get(code, 0) + 1
                    break
    if scripts:
        if "ja" in scripts:  # Japanese mixes kana with Han characters; Chinese has no kana
            return "ja"
        code, hits = max(scripts.items(), key=lambda entry: entry[1])
        if 2 * hits >= sum(not c.isspace() for c in normalized):
            return code
    counts = sorted(((len(words.intersection(tokens)), code) for code, words in STOPWORDS.items()), reverse=True)
    (most, code), (second, _) = counts[0], counts[1]
    return code if most > second else "und"
