"""Text normalisation and tokenisation, shared by every part of the service. Pure."""

from __future__ import annotations

import re
import unicodedata

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def normalize(text: str) -> str:
    """`text` in Unicode form NFKC, case-folded, without control characters, with single spaces; accents stay.

    Linear in the length of `text`.
    """
    text = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    if not text.isprintable():  # exactly: something of category C or Z other than the plain space
        text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    return " ".join(text.split())


def fold(text: str) -> str:
    """`text` without accents, the form in which tokens are compared in indexes ("amélie" finds "amelie")."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def tokenize(text: str) -> list[str]:
    """Folded word tokens of `text`, possessives and apostrophes dropped: "Schindler's List" -> schindlers list."""
    folded = fold(normalize(text))
    tokens: list[str] = _TOKEN.findall(folded)
    if "'" in folded or "’" in folded:
        return [token.replace("'", "").replace("’", "") for token in tokens]
    return tokens
