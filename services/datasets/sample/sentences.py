"""Descriptions of the sample catalogue's items."""

from __future__ import annotations

from collections.abc import Sequence

from services.datasets.sample.draws import Draws
from services.datasets.sample.genres import GENRES, INSTRUMENTS, LOUD, MOODS
from services.datasets.sample.words import HALLS, PLACES, Theme

_TRACK = (
    "{A_mood} {genre} {piece} about {about}, carried by {instrument}.",
    "{Instrument} and a {voice} turn {about} into something {mood}.",
    "{artist} on {about}, over {instrument}; {mood} from the first bar to the last.",
    "{A_mood} {piece} about {about}. {Instrument}, and not much else.",
    "It starts with {instrument} and ends with {about}: {genre} at its most {mood}.",
    "The {mood} side of {artist}: {instrument}, {about}, and no hurry at all.",
)
_WORDLESS = (
    "{A_mood} {genre} {piece} without words, after {about}, carried by {instrument}.",
    "{Instrument}, and {about}, in {minutes} {mood} minutes.",
    "{A_mood} {piece} for {instrument}, inspired by {about}.",
    "{artist} calls it a picture of {about}; listeners call it {mood} {genre}.",
)
_TRACK_MORE = (
    *("Recorded in one take at {hall}.", "The quiet centre of {album}.", "A favourite at weddings in {place}.", ""),
    *(
        "Best heard with headphones and the lights off.",
        "A late-summer hit in {year}.",
        "Listeners asked for it for years.",
    ),
    *("The chorus arrives late and stays for days.", "Written on the back of a train ticket near {place}.", "", ""),
)
_ARTIST = (
    "{A_mood} {genre} act from {place}, on stages since {year} with {piece}s about {about}.",
    "From {place}: {mood} {genre} built on {instrument}. {artist} began in {year} with {piece}s about {about}.",
    "{genre_} with {instrument} and a taste for {about}. {artist} started out in {year} in {place}.",
    "{artist}: {mood} {genre}, long evenings at {hall}, and {piece}s that keep returning to {about}.",
)
_ALBUM = (
    "{A_mood} {genre} album circling around {about}, with {instrument} at its heart.",
    "{artist} recorded these {count} {piece}s in {place}: {mood}, generous and full of {instrument}.",
    "{count_} {piece}s about {about}. {A_mood} record that {artist} made at {hall}.",
    "The {year} album on which {artist} traded certainty for {instrument} and thought about {about}.",
)
_LIVE = (
    "{artist} at {hall} in {year}: the best-loved {piece}s, longer, louder and with the audience singing along.",
    "A live recording from {hall}: {mood} {genre} by {artist}, as if nobody had asked for it to stop.",
)


def _a(phrase: str) -> str:
    return ("An " if phrase[0] in "aeiou" else "A ") + phrase


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


_NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}


def describe(
    draws: Draws,
    kind: str,
    artist: str,
    genre: str,
    moods: Sequence[str],
    instruments: Sequence[str],
    theme: Theme,
    year: int,
    album: str = "",
    count: int = 5,
    hall: str = "",
) -> str:
    """One or two sentences about a track, wordless track, album, live album or artist."""
    mood = draws.pick(MOODS[moods[0]])
    sounds = LOUD if genre in ("Metal", "Punk") else INSTRUMENTS
    instrument = draws.pick(sounds[instruments[0]] if instruments[0] in sounds else INSTRUMENTS[instruments[0]])
    values = {
        "artist": artist,
        "mood": mood,
        "A_mood": _a(mood),
        "genre": GENRES[genre].word,
        "genre_": genre,
        "piece": GENRES[genre].piece,
        "about": draws.pick(theme.about),
        "instrument": instrument,
        "Instrument": _upper(instrument),
        "voice": draws.pick(("worn voice", "whispered vocal", "choir of friends", "clear high voice")),
        "minutes": _NUMBERS[draws.between(3, 7)],
        "place": draws.pick(PLACES),
        "hall": hall or draws.pick(HALLS),
        "year": year,
        "album": album,
        "count": _NUMBERS[count],
        "count_": _upper(_NUMBERS[count]),
    }
    shapes = {"track": _TRACK, "wordless": _WORDLESS, "artist": _ARTIST, "album": _ALBUM, "live": _LIVE}[kind]
    text = draws.pick(shapes)
    if kind in ("track", "wordless"):
        text = f"{text} {draws.pick(_TRACK_MORE)}"
    return _upper(text.format_map(values)).strip()
