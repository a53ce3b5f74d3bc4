"""Genres, moods and instruments of the sample catalogue, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Genre:
    """A genre and the parameters from which its artists and recordings are drawn."""

    name: str
    moods: tuple[str, ...]
    instruments: tuple[str, ...]
    first: int
    """First year of its recordings."""
    piece: str
    """Word for one recording."""
    near: tuple[str, ...]
    """Genres that its artists also play."""
    weight: int = 3
    """Share of the artists."""

    @property
    def word(self) -> str:
        """The genre inside a sentence."""
        return self.name if self.name in ("R&B", "Latin") else self.name.lower()


def _genre(
    name: str, moods: str, instruments: str, first: int, piece: str, near: str, weight: int = 3
) -> tuple[str, Genre]:
    split = [tuple(part.strip() for part in text.split(",")) for text in (moods, instruments, near)]
    return name, Genre(name, split[0], split[1], first, piece, split[2], weight)


GENRES: dict[str, Genre] = dict(
    (
        _genre("Pop", "Happy, Love, Party, Summer", "Synth, Guitar, Drums, Piano", 1965, "song", "Synthpop, R&B", 6),
        _genre("Rock", "Energetic, Road Trip, Angry", "Guitar, Drums, Bass, Organ", 1965, "song", "Blues, Indie", 6),
        _genre("Indie", "Dreamy, Nostalgic, Sad", "Guitar, Drums, Synth, Piano", 1985, "song", "Rock, Folk, Pop", 5),
        _genre("Folk", "Calm, Nostalgic, Hopeful", "Guitar, Fiddle, Banjo, Harmonica", 1960, "song", "Country", 4),
        _genre(
            "Jazz", "Late Night, Calm, Romantic", "Saxophone, Piano, Trumpet, Bass", 1955, "piece", "Soul, Blues", 5
        ),
        _genre("Blues", "Sad, Late Night, Nostalgic", "Guitar, Harmonica, Piano, Organ", 1955, "song", "Rock, Soul"),
        _genre("Soul", "Love, Romantic, Hopeful", "Organ, Trumpet, Bass, Strings", 1960, "song", "R&B, Funk"),
        _genre("Funk", "Party, Happy, Energetic", "Bass, Guitar, Trumpet, Drums", 1968, "groove", "Soul, Disco"),
        _genre("Disco", "Party, Happy, Romantic", "Strings, Bass, Drums, Synth", 1974, "track", "Funk, House"),
        _genre("Synthpop", "Nostalgic, Dreamy, Romantic", "Synth, Drum Machine, Bass", 1979, "song", "Pop", 4),
        _genre("Electronic", "Energetic, Dreamy, Focus", "Synth, Drum Machine", 1978, "track", "House, Ambient", 4),
        _genre("House", "Party, Energetic, Summer", "Drum Machine, Synth, Piano", 1986, "track", "Disco, Techno"),
        _genre("Techno", "Energetic, Dark, Workout", "Drum Machine, Synth", 1988, "track", "House, Electronic"),
        _genre("Ambient", "Calm, Sleep, Focus, Dreamy", "Synth, Piano, Strings", 1976, "piece", "Electronic"),
        _genre(
            "Classical", "Calm, Focus, Sad, Romantic", "Piano, Strings, Cello, Flute", 1958, "piece", "Soundtrack", 4
        ),
        _genre("Hip Hop", "Energetic, Workout, Party", "Drum Machine, Bass, Synth", 1984, "track", "R&B, Soul", 5),
        _genre("R&B", "Love, Romantic, Late Night", "Synth, Bass, Piano, Drum Machine", 1980, "song", "Soul, Pop", 4),
        _genre("Country", "Road Trip, Nostalgic, Love", "Guitar, Fiddle, Banjo, Pedal Steel", 1960, "song", "Folk", 4),
        _genre("Metal", "Angry, Dark, Energetic, Workout", "Guitar, Drums, Bass", 1975, "song", "Rock, Punk"),
        _genre("Punk", "Angry, Energetic, Party", "Guitar, Bass, Drums", 1976, "song", "Rock, Indie"),
        _genre("Reggae", "Summer, Happy, Calm", "Bass, Organ, Guitar, Drums", 1968, "song", "Soul, Latin"),
        _genre("Latin", "Party, Romantic, Summer", "Guitar, Trumpet, Drums, Accordion", 1960, "song", "Jazz, Pop", 4),
        _genre("Lo-Fi", "Focus, Calm, Rainy Day, Late Night", "Piano, Drum Machine, Guitar", 2012, "track", "Jazz"),
        _genre(
            "Soundtrack", "Dreamy, Dark, Hopeful, Focus", "Strings, Piano, Cello, Synth", 1960, "piece", "Classical"
        ),
    )
)
WORDLESS = frozenset(("Ambient", "Classical", "Lo-Fi", "Soundtrack", "Techno"))
"""Genres mostly without singing."""

MOODS: dict[str, tuple[str, ...]] = {
    "Happy": ("happy", "bright", "cheerful"),
    "Sad": ("sad", "heartbroken", "mournful"),
    "Love": ("tender", "lovestruck", "warm-hearted"),
    "Romantic": ("romantic", "candlelit", "swooning"),
    "Calm": ("calm", "gentle", "unhurried"),
    "Energetic": ("energetic", "restless", "headlong"),
    "Dreamy": ("dreamy", "hazy", "floating"),
    "Dark": ("dark", "brooding", "shadowy"),
    "Angry": ("angry", "furious", "raucous"),
    "Nostalgic": ("nostalgic", "wistful", "bittersweet"),
    "Hopeful": ("hopeful", "uplifting", "quietly brave"),
    "Late Night": ("late-night", "smoky", "after-hours"),
    "Rainy Day": ("rainy-day", "rain-soaked", "grey-skied"),
    "Summer": ("summery", "sun-drenched", "breezy"),
    "Party": ("party-ready", "glittering", "danceable"),
    "Workout": ("relentless", "driving", "high-tempo"),
    "Focus": ("hypnotic", "steady", "spacious"),
    "Sleep": ("sleepy", "hushed", "weightless"),
    "Road Trip": ("wide-open", "windows-down", "rolling"),
}
"""Mood -> wordings in sentences."""

INSTRUMENTS: dict[str, tuple[str, ...]] = {
    "Piano": ("a lone piano", "soft piano chords", "an old upright piano"),
    "Guitar": ("fingerpicked guitar", "a ringing guitar", "two guitars in conversation"),
    "Drums": ("brushed drums", "thundering drums", "a loose drum groove"),
    "Bass": ("a walking bass", "a rubbery bass line", "deep bass"),
    "Synth": ("glassy synths", "a warm analogue synth", "shimmering synth arpeggios"),
    "Drum Machine": ("a ticking drum machine", "a dusty drum machine", "crisp drum machine beats"),
    "Organ": ("a humming organ", "a church organ"),
    "Saxophone": ("a breathy saxophone", "a wandering saxophone"),
    "Trumpet": ("a muted trumpet", "bold trumpets"),
    "Strings": ("sweeping strings", "a small string section"),
    "Cello": ("a single cello", "low cello lines"),
    "Flute": ("a silvery flute", "a wooden flute"),
    "Fiddle": ("a dancing fiddle", "twin fiddles"),
    "Banjo": ("a rolling banjo", "a plucked banjo"),
    "Harmonica": ("a lonesome harmonica", "a wailing harmonica"),
    "Pedal Steel": ("a weeping pedal steel", "a distant pedal steel"),
    "Accordion": ("a street-corner accordion", "a sighing accordion"),
}
"""Instrument -> wordings in sentences."""
LOUD: dict[str, tuple[str, ...]] = {
    "Guitar": ("a wall of guitars", "a snarling guitar", "two duelling guitars"),
    "Drums": ("galloping drums", "thundering drums"),
    "Bass": ("a growling bass", "deep bass"),
}
"""The same for Metal and Punk."""
