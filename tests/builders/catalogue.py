"""A tiny catalogue of music."""

from __future__ import annotations

from typing import Any

ARTISTS = ("Mira Holt", "The Paper Kites", "Juno Vale", "Nils Aster", "Ada & the Owls")
GENRES = ("Folk", "Jazz", "Rock", "Ambient")
WORDS = ("River", "Winter", "Lantern", "Harbour", "Garden", "Signal", "Orchard", "Marble", "Comet", "Meadow")


def track(number: int) -> dict[str, Any]:
    """Titles share words, so that a search for one of them has many matches; popularity falls with the number."""
    word, other = WORDS[number % 10], WORDS[(number // 10 + number) % 10]
    return {
        "id": f"t{number:03}",
        "title": f"{word} {other} Song" if number % 3 else f"{word} Song",
        "description": f"A slow song about a {other.lower()} and the people who lived beside it, number {number}.",
        "artist": ARTISTS[number % 5],
        "genres": [GENRES[number % 4]] + ([GENRES[(number + 1) % 4]] if number % 2 else []),
        "year": 1970 + number % 50,
        "released": f"{1970 + number % 50}-03-{1 + number % 28:02}",
        "popularity": 5000 - 7 * number,
    } | ({"bpm": 60 + number} if number % 2 else {})


TRACKS = [track(number) for number in range(120)]
